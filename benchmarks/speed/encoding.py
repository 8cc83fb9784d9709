"""Encoding, from texts to vectors, against sentence-transformers, plain transformers and the matrix product."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.speed import models
from benchmarks.speed.frame import Cases, Comparison, Options, Variant

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder


def comparisons(options: Options) -> Iterator[Comparison]:
    """MiniLM."""
    yield _comparison("all-MiniLM-L6-v2", models.minilm(options), models.passages(8 if options.small else 64), options)


def gpu_cases(options: Options) -> Cases:
    """Decoders of random weights, and MiniLM."""
    shapes = {"qwen3-0.6b": 512, "smollm2": 1024}
    cases = {name: functools.partial(_of_shape, name, count, options) for name, count in shapes.items()}
    return {**cases, "minilm": functools.partial(_of_minilm, options)}


def _of_shape(name: str, count: int, options: Options) -> Iterator[Comparison]:
    texts = models.letters(8, 32) if options.small else models.letters(count, 256)
    yield _comparison(f"{name}, random weights", models.shaped(name, options), texts, options)


def _of_minilm(options: Options) -> Iterator[Comparison]:
    count = 8 if options.small else 4096
    yield _comparison("all-MiniLM-L6-v2", models.minilm(options), models.passages(count), options)


def _comparison(name: str, encoder: Encoder, texts: list[str], options: Options) -> Comparison:
    from effir_dist.models.flops import count_flops

    tokens = encoder.tokenize(texts, "document")
    flops = count_flops(encoder.model_config, tokens.lengths)
    theirs, facts = _theirs(encoder, texts, options)

    def ours(compiled: str, batch_tokens: int = 0) -> Variant:
        return Variant(lambda: _finite(encoder.encode(texts, "document", batch_tokens, compiled)))

    variants = {
        "ours": ours(options.compiled),
        **theirs,
        "plain transformers": Variant(lambda: models.plain_transformers(encoder, texts)),
        "matrix product": models.matrix_product(options, flops),
    }
    if options.gpu:
        variants["ours, not compiled"] = ours("never")
    else:
        variants["ours, packed"] = Variant(lambda: _finite(_packed(encoder, texts)))
        variants["ours, batches of 4096 tokens"] = ours("never", 4096)
    wanted = (1.5,) if options.gpu else (6.0, 1.5)
    goals = {**dict(zip(theirs, wanted, strict=False)), "matrix product": 0.5}
    label = f"{name}, {options.dtype}, {len(texts)} passages of {tokens.lengths.mean():.0f} tokens"
    return Comparison(label, variants, len(texts), "passages", goals, flops=flops, facts=facts)


def _theirs(encoder: Encoder, texts: list[str], options: Options) -> tuple[dict[str, Variant], dict[str, Any]]:
    """sentence-transformers as it comes and at its best batch; nothing where it is not installed."""
    try:
        sentences = models.sentence_model(encoder, options)
    except ImportError:
        return {}, {}
    # On a CPU sentence-transformers computes in float32 unless it is told otherwise.
    untold = sentences if options.gpu else models.sentence_model(encoder, options, "float32")
    best = 256 if options.gpu else 8

    def variant(model: Any, batch: int) -> Variant:
        return Variant(lambda: model.encode(texts, batch_size=batch, normalize_embeddings=True))

    variants = {
        "sentence-transformers, its defaults": variant(untold, 32),
        f"sentence-transformers, {options.dtype}, batches of {best}": variant(sentences, best),
    }
    return variants, {"least cosine with sentence-transformers": _agreement(encoder, sentences, texts[:64])}


def _packed(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """Without padding, which is not done on a CPU. [N, D] in the order of batches"""
    import torch

    from effir_dist.models import encoding, packed
    from effir_dist.models.grouping import within

    tokens = encoder.tokenize(texts, "document")
    plan = within(tokens.lengths, encoding.CPU_TOKENS)
    with torch.inference_mode(), packed.attention(encoder.backbone):
        found = [encoding.encode_packed(encoder, packed.pack(tokens, indices, encoder.device)) for indices in plan]
    return torch.cat(found).numpy()


def _finite(vectors: np.ndarray) -> None:
    if not np.isfinite(vectors).all():
        raise ArithmeticError("embeddings are not finite")


def _agreement(encoder: Encoder, sentences: Any, texts: list[str]) -> float:
    """The least cosine of a text's two embeddings; of models that pool alike, else not a number."""
    if encoder.settings.pooling != "mean":
        return float("nan")
    return float((encoder.encode(texts) * sentences.encode(texts, normalize_embeddings=True)).sum(1).min())
