"""Contrastive fine-tuning of an encoder, in a single process or on several ranks with DeepSpeed ZeRO. No Ray."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from effir_dist.core.settings import TrainConfig
from effir_dist.core.values import Report
from effir_dist.evaluate import ranks
from effir_dist.models.encoder import Encoder, default_device
from effir_dist.models.kernels import attention, packed
from effir_dist.models.kernels.trained_blocks import trained_blocks
from effir_dist.training.batches import Examples, Teacher, batches, examples_of
from effir_dist.training.collate import CollatedBatch, Collator, collated
from effir_dist.training.engine import TrainingDiverged, running_engine, start_distributed
from effir_dist.training.engine import step as step_engine
from effir_dist.training.gradcache import backward
from effir_dist.training.lora import adapted
from effir_dist.training.schedule import count_steps, learning_rate
from effir_dist.training.train_state import TrainState, capture, load_weights, restore

if TYPE_CHECKING:
    from effir_dist.data.pairs import TrainingPairs

CHECK_EVERY = 4
"""Steps between two looks at the loss: each costs a wait for the device and a tiny all-reduce."""
REPORT_SECONDS = 2.0
LAST_STEPS = 10
"""Steps that the last loss is a mean of."""


@dataclass(frozen=True)
class TrainOutcome:
    """What a training cost and reached."""

    steps: int
    seconds: float
    """Of all of `train`: tokenising, engine, steps, gathering the weights."""
    engine_seconds: float
    """Of these, what process group and engine take to start and to end."""
    last_loss: float
    """Mean over the last LAST_STEPS steps and all ranks; NaN without steps."""


class Checkpoints(Protocol):
    """Where a training keeps its state, for another process to go on from. Every rank has one."""

    def load(self) -> TrainState | None:
        """The last state that was saved; the same on every rank."""

    def save(self, state: TrainState) -> None:
        """Keep a state; called on rank 0."""

    def urgent(self) -> bool:
        """Whether this machine is about to be taken away, so that a state should be saved now."""


class Progress:
    """Losses of all ranks, read every few steps. All ranks report and save together, mostly by rank 0's clock."""

    def __init__(self, report: Report, steps: int, config: TrainConfig, checkpoints: Checkpoints | None) -> None:
        self.report, self.steps, self.config, self.checkpoints = report, steps, config, checkpoints
        self.losses: list[float] = []
        self.unread: list[Tensor] = []
        self.reported = -math.inf
        self.saved_at, self.saved_steps, self.warned = time.monotonic(), 0, False

    def add(self, loss: Tensor) -> bool:
        """Add a step's loss. Returns whether the state is to be saved now, the same on every rank.

        Raises TrainingDiverged, on every rank, for a loss that is not finite.
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
            step = len(self.losses)
            self.report({"phase": "train", "step": step, "steps": self.steps, "loss": self.losses[-1]})
        return bool(save_now) and not last

    def _should_save(self) -> bool:
        """Whether this rank asks for a checkpoint: rank 0 by clock and steps, any whose machine is to be taken away."""
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


def run_steps(
    engine: Any,
    encoder: Encoder,
    examples: Examples,
    config: TrainConfig,
    teacher: Teacher | None,
    progress: Progress,
    total: int = 0,
    collator: Collator | None = None,
) -> None:
    """The steps that `progress` still lacks. total: steps of the schedule, where `progress` ends before them.

    collator: how texts are grouped; None takes what is fastest here.
    """
    first = len(progress.losses)
    with shares(engine, encoder, examples, config, teacher, first, progress.steps, collator) as found:
        _run_steps(engine, found, first, config, progress, total or progress.steps)


@contextmanager
def shares(
    engine: Any,
    encoder: Encoder,
    examples: Examples,
    config: TrainConfig,
    teacher: Teacher | None,
    first: int,
    end: int,
    collator: Collator | None = None,
) -> Iterator[Iterable[CollatedBatch]]:
    """This rank's shares of the batches of steps `first` to `end` - 1; within the block the engine's model has the
    attention that they need, and fewer steps of the backward pass. collator: as in `run_steps`."""
    backbone = engine.module.encoder.backbone
    collator = collator or fitted_collator(engine, encoder, examples, config, teacher)
    wanted = itertools.islice(batches(examples, config), first, end)
    attending = packed.for_training if collator.packs else attention.for_training
    with attending(backbone), trained_blocks(backbone):
        yield collated(collator, wanted, dist.get_rank(), dist.get_world_size())


def fitted_collator(
    engine: Any, encoder: Encoder, examples: Examples, config: TrainConfig, teacher: Teacher | None
) -> Collator:
    """What groups texts as is fastest for this engine, the same on every rank."""
    whole = bool(examples.queries.lengths.all() and examples.passages.lengths.all())  # no text is empty
    packable = whole and not config.dropout and packed.trainable(engine.module.encoder.backbone)
    found = Collator(encoder, examples, config, teacher).fitted(next(batches(examples, config)), packable)
    choice = torch.tensor([found.packs, found.groups], device=encoder.device)
    dist.broadcast(choice, 0)  # hosts may differ in what is fastest there
    packs, groups = choice.tolist()
    return replace(found, packs=bool(packs), groups=groups)


def _run_steps(
    engine: Any, found: Iterable[CollatedBatch], first: int, config: TrainConfig, progress: Progress, total: int
) -> None:
    for step, batch in enumerate(found, first):
        if config.dropout:  # so that a resumed training has the dropout that an uninterrupted one would have had
            torch.manual_seed(hash((config.seed, dist.get_rank(), step)))
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate(config, step, total)
        loss = backward(engine, batch, config)
        step_engine(engine, config)
        if progress.add(loss):
            _save(engine, progress)
    if first < progress.steps < total:  # another call goes on from here
        _save(engine, progress)


def _save(engine: Any, progress: Progress) -> None:
    """Write a checkpoint; all ranks call it together."""
    assert progress.checkpoints is not None
    state = capture(engine, progress.losses)
    if dist.get_rank() == 0:
        progress.checkpoints.save(state)
    progress.saved()


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
    """Train the encoder in place, with AdamW on `losses.retrieval_loss`. Every rank then holds the full weights.

    The encoder moves to the GPU if there is one. Its weights end in the training dtype, in evaluation mode. With
    several ranks the caller has initialised torch.distributed.

    report: called with {"phase", "step", "steps", "loss"} every two seconds and at the end, on all ranks together, as
    Ray Train needs it. teacher: embeddings of `batches.distinct` texts, needed where config distils from the unpruned
    model. checkpoints: where they hold a state of this training, it goes on from there, with any number of ranks and
    the same batches in the same order. until: stop after this many steps and leave the state in `checkpoints`, for a
    later call to go on. All calls together are the training that one call would have been. 0 goes on to the end.

    Raises InputError where batch, workers and pairs do not fit, TrainingDiverged where loss or weights are not finite.
    After that the weights are undefined, but the process is ready for another training.
    """
    started = time.perf_counter()
    steps = count_steps(config, len(pairs.queries), ranks.place()[1])
    if steps == 0:
        encoder.to(default_device()).eval()
        return TrainOutcome(0, 0.0, 0.0, math.nan)
    if teacher is None and config.distils_itself:
        raise ValueError("distillation from the unpruned model needs its embeddings: pass teacher")
    end = min(until or steps, steps)
    if end < steps and checkpoints is None:
        raise ValueError("a training that stops before its end must save its state: pass checkpoints")
    examples = examples_of(encoder, pairs, config, cache)
    tokenised = time.perf_counter()
    start_distributed()
    torch.manual_seed(config.seed)  # adapters start with the same weights on every rank
    progress = Progress(report, end, config, checkpoints)
    state = checkpoints.load() if checkpoints else None
    with adapted(encoder, config):
        if state:
            load_weights(encoder, state)
        with running_engine(encoder, config) as engine:
            stepping = time.perf_counter()
            if state:
                restore(engine, state)
                progress.losses += state.losses
                progress.saved()
                state = None  # three times the model's size
            run_steps(engine, encoder, examples, config, teacher, progress, steps)
            step_seconds = time.perf_counter() - stepping
    ended = time.perf_counter()
    return TrainOutcome(end, ended - started, ended - tokenised - step_seconds, progress.last_loss)
