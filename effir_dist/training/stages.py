"""What a trial of each stage trains where a base is tuned once, pruned many times, and the pruned models recover.

That is `train.order=tune_prune_recover`. With the other orders every trial trains as `train` says. No torch.
"""

from __future__ import annotations

from dataclasses import replace

from effir_dist.core.settings import RunConfig, TrainConfig
from effir_dist.runs.records import BASE, FULL_RECOVERY

FULL_RECOVERY_RATE = 0.5
"""A full recovery's learning rate, as a share of `train.learning_rate`: its model was trained to a rate of 0 before. At
the whole rate models near the unpruned one lose (docs/experiments.md)."""


def tunes_base(config: RunConfig) -> bool:
    """Whether the model that all trials start from is tuned first. config: of a search, which has settled
    `model.retriever`; where that is None the model counts as a bare language model."""
    return config.train.recovers and not config.model.retriever


def recovery_steps(train: TrainConfig, steps: int) -> int:
    """Steps in which a pruned trial recovers. steps: of the whole training."""
    return max(1, round(train.recovery * steps)) if steps else 0


def stage_training(config: RunConfig, stage: str, steps: int) -> TrainConfig:
    """The training of a trial. stage: `TrialSpec.stage`. steps: of the whole training (`schedule.count_steps`).

    A base learns from `train.teacher` or from nobody: the bare model has no similarities worth to be kept.
    """
    train = config.train
    if not train.recovers:
        return train
    recovery = recovery_steps(train, steps)
    own = {BASE: steps if tunes_base(config) else 0, FULL_RECOVERY: steps - recovery}.get(stage, recovery)
    rate = train.learning_rate * (FULL_RECOVERY_RATE if stage == FULL_RECOVERY else 1)
    found = replace(train, steps=own, epochs=train.epochs if own else 0.0, learning_rate=rate)
    if stage != BASE or train.teacher:
        return found
    return replace(found, distill_similarities=0.0, distill_embeddings=0.0)


def recovers_in_full(config: RunConfig, steps: int | None = None) -> bool:
    """Whether the front's models are trained on at the end. steps: of the whole training; None where not known."""
    train = config.train
    if not (train.recovers and config.search.full_recovery):
        return False
    if steps is None:
        return train.trains and train.recovery < 1
    return steps > recovery_steps(train, steps)
