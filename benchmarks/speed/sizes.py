"""Curves: what a passage costs as the corpus grows, and as the model does, beside the machine's matrix product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks.speed import models
from benchmarks.speed.frame import Comparison, Options, Variant

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder

TOKENS = 256


def comparisons(options: Options) -> Iterator[Comparison]:
    """Corpora of MiniLM; then models of random weights."""
    counts = (8, 16) if options.small else (100, 1_000, 10_000) if options.gpu else (4, 16, 64)
    encoder = models.minilm(options)
    for count in counts:
        yield _cost(f"all-MiniLM-L6-v2, corpus of {count}", encoder, models.passages(count), options)
    del encoder
    shapes = ("qwen2.5-1.5b", "bert-base", "qwen3-40m") if options.gpu else ("qwen3-9m", "qwen3-40m", "bert-base")
    for shape in shapes[:1] if options.small and not options.gpu else shapes:
        texts = models.letters(512 if options.gpu else 8, TOKENS)
        yield _cost(f"{shape}, random weights", models.shaped(shape, options), texts, options)


def _cost(label: str, encoder: Encoder, texts: list[str], options: Options) -> Comparison:
    from effir_dist.models.flops import count_flops
    from effir_dist.models.pruning import count_parameters

    tokens = encoder.tokenize(texts, "document")
    flops = count_flops(encoder.model_config, tokens.lengths)
    variants = {
        "ours": Variant(lambda: encoder.encode_tokens(tokens, compiled="always" if options.gpu else "never")),
        "matrix product": models.matrix_product(options, flops),
    }
    facts = {"parameters": count_parameters(encoder.model_config), "tokens": int(tokens.lengths.sum())}
    return Comparison(f"{label}, {options.dtype}", variants, len(texts), "passages", {}, flops=flops, facts=facts)
