"""Folders as sentence-transformers itself saves them, one of each kind of model that people have."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.tiny import tiny_checkpoint

PROMPTS = {"query": "Query: ", "document": "Text: "}
MODES = {"cls": "cls", "mean": "mean", "last": "lasttoken", "max": "max", "weighted_mean": "weightedmean"}
"""Our pooling -> sentence-transformers' mode."""


def _saved(
    folder: Path,
    family: str = "bert",
    pooling: str = "mean",
    more: Iterable[Any] = (),
    normalize: bool = True,
    include_prompt: bool = True,
    tokenizer: Callable[[Any], None] | None = None,
    **options: Any,
) -> Path:
    """Save a SentenceTransformer of a tiny model with these modules and options, beside its checkpoint."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    transformer = Transformer(str(tiny_checkpoint(folder / "bare", family)), max_seq_length=48)
    if tokenizer:
        tokenizer(transformer.tokenizer)
    modules = [transformer, Pooling(32, MODES[pooling], include_prompt), *more, *([Normalize()] if normalize else [])]
    SentenceTransformer(modules=modules, device="cpu", **options).save(str(folder / "st"))
    return folder / "st"


def _dense(*sizes: int) -> list[Any]:
    """Layers of these sizes, as EmbeddingGemma has them, with an activation and a bias of every kind."""
    import torch
    from sentence_transformers.base.modules import Dense

    torch.manual_seed(1)
    shapes = list(itertools.pairwise(sizes))
    activations = [torch.nn.Identity(), torch.nn.Tanh(), torch.nn.GELU()]
    return [Dense(a, b, bool(n % 2), activations[n % 3]) for n, (a, b) in enumerate(shapes)]


def _left(tokenizer: Any) -> None:
    tokenizer.padding_side, tokenizer.pad_token = "left", "<eos>"


def _adds_eos(tokenizer: Any) -> None:
    from tokenizers import processors

    _left(tokenizer)
    token = ("<eos>", tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("$A <eos>", special_tokens=[token])


KINDS: dict[str, dict[str, Any]] = {
    "cls": {"pooling": "cls"},
    "mean": {"prompts": PROMPTS},
    "max": {"pooling": "max", "normalize": False, "similarity_fn_name": "dot"},
    "weighted mean": {"pooling": "weighted_mean", "prompts": PROMPTS},
    "last token": {"family": "llama", "pooling": "last", "tokenizer": _adds_eos, "prompts": PROMPTS},
    "left-padded decoder": {"family": "qwen2", "tokenizer": _left, "prompts": {"query": "q: "}},
    "left-padded decoder's last": {"family": "llama", "pooling": "last", "tokenizer": _left},
    "without the prompt's tokens": {"include_prompt": False, "prompts": PROMPTS},
    "cls without the prompt's": {"include_prompt": False, "prompts": PROMPTS, "pooling": "cls"},
    "max without the prompt's": {"include_prompt": False, "prompts": PROMPTS, "pooling": "max"},
    "weighted mean without the prompt's": {
        "include_prompt": False,
        "prompts": PROMPTS,
        "pooling": "weighted_mean",
        "family": "llama",
        "tokenizer": _left,
    },
    "passage": {"prompts": {"query": "query: ", "passage": "passage: "}},
    "default prompt": {"prompts": {"own": "o: "}, "default_prompt_name": "own"},
    "two dense": {"more": (32, 64, 24), "normalize": True},
    "dense, dot": {"more": (32, 32, 40, 16), "normalize": False, "similarity_fn_name": "dot", "pooling": "cls"},
    "truncated": {"truncate_dim": 12},
    "truncated dense": {"more": (32, 40), "truncate_dim": 8, "normalize": False},
    "not normalised": {"normalize": False, "similarity_fn_name": "dot"},
    "normalised, dot": {"similarity_fn_name": "dot"},
    "EmbeddingGemma": {
        "family": "bidirectional-gemma3",
        "prompts": {"query": "task: search result | query: ", "document": "title: none | text: "},
        "tokenizer": _adds_eos,
        "more": (32, 96, 32),
    },
    "bidirectional decoder": {"family": "bidirectional-mistral", "tokenizer": _left, "prompts": PROMPTS},
    "all at once": {
        "family": "llama",
        "pooling": "weighted_mean",
        "include_prompt": False,
        "prompts": PROMPTS,
        "tokenizer": _adds_eos,
        "more": (32, 40, 24),
        "truncate_dim": 20,
    },
}
"""Name -> how it is made."""


def made(folder: Path, kind: str) -> Path:
    """Save the folder of a kind; returns its path."""
    options = dict(KINDS[kind])
    return _saved(folder, **(options | ({"more": _dense(*options["more"])} if "more" in options else {})))


def rewritten(folder: Path, file: str, **values: Any) -> None:
    """Set values in a JSON file of a folder; None removes one."""
    tree = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    kept = {key: value for key, value in (tree | values).items() if value is not None}
    (folder / file).write_text(json.dumps(kept))
