"""Memory of a training on a GPU: predicted by `training.memory` against measured, stage by stage; on a GPU only.

All texts have their full length, which is what the prediction supposes. The first two rows are GradCache's: 8,192 pairs
in chunks of 64 against a batch of 64.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

from benchmarks.speed import trained as models
from benchmarks.speed.frame import Comparison, Options, Variant
from benchmarks.speed.training import Case, ours


def cases(options: Options, folder: Path) -> Iterator[Case]:
    """What is trained, one step each."""
    minilm = models.minilm(folder)
    yield Case("minilm", minilm, 64, 1, {}, length=64)
    yield Case("minilm, chunks of 64", minilm, 256 if options.small else 8192, 1, {"gradcache_queries": 64}, length=64)
    sizes = {"num_hidden_layers": 2, "vocab_size": 30522} if options.small else {}
    qwen = models.random_model("qwen3-0.6b", folder, options.device, **sizes)
    for stage in range(4):
        yield Case(f"qwen3-0.6b's shape, ZeRO {stage}", qwen, 16, 1, {"zero_stage": stage})
    yield Case("qwen3-0.6b's shape, checkpointing", qwen, 64, 1, {"gradient_checkpointing": True, "zero_stage": 2})
    yield Case("qwen3-0.6b's shape, chunks", qwen, 64, 1, {"gradcache_queries": 16, "zero_stage": 1})
    adapters = {"lora_rank": 16, "gradient_checkpointing": True, "zero_stage": 3}
    yield Case("qwen3-0.6b's shape, LoRA, checkpointing, ZeRO 3", qwen, 64, 1, adapters)
    yield Case("qwen3-0.6b's shape, LoRA", qwen, 16, 1, {"lora_rank": 16})


def comparisons(options: Options) -> Iterator[Comparison]:
    """A row a case; its ratio is not of speed: the numbers are bytes."""
    import torch

    if not options.gpu:
        return
    with models.scratch() as folder:
        for case in cases(options, Path(folder)):
            gc.collect()
            torch.cuda.empty_cache()
            before = torch.cuda.memory_allocated()
            with ours(case, options, models.long_pairs(case.batch)) as (step, facts):
                yield Comparison(
                    name=f"{case.name}, {case.batch} pairs of {2 * case.length} tokens, {options.dtype}",
                    variants={"measured": Variant(lambda step=step, before=before: measured(step, before))},
                    amount=case.batch,
                    unit="pairs",
                    facts={**facts, "predicted_bytes": predicted(case, options)},
                )


def measured(step: Variant, before: int) -> dict[str, float]:
    """The most that was allocated in one step, and reserved, without what other things held before."""
    import torch

    step.run()
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
