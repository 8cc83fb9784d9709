"""Curves: what a passage costs as the corpus grows, and as the model does, beside the machine's matrix product."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks.speed import models
from benchmarks.speed.frame import Cases, Comparison, Options, Variant

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder

TOKENS = 256


def comparisons(options: Options) -> Iterator[Comparison]:
    """Corpora of MiniLM; then models of random weights."""
    yield from _of_minilm((8, 16) if options.small else (4, 16, 64), options)
    for shape in ("qwen3-9m",) if options.small else ("qwen3-9m", "qwen3-40m", "bert-base"):
        yield from _of_shape(shape, 8, options)


def gpu_cases(options: Options) -> Cases:
    """The same of larger corpora and models."""
    counts = (8, 16) if options.small else (100, 1_000, 10_000)
    shapes = ("qwen2.5-1.5b", "bert-base")
    cases = {shape: functools.partial(_of_shape, shape, 8 if options.small else 512, options) for shape in shapes}
    return {**cases, "minilm": functools.partial(_of_minilm, counts, options)}


def _of_minilm(counts: tuple[int, ...], options: Options) -> Iterator[Comparison]:
    encoder = models.minilm(options)
    for count in counts:
        yield _cost(f"all-MiniLM-L6-v2, corpus of {count}", encoder, models.passages(count), options)


def _of_shape(shape: str, count: int, options: Options) -> Iterator[Comparison]:
    texts = models.letters(count, TOKENS)
    yield _cost(f"{shape}, random weights", models.shaped(shape, options), texts, options)


def _cost(label: str, encoder: Encoder, texts: list[str], options: Options) -> Comparison:
    from effir_dist.models.flops import count_flops
    from effir_dist.models.pruning import count_parameters

    tokens = encoder.tokenize(texts, "document")
    flops = count_flops(encoder.model_config, tokens.lengths)
    variants = {
        "ours": Variant(lambda: encoder.encode_tokens(tokens, compiled=options.compiled)),
        "matrix product": models.matrix_product(options, flops),
    }
    facts = {"parameters": count_parameters(encoder.model_config), "tokens": int(tokens.lengths.sum())}
    return Comparison(f"{label}, {options.dtype}", variants, len(texts), "passages", {}, flops=flops, facts=facts)
