"""Number of steps and learning rate. No torch, so that a search can check them before anything starts."""

from __future__ import annotations

import math

from effir_dist.core.errors import InputError
from effir_dist.core.settings import TrainConfig


def count_steps(config: TrainConfig, pairs: int, world_size: int) -> int:
    """Optimizer steps of a training. Raises InputError where `pairs` or `world_size` do not fit the batch size."""
    if config.steps == 0 and config.epochs == 0:
        return 0
    if config.batch_size % world_size:
        raise InputError(f"train.batch_size must be divisible by the {world_size} workers, got {config.batch_size}")
    if pairs < config.batch_size:
        raise InputError(f"train.batch_size is {config.batch_size}, but there are only {pairs} training pairs")
    return config.steps or max(1, round(config.epochs * (pairs // config.batch_size)))


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Linear rise in the warm-up, then linear fall to 0 after the last step. step: from 0. No step has a rate of 0."""
    warmup = math.ceil(config.warmup_ratio * steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    return config.learning_rate * (steps - step) / (steps - warmup)
