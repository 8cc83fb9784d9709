"""Whether pruned means faster: the measured speed-up over the unpruned model against what the FLOPs promise.

A call of the pruned model counts as as much of the work as its share of the unpruned model's FLOPs, so the ratio is the
measured speed-up by the promised one; its goal is 0.95.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.speed import models
from benchmarks.speed.frame import Cases, Comparison, Options, Variant
from effir_dist.models.pruning import PruningPlan

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder

GOAL = {"unpruned": 0.95}
LENGTHS = {"documents": 256, "queries": 16}


def comparisons(options: Options) -> Iterator[Comparison]:
    """Dropped MLPs and blocks, and widths that suit the hardware and that do not, of documents and of queries."""
    for name in ("qwen3-9m",) if options.small else ("minilm", "qwen3-40m"):
        for kind in LENGTHS:
            yield from _of_model(name, kind, options)


def gpu_cases(options: Options) -> Cases:
    """Decoders of random weights, their first two plans: each shape of a block is compiled, which takes most of the
    time."""
    shapes = ("qwen3-0.6b", "llama-3.2-1b")
    return {name: functools.partial(_of_model, name, "documents", options, 2) for name in shapes}


def _of_model(name: str, kind: str, options: Options, most: int | None = None) -> Iterator[Comparison]:
    whole = _model(name, options)
    for plan_name, plan in list(_plans(whole.model_config).items())[:most]:
        pruned = _model(name, options, plan)
        yield _comparison(f"{name}, {plan_name}", kind, LENGTHS[kind], whole, pruned, options)


def _plans(config: Mapping[str, Any]) -> dict[str, PruningPlan]:
    every, full = range(config["num_hidden_layers"]), config["intermediate_size"]
    odd = tuple((block, full // 2 - 37 - 2 * block) for block in every)
    return {
        "every second MLP dropped": PruningPlan(dropped_mlp=tuple(every[::2])),
        "all MLPs at half width": PruningPlan(widths=tuple((block, full // 2) for block in every)),
        "every second block dropped": PruningPlan(dropped_mlp=tuple(every[::2]), dropped_attention=tuple(every[::2])),
        "all MLPs near half width, odd": PruningPlan(widths=odd),
        "the same as multiples of 8": PruningPlan(widths=tuple((block, round(w / 8) * 8) for block, w in odd)),
        "the same as multiples of 64": PruningPlan(widths=tuple((block, round(w / 64) * 64) for block, w in odd)),
    }


def _model(name: str, options: Options, plan: PruningPlan | None = None) -> Encoder:
    """The model, pruned; which neurons stay makes no difference to the time."""
    from effir_dist.models.encoder import prune_encoder

    if name != "minilm":
        return models.shaped(name, options, plan)
    encoder = models.minilm(options)
    scores = np.zeros((encoder.model_config["num_hidden_layers"], encoder.model_config["intermediate_size"]))
    return prune_encoder(encoder, plan, scores) if plan else encoder


def _comparison(label: str, kind: str, length: int, whole: Encoder, pruned: Encoder, options: Options) -> Comparison:
    from effir_dist.models.flops import count_flops

    count = max(4, (65_536 if options.gpu and not options.small else 2_048) // length)
    texts = [("word " * (length - 2)).strip()] * count if "minilm" in label else models.letters(count, length)
    tokens = whole.tokenize(texts, "document")
    work = {e: count_flops(e.model_config, tokens.lengths, e.plan) for e in (whole, pruned)}

    def encoding(encoder: Encoder) -> Variant:
        share = work[encoder] / work[whole]
        return Variant(lambda: encoder.encode_tokens(tokens, compiled=options.compiled), share)

    variants = {"pruned": encoding(pruned), "unpruned": encoding(whole)}
    facts = {"promised speed-up": work[whole] / work[pruned]}
    name = f"{label}, {options.dtype}, {count} {kind} of {tokens.lengths.mean():.0f} tokens"
    return Comparison(name, variants, count, kind, GOAL, flops=work[whole], facts=facts)
