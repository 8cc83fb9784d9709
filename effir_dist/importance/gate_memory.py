"""What self-slimming and the Taylor score take of a GPU's memory, by formula, and the settings that they run with.

They are counted as a training of the gates alone (with `prune.slim_weights` of all weights) in one process: gates
save nothing that a model without them does not, and with frozen weights a block saves less than the formula says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from effir_dist.core.config import replace
from effir_dist.core.settings import RunConfig, TrainConfig
from effir_dist.models.families.base import ModelDict, block_count, mlp_width
from effir_dist.training import memory

GATED = ("slimming", "taylor")
"""Rankings that pass training batches through a model with gates."""


def of_gates(train: TrainConfig) -> TrainConfig:
    """Of a training what scores neurons: its batches, chunks, checkpointing and dtype; the loss is InfoNCE alone.

    Gates are trained by Adam without clipping.
    """
    return dataclasses.replace(
        train,
        distill_scores=0.0,
        distill_similarities=0.0,
        distill_embeddings=0.0,
        dropout=0.0,
        lora_rank=0,
        zero_stage=0,
        weight_decay=0.0,
        max_grad_norm=0.0,
    )


def settings(config: RunConfig) -> RunConfig:
    """A search's settings as they are for scoring neurons: one process has chunks as large as a trial's worker."""
    train, workers = of_gates(config.train), config.resources.workers_per_trial
    if not train.gradcache_tokens and workers > 1:
        share = config.worker_queries
        train = dataclasses.replace(train, gradcache_queries=min(train.gradcache_queries or share, share))
    resources = dataclasses.replace(config.resources, workers_per_trial=1)
    return dataclasses.replace(config, train=train, resources=resources)


def asked(config: RunConfig, rankings: Sequence[str]) -> tuple[list[str], bool]:
    """The rankings that need gates, and whether the weights train along."""
    wanted = [name for name in GATED if name in rankings]
    return wanted, config.prune.slim_weights and "slimming" in wanted


def predict(model: ModelDict, config: RunConfig, dtype: str, weights: bool) -> memory.Memory:
    """The peak of scoring the unpruned model's neurons. weights: whether they train along with the gates."""
    gates = 0 if weights else block_count(model) * mlp_width(model)
    return memory.predict(model, settings(config), dtype, gates)


def summary(model: ModelDict, config: RunConfig, rankings: Sequence[str]) -> list[str]:
    """Lines for `--dry-run`, where a search scores neurons by `slimming` or `taylor`."""
    wanted, weights = asked(config, rankings)
    if not wanted:
        return []
    dtype, capacity = memory.dtype_of(config), memory.capacity_of(config)
    found = predict(model, config, dtype, weights)
    lines = [memory.line(f"memory of ranking neurons ({', '.join(wanted)}), once a search", found, dtype)]
    if capacity and found.peak > capacity * (1 - memory.SPARE):
        lines.append(memory.warning(capacity, _advice(model, config, dtype, weights, capacity)))
    return lines


def _advice(model: ModelDict, config: RunConfig, dtype: str, weights: bool, capacity: float) -> str:
    """The mildest change of settings with which it fits: chunks and checkpointing, then frozen weights."""
    for trained in (True, False) if weights else (False,):
        frozen = {"prune.slim_weights": "false"} if weights and not trained else {}
        for changes in memory.smaller_chunks(config):
            if predict(model, replace(config, changes), dtype, trained).peak <= capacity * (1 - memory.SPARE):
                chosen = {**frozen, **changes}
                return " ".join(f"{name}={str(value).lower()}" for name, value in chosen.items()) + " would fit"
    return "prune.ranking=activation needs no gradients"
