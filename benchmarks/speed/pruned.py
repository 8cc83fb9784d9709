"""Whether pruned means faster: the measured speed-up over the unpruned model against what the FLOPs promise.

A call of the pruned model counts as as much of the work as its share of the unpruned model's FLOPs, so the ratio is the
measured speed-up by the promised one; its goal is 0.95.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

from benchmarks.speed import models
from benchmarks.speed.frame import Cases, Comparison, Options, Variant
from effir_dist.models.pruning import PruningPlan, make_plan

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder
    from effir_dist.models.tokens import Tokens

GOAL = {"unpruned": 0.95}
LENGTHS = {"documents": 256, "queries": 16}
TOKENS = {"documents": 2560, "queries": 1024}
"""Of a call on a CPU: so many that an encoding of documents prepares its linear layers."""
MISSION = ("every second MLP dropped", "all MLPs at half width", "a mixture of widths, multiples of 64")
WAYS = ("", " not compiled", " not compiled with liger-kernel")
"""How a GPU computes, behind the model's name."""
OTHERS = ("every second block dropped", "all MLPs near half width, odd", "the same as multiples of 8")


def comparisons(options: Options) -> Iterator[Comparison]:
    """MLPs dropped and widths that suit the hardware, of documents and of queries; then what else a plan may do, of the
    smallest model."""
    names = ["qwen3-9m"] if options.small else list(models.there("smollm2", "mpnet", "minilm"))
    for kind in LENGTHS:
        for name in names:
            yield from _of_model(name, kind, options, MISSION)
    for kind in LENGTHS:
        for name in names[-1:]:
            yield from _of_model(name, kind, options, OTHERS)


def gpu_cases(options: Options) -> Cases:
    """Decoders of random weights: compiled, which takes most of the time, as each shape of a block is; then not
    compiled, without liger-kernel and with it."""
    return {name: functools.partial(_of_shape, name, options) for name in ("qwen3-0.6b", "llama-3.2-1b")}


def _of_shape(name: str, options: Options) -> Iterator[Comparison]:
    yield from _of_model(name, "documents", options, MISSION[:2])
    for way in WAYS[1:]:
        yield from _of_model(name, "documents", options, MISSION[:1], way)


def _of_model(name: str, kind: str, options: Options, plans: Sequence[str], way: str = WAYS[0]) -> Iterator[Comparison]:
    whole = _model(name, options)
    for plan_name in plans:
        pruned = _model(name, options, _plan(plan_name, whole.model_config))
        yield _comparison(name, plan_name, kind, way, (whole, pruned), options)


def _plan(name: str, config: Mapping[str, Any]) -> PruningPlan:
    every, full = range(config["num_hidden_layers"]), config["intermediate_size"]
    widths = {
        "all MLPs at half width": [full // 2 for _ in every],
        "a mixture of widths, multiples of 64": [_multiple(full * (0.75 - 0.5 * i / every[-1]), 64) for i in every],
        "all MLPs near half width, odd": [full // 2 - 37 - 2 * block for block in every],
        "the same as multiples of 8": [_multiple(full // 2 - 37 - 2 * block, 8) for block in every],
    }
    dropped = tuple(every[::2])
    return {
        "every second MLP dropped": make_plan(config, dropped),
        "every second block dropped": make_plan(config, dropped, dropped),
        **{each: PruningPlan(widths=tuple(enumerate(found))) for each, found in widths.items()},
    }[name]


def _multiple(width: float, of: int) -> int:
    return round(width / of) * of


def _model(name: str, options: Options, plan: PruningPlan | None = None) -> Encoder:
    """The model, pruned; which neurons stay makes no difference to the time."""
    from effir_dist.models.encoder import prune_encoder

    if name in models.SHAPES and (options.gpu or name not in models.REAL):
        return models.shaped(name, options, plan)
    encoder = models.real(name, options)
    scores = np.zeros((encoder.model_config["num_hidden_layers"], encoder.model_config["intermediate_size"]))
    return prune_encoder(encoder, plan, scores) if plan else encoder


def _comparison(
    name: str, plan_name: str, kind: str, way: str, encoders: tuple[Encoder, Encoder], options: Options
) -> Comparison:
    """encoders: the unpruned and the pruned one."""
    from effir_dist.models.flops import count_flops

    length, (whole, pruned) = LENGTHS[kind], encoders
    real = name in models.REAL and not options.gpu
    count = max(4, (65_536 if options.gpu and not options.small else TOKENS[kind]) // length)
    texts = [("word " * (length - 2)).strip()] * count if real else models.letters(count, length)
    tokens = whole.tokenize(texts, "document")
    work = {e: count_flops(e.model_config, tokens.lengths, e.plan) for e in encoders}
    variants = {
        label: Variant(functools.partial(_encode, encoder, tokens, way, options), work[encoder] / work[whole])
        for label, encoder in (("pruned", pruned), ("unpruned", whole))
    }
    facts = {"promised speed-up": work[whole] / work[pruned]}
    label = f"{name}{way}, {plan_name}, {options.dtype}, {count} {kind} of {tokens.lengths.mean():.0f} tokens"
    return Comparison(label, variants, count, kind, GOAL, flops=work[whole], facts=facts)


def _encode(encoder: Encoder, tokens: Tokens, way: str, options: Options) -> None:
    """Once; without liger-kernel but where the way says so."""
    from effir_dist.models.kernels import fused_blocks

    if way == WAYS[-1]:
        kernels = fused_blocks.installed()
        if kernels is None and not options.small:
            raise ImportError("liger-kernel is not installed: pip install liger-kernel")
    else:
        kernels = None
    with mock.patch.object(fused_blocks, "installed", return_value=kernels):
        encoder.encode_tokens(tokens, compiled="never" if way != WAYS[0] else options.compiled)
