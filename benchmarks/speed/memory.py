"""Memory of a training on a GPU: predicted by `training.memory` against measured, stage by stage; on a GPU only.

All texts have their full length, which is what the prediction supposes. GradCache's rows: 8,192 pairs in chunks of 64,
against a batch of 64.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from benchmarks.speed import trained as models
from benchmarks.speed.frame import Cases, Comparison, Options, Variant
from benchmarks.speed.machine import allocated
from benchmarks.speed.training import Case, made, ours

QWEN = "qwen3-0.6b"
EVERYTHING = {"lora_rank": 16, "gradient_checkpointing": True, "zero_stage": 3}
GPU = {
    "minilm": Case("minilm", "minilm", 64, 1, {}, length=64),
    "minilm, 8192 pairs in chunks": Case(
        "minilm, chunks of 64", "minilm", 8192, 1, {"gradcache_queries": 64}, length=64
    ),
    f"{QWEN}, one process": Case(f"{QWEN}'s shape", QWEN, 16, 1, {}),
    f"{QWEN}, ZeRO 2": Case(f"{QWEN}'s shape, ZeRO 2", QWEN, 16, 1, {"zero_stage": 2}),
    f"{QWEN}, ZeRO 3": Case(f"{QWEN}'s shape, ZeRO 3", QWEN, 16, 1, {"zero_stage": 3}),
    f"{QWEN}, chunks": Case(f"{QWEN}'s shape, chunks of 16", QWEN, 64, 1, {"gradcache_queries": 16}),
    f"{QWEN}, checkpointing": Case(f"{QWEN}'s shape, checkpointing", QWEN, 64, 1, {"gradient_checkpointing": True}),
    f"{QWEN}, LoRA": Case(f"{QWEN}'s shape, LoRA", QWEN, 16, 1, {"lora_rank": 16}),
    f"{QWEN}, LoRA and more": Case(f"{QWEN}'s shape, LoRA, checkpointing, ZeRO 3", QWEN, 64, 1, EVERYTHING),
}
"""A case of a GPU -> what is trained in it, one step of it."""


def comparisons(options: Options) -> Iterator[Comparison]:
    """None: a CPU's memory is not predicted."""
    return iter(())


def gpu_cases(options: Options) -> Cases:
    """A row each; it has no ratio of speeds: its numbers are bytes."""
    return {name: functools.partial(_alone, case, options) for name, case in GPU.items()}


def _alone(case: Case, options: Options) -> Iterator[Comparison]:
    before = allocated()
    with models.scratch() as folder:
        case = made(case, Path(folder), options)
        with ours(case, options, models.long_pairs(case.batch)) as (step, facts):
            yield Comparison(
                name=f"{case.name}, {case.batch} pairs of {2 * case.length} tokens, {options.dtype}",
                variants={"measured": Variant(lambda: measured(step, before))},
                amount=case.batch,
                unit="pairs",
                facts={**facts, "predicted_bytes": predicted(case, options)},
            )


def measured(step: Variant, before: int) -> dict[str, float]:
    """The most that was allocated in one step, and reserved, less what was held before; of a CPU nothing."""
    import torch

    step.run()
    if not torch.cuda.is_available():
        return {}
    return {
        "bytes": float(torch.cuda.max_memory_allocated() - before),
        "reserved_bytes": float(torch.cuda.max_memory_reserved() - before),
    }


def predicted(case: Case, options: Options) -> float:
    """By the formula that `--dry-run` warns with."""
    from effir_dist.core.config import replace
    from effir_dist.core.settings import RunConfig
    from effir_dist.models import pretrained
    from effir_dist.training.memory import predict

    lengths = {"model.max_query_length": case.length, "model.max_document_length": case.length}
    train = {f"train.{name}": value for name, value in case.changes.items()}
    config = replace(RunConfig(), {**lengths, **train, "train.batch_size": case.batch})
    return predict(pretrained.find("", case.folder).config, config, options.dtype).peak
