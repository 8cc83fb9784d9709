"""Contrastive fine-tuning of an encoder, on several ranks with DeepSpeed ZeRO; no Ray."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from effir_dist.core.settings import TrainConfig
from effir_dist.models import attention, packed
from effir_dist.models.encoder import Encoder, default_device
from effir_dist.training.batches import Examples, Teacher, batches, distils_itself, examples_of
from effir_dist.training.collate import Maker, Step, steps
from effir_dist.training.engine import TrainingDiverged, running_engine, start_distributed
from effir_dist.training.engine import step as step_engine
from effir_dist.training.gradcache import backward
from effir_dist.training.lora import adapted
from effir_dist.training.schedule import count_steps, learning_rate
from effir_dist.training.train_state import TrainState, capture, load_weights, restore

if TYPE_CHECKING:
    from effir_dist.data.pairs import TrainingPairs

Report = Callable[[dict[str, Any]], None]
CHECK_EVERY = 4
"""Steps between looks at the loss: each costs a wait for the device and a tiny all-reduce."""
REPORT_SECONDS = 2.0
LAST_STEPS = 10


@dataclass(frozen=True)
class TrainOutcome:
    """What a training cost and reached."""

    steps: int
    seconds: float
    """All of `train`: tokenising, engine, steps, gathering of the weights."""
    engine_seconds: float
    """Of these: process group, engine, and taking it down."""
    last_loss: float
    """Mean over the last 10 steps and all ranks; NaN without steps."""


class Checkpoints(Protocol):
    """Where a training leaves its state, for another process to go on from. Every rank has one."""

    def load(self) -> TrainState | None:
        """The last state that was saved; the same on every rank."""

    def save(self, state: TrainState) -> None:
        """Keep a state; called on rank 0."""

    def urgent(self) -> bool:
        """Whether this machine is about to go, so that a state should be saved now."""


class Progress:
    """Losses of all ranks, looked at every few steps; all ranks report and save together, mostly by rank 0's clock."""

    def __init__(self, report: Report, steps: int, config: TrainConfig, checkpoints: Checkpoints | None) -> None:
        self.report, self.steps, self.config, self.checkpoints = report, steps, config, checkpoints
        self.losses: list[float] = []
        self.unread: list[Tensor] = []
        self.reported = -math.inf
        self.saved_at, self.saved_steps, self.warned = time.monotonic(), 0, False

    def add(self, loss: Tensor) -> bool:
        """Take a step's loss; raises TrainingDiverged, on every rank alike, for one that is not finite.

        Returns whether the state is to be saved now, on every rank alike.
        """
        self.unread.append(loss.detach().float())
        last = len(self.losses) + len(self.unread) == self.steps
        if len(self.unread) < CHECK_EVERY and not last:
            return False
        due = dist.get_rank() == 0 and (last or time.monotonic() - self.reported >= REPORT_SECONDS)
        flags = [torch.full_like(self.unread[0], flag) for flag in (due, self._should_save())]
        values = torch.stack([*self.unread, *flags])
        dist.all_reduce(values)
        self.unread.clear()
        *summed, due_now, save_now = values.tolist()
        for value in (total / dist.get_world_size() for total in summed):
            self.losses.append(value)
            if not math.isfinite(value):
                raise TrainingDiverged(f"the loss became {value} at step {len(self.losses)} of {self.steps}")
        if due_now:
            self.reported = time.monotonic()
            done = {"phase": "train", "step": len(self.losses), "steps": self.steps, "loss": self.losses[-1]}
            self.report(done)
        return bool(save_now) and not last

    def _should_save(self) -> bool:
        """Whether this rank asks for a checkpoint: rank 0 by clock and count, any whose machine is about to go."""
        if self.checkpoints is None:
            return False
        minutes, steps = self.config.checkpoint_minutes, self.config.checkpoint_steps
        by_clock = minutes > 0 and time.monotonic() - self.saved_at >= 60 * minutes
        by_count = steps > 0 and len(self.losses) + len(self.unread) - self.saved_steps >= steps
        return (dist.get_rank() == 0 and (by_clock or by_count)) or (not self.warned and self.checkpoints.urgent())

    def saved(self) -> None:
        """A checkpoint was just written, or read."""
        self.saved_at, self.saved_steps = time.monotonic(), len(self.losses)
        self.warned = self.checkpoints is not None and self.checkpoints.urgent()

    @property
    def last_loss(self) -> float:
        return float(np.mean(self.losses[-LAST_STEPS:]))


def fit(
    engine: Any,
    encoder: Encoder,
    examples: Examples,
    config: TrainConfig,
    teacher: Teacher | None,
    progress: Progress,
    total: int = 0,
) -> None:
    """All steps from `progress` on, within an engine; total: of the schedule, where `progress` ends before."""
    begun, rank, ranks = len(progress.losses), dist.get_rank(), dist.get_world_size()
    backbone = engine.module.encoder.backbone
    packs = not config.dropout and packed.possible(backbone)  # packed attention knows no dropout
    maker = Maker(encoder, examples, config, teacher, packs).fitted(next(batches(examples, config)))
    found = itertools.islice(batches(examples, config), begun, progress.steps)
    with packed.attention(backbone) if packs else attention.for_training(backbone):
        _go(engine, steps(maker, found, rank, ranks), begun, config, progress, total or progress.steps)


def _go(
    engine: Any, found: Iterable[Step], begun: int, config: TrainConfig, progress: Progress, total: int
) -> None:
    def keep() -> None:
        assert progress.checkpoints is not None
        state = capture(engine, progress.losses)
        if dist.get_rank() == 0:
            progress.checkpoints.save(state)
        progress.saved()

    for step, prepared in enumerate(found, begun):
        if config.dropout:  # so that a training that was resumed drops what an uninterrupted one would have
            torch.manual_seed(hash((config.seed, dist.get_rank(), step)))
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate(config, step, total)
        loss = backward(engine, prepared, config)
        step_engine(engine, config)
        if progress.add(loss):
            keep()
    if begun < progress.steps < total:  # short of the end: another call goes on
        keep()


def train(
    encoder: Encoder,
    pairs: TrainingPairs,
    config: TrainConfig,
    report: Report,
    cache: Path | None = None,
    teacher: Teacher | None = None,
    checkpoints: Checkpoints | None = None,
    until: int = 0,
) -> TrainOutcome:
    """Train the encoder in place, with AdamW on `losses.retrieval_loss`; every rank then holds the full weights.

    The encoder moves to the GPU if there is one; its weights end in the training dtype, in evaluation mode.
    torch.distributed is initialised by the caller where there are several ranks. `report` gets
    {"phase", "step", "steps", "loss"} every two seconds and at the end, on all ranks together: Ray Train wants it so.
    teacher: needed where config distils from the unpruned model; of `batches.distinct` texts. checkpoints: where there
    is a state of this training, it goes on from it, with any number of ranks; the batches and their order are the same.
    until: stop after so many of its steps and leave the state in `checkpoints`, for a later call to go on: all calls
    together are the training that one would have been. 0 goes on to the end.

    Raises InputError where batch, workers and pairs do not fit, TrainingDiverged where loss or weights are not
    finite; after that the weights are undefined, but the process is ready for another training.
    """
    started = time.perf_counter()
    steps = count_steps(config, len(pairs.queries), dist.get_world_size() if dist.is_initialized() else 1)
    if steps == 0:
        encoder.to(default_device()).eval()
        return TrainOutcome(0, 0.0, 0.0, math.nan)
    if teacher is None and distils_itself(config):
        raise ValueError("distilling from the unpruned model takes its embeddings: teacher")
    end = min(until or steps, steps)
    if end < steps and checkpoints is None:
        raise ValueError("a training that stops on its way leaves its state somewhere: checkpoints")
    examples = examples_of(encoder, pairs, config, cache)
    tokenised = time.perf_counter()
    start_distributed()
    torch.manual_seed(config.seed)  # adapters begin alike on every rank
    progress = Progress(report, end, config, checkpoints)
    state = checkpoints.load() if checkpoints else None
    with adapted(encoder, config):
        if state:
            load_weights(encoder, state)
        with running_engine(encoder, config) as engine:
            fitting = time.perf_counter()
            if state:
                restore(engine, state)
                progress.losses += state.losses
                progress.saved()
                state = None  # three times the model's size
            fit(engine, encoder, examples, config, teacher, progress, steps)
            fit_seconds = time.perf_counter() - fitting
    ended = time.perf_counter()
    return TrainOutcome(end, ended - started, ended - tokenised - fit_seconds, progress.last_loss)
