"""Whether a tokenizer is the model's: by the size of its vocabulary, and by what it makes of texts."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from effir_dist.core.errors import InputError
from effir_dist.models.families.base import ModelDict

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder

log = logging.getLogger(__name__)

LEAST_SHARE = 0.5
"""Of the embedding's rows that a vocabulary fills. Published ones fill 0.9 and more: the rest pads the matrix."""
MOST_UNKNOWN, SOME_UNKNOWN = 0.5, 0.1
"""Shares of unknown tokens with which a tokenizer is refused, and with which there is a warning."""
SINGLE_BYTES = 0.9
"""Tokens a byte of text with which a tokenizer is refused that knows more than bytes. English has about 0.25."""
LARGE = 2000
"""Tokens of a vocabulary that has learned pieces of words."""
LONGEST = 1000
"""Characters of a text that are looked at."""
ADVICE = "take the tokenizer's files (tokenizer.json, tokenizer_config.json) from where the model is from"


def check_size(tokenizer: Any, config: ModelDict, location: str) -> None:
    """Raises InputError where a vocabulary has tokens beyond the embedding's rows, or fills few of them.

    Special tokens may lie beyond: published tokenizers have some that no text contains.
    """
    vocabulary, rows = tokenizer.get_vocab(), int(config["vocab_size"])
    if len(vocabulary) < LEAST_SHARE * rows:
        raise InputError(
            f"the tokenizer of {location} has {len(vocabulary):,} tokens, and the model's embedding {rows:,}: files of "
            f"the tokenizer are missing, or it is another model's; {ADVICE}"
        )
    highest = max((i for i in vocabulary.values() if i not in tokenizer.added_tokens_decoder), default=0)
    if highest >= rows:
        raise InputError(
            f"the tokenizer of {location} has ids up to {highest:,}, and the model's embedding {rows:,} rows: it is "
            f"another model's; {ADVICE}"
        )


def check_texts(tokenizer: Any, config: ModelDict, location: str, texts: Sequence[str]) -> list[str]:
    """Refuse a tokenizer that knows little of texts: most of their tokens are unknown, most texts become none, or most
    bytes are tokens of their own, though it has learned more. Returns warnings. Raises InputError with an example."""
    shown = [text[:LONGEST] for text in texts if re.search(r"\w", text)]
    if not shown:
        return []
    rows = tokenizer(shown, add_special_tokens=False, verbose=False)["input_ids"]  # no warning that some are long
    _check_ids(rows, shown, config, location)
    unknown = [sum(i == tokenizer.unk_token_id for i in row) / len(row) if row else 1.0 for row in rows]
    share = sum(u * max(1, len(r)) for u, r in zip(unknown, rows, strict=True)) / sum(max(1, len(r)) for r in rows)
    worst = shown[max(range(len(shown)), key=unknown.__getitem__)][:60]
    told = f"the tokenizer of {location} does not know {share:.0%} of the data, such as {worst!r}"
    if share > MOST_UNKNOWN:
        raise InputError(f"{told}: it is another model's, or the model is for other languages; {ADVICE}")
    apiece = sum(map(len, rows)) / sum(len(text.encode("utf-8", "surrogatepass")) for text in shown)
    if len(tokenizer) > LARGE and apiece > SINGLE_BYTES:
        raise InputError(
            f"the tokenizer of {location} has {len(tokenizer):,} tokens and makes {apiece:.2f} of a byte of the data, "
            f"such as {len(rows[0])} of {shown[0][:60]!r}: its merges are missing, or the model is for other "
            f"languages; {ADVICE}"
        )
    return [told] if share > SOME_UNKNOWN else []


def check_encoder(encoder: Encoder, name: str, texts: Sequence[str]) -> None:
    """`check_texts` of a retriever that is loaded; warnings are logged."""
    for warning in check_texts(encoder.tokenizer, encoder.model_config, name, texts):
        log.warning(warning)


def _check_ids(rows: Sequence[Sequence[int]], texts: Sequence[str], config: ModelDict, location: str) -> None:
    size = int(config["vocab_size"])
    for row, text in zip(rows, texts, strict=True):
        if max(row, default=0) >= size:
            raise InputError(
                f"the tokenizer of {location} makes the id {max(row):,} of {text[:60]!r}, and the model's embedding "
                f"has {size:,} rows; {ADVICE}"
            )
