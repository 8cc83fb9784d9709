"""Mining of hard negatives: passages that rank high for a query and are no answer to it, with scores."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from effir_dist.core.errors import InputError
from effir_dist.evaluate.evaluation import encode_in_parts
from effir_dist.evaluate.exact import exact_search
from effir_dist.models import pretrained, weights

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder

Pairs = Sequence[tuple[str, str]]
Reranker = Callable[[Pairs], list[float]]
"""(Query, passage) texts -> a score each, higher is better."""


class Miner(Protocol):
    """Ranks a corpus for queries."""

    at_once: int
    """Queries that are ranked together: as many as a crash can lose."""

    def rank(self, queries: list[str], positives: list[list[int]], depth: int) -> list[Ranked]: ...


@dataclass(frozen=True)
class Ranked:
    """A miner's ranking for one query. Passages are indices in the corpus."""

    indices: np.ndarray  # [depth], best first
    scores: np.ndarray  # [depth]
    positives: np.ndarray  # scores of the query's positives


@dataclass(frozen=True)
class Mined:
    """Hard negatives of one query."""

    negatives: list[int]
    scores: list[float]
    """Of the positives, then of the negatives."""
    suspects: int
    """Passages left out because they may be answers."""


class Dense:
    """Ranking by a retriever's own similarities. Many vectors are in a file (TMPDIR) that goes with the process."""

    at_once = 16384
    """Queries that are ranked between two writes: for each such part all vectors are read."""

    def __init__(self, encoder: Encoder, passages: Sequence[str], batch_tokens: int = 0) -> None:
        self.encoder, self.batch_tokens = encoder, batch_tokens
        with tempfile.TemporaryDirectory(prefix="effir-vectors-") as folder:
            self.vectors = encode_in_parts(encoder, passages, batch_tokens, Path(folder) / "passages.npy")

    def rank(self, queries: list[str], positives: list[list[int]], depth: int) -> list[Ranked]:
        """The most similar `depth` passages of each query, and the similarities of its positives."""
        vectors = self.encoder.encode(queries, "query", self.batch_tokens)
        scores, indices = exact_search(vectors, self.vectors, depth)
        own = [self.vectors[answers] @ vector for vector, answers in zip(vectors, positives, strict=True)]
        return [Ranked(*row) for row in zip(indices, scores, own, strict=True)]


def choose(ranked: Ranked, positives: list[int], passages: Sequence[str], count: int, max_share: float) -> Mined:
    """The first `count` passages that are no answers.

    A passage that scores above `max_share` of the best positive's score may be an unmarked answer, and is left out
    (Moreira et al., 2024, "TopK-PercPos"). So is one with the text of a positive.
    """
    best = float(ranked.positives.max())
    limit = best - (1 - max_share) * abs(best)
    answers = {passages[index] for index in positives}
    known = set(positives)
    chosen: list[tuple[int, float]] = []
    suspects = 0
    for index, score in zip(ranked.indices.tolist(), ranked.scores.tolist(), strict=True):
        if len(chosen) == count:
            break
        if index in known:
            continue
        if score > limit or passages[index] in answers:
            suspects += 1
        else:
            chosen.append((index, score))
    scores = [*ranked.positives.tolist(), *(score for _, score in chosen)]
    return Mined([index for index, _ in chosen], scores, suspects)


def rerank(mined: Mined, query: str, positives: list[int], passages: Sequence[str], reranker: Reranker) -> Mined:
    """With the reranker's scores. Negatives that it ranks above every positive are left out as well."""
    indices = [*positives, *mined.negatives]
    scores = reranker([(query, passages[index]) for index in indices])
    own = scores[: len(positives)]
    kept = [(p, s) for p, s in zip(mined.negatives, scores[len(positives) :], strict=True) if s <= max(own)]
    suspects = mined.suspects + len(mined.negatives) - len(kept)
    return Mined([index for index, _ in kept], [*own, *(score for _, score in kept)], suspects)


def load_reranker(path: str, length: int, batch: int = 64) -> Reranker:
    """A cross-encoder with one output, in safetensors, from a folder or hub id for transformers.

    Raises InputError for others.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    from effir_dist.models.encoder import default_device, resolve_dtype

    weights.refuse_pickles(Path(path))
    try:
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=resolve_dtype("auto"), use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load the reranker {path!r}: {str(error).splitlines()[0]}") from None
    if model.config.num_labels != 1:
        raise InputError(f"the reranker {path!r} has {model.config.num_labels} outputs; a cross-encoder has 1")
    tokenizer = pretrained.load_tokenizer(path)
    model = model.to(default_device()).eval()

    def score(pairs: Pairs) -> list[float]:
        found: list[float] = []
        for start in range(0, len(pairs), batch):
            queries, texts = zip(*pairs[start : start + batch], strict=True)
            options = {"truncation": "only_second", "max_length": length, "padding": True, "return_tensors": "pt"}
            inputs = tokenizer(list(queries), list(texts), **options).to(model.device)
            with torch.inference_mode():
                found += model(**inputs).logits[:, 0].float().tolist()
        return found

    return score
