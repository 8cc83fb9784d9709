"""Contrastive fine-tuning of an encoder with DeepSpeed ZeRO, on one rank or several; no Ray."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from effir_dist.batches import Examples, batch_loss, batches, examples_of
from effir_dist.encoder import Encoder, default_device
from effir_dist.engine import TrainingDiverged, run_engine, start_distributed
from effir_dist.lora import adapted
from effir_dist.schedule import count_steps, learning_rate
from effir_dist.settings import TrainConfig

if TYPE_CHECKING:
    from effir_dist.data import TrainingPairs

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
    """Of these: process group, DeepSpeed's engine, and taking it down."""
    last_loss: float
    """Mean over the last 10 steps and all ranks; NaN without steps."""


class _Progress:
    """Losses of all ranks, looked at every few steps; all ranks report together, when rank 0's clock says so."""

    def __init__(self, report: Report, steps: int) -> None:
        self.report, self.steps = report, steps
        self.losses: list[float] = []
        self.unread: list[Tensor] = []
        self.reported = -math.inf

    def add(self, loss: Tensor) -> None:
        """Take a step's loss; raises TrainingDiverged, on every rank alike, for one that is not finite."""
        self.unread.append(loss.detach().float())
        last = len(self.losses) + len(self.unread) == self.steps
        if len(self.unread) < CHECK_EVERY and not last:
            return
        due = dist.get_rank() == 0 and (last or time.monotonic() - self.reported >= REPORT_SECONDS)
        values = torch.stack([*self.unread, torch.full_like(self.unread[0], due)])
        dist.all_reduce(values)
        self.unread.clear()
        *summed, due_now = values.tolist()
        for value in (total / dist.get_world_size() for total in summed):
            self.losses.append(value)
            if not math.isfinite(value):
                raise TrainingDiverged(f"the loss became {value} at step {len(self.losses)} of {self.steps}")
        if due_now:
            self.reported = time.monotonic()
            done = {"phase": "train", "step": len(self.losses), "steps": self.steps, "loss": self.losses[-1]}
            self.report(done)

    @property
    def last_loss(self) -> float:
        return float(np.mean(self.losses[-LAST_STEPS:]))


def _fit(engine: Any, encoder: Encoder, examples: Examples, config: TrainConfig, progress: _Progress) -> None:
    for step, batch in enumerate(itertools.islice(batches(examples, config), progress.steps)):
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate(config, step, progress.steps)
        loss = batch_loss(engine, encoder, examples, batch, config.temperature)
        engine.backward(loss)
        engine.step()
        progress.add(loss)


def train(
    encoder: Encoder, pairs: TrainingPairs, config: TrainConfig, report: Report, cache: Path | None = None
) -> TrainOutcome:
    """Train the encoder in place, with AdamW on InfoNCE; every rank calls it and then holds the full weights.

    The encoder moves to the GPU if there is one; its weights end in the training dtype, in evaluation mode.
    torch.distributed is initialised by the caller where there are several ranks. `report` gets
    {"phase", "step", "steps", "loss"} every two seconds and at the end, on all ranks together: Ray Train wants it so.

    Raises InputError where batch, workers and pairs do not fit, TrainingDiverged where loss or weights are not
    finite; after that the weights are undefined, but the process is ready for another training.
    """
    started = time.perf_counter()
    steps = count_steps(config, len(pairs.queries), dist.get_world_size() if dist.is_initialized() else 1)
    if steps == 0:
        encoder.to(default_device()).eval()
        return TrainOutcome(0, 0.0, 0.0, math.nan)
    examples = examples_of(encoder, pairs, config.hard_negatives, cache)
    tokenised = time.perf_counter()
    start_distributed()
    torch.manual_seed(config.seed)  # adapters begin alike on every rank
    progress = _Progress(report, steps)
    fit_seconds = 0.0

    def fit(engine: Any) -> None:
        nonlocal fit_seconds
        fitting = time.perf_counter()
        _fit(engine, encoder, examples, config, progress)
        fit_seconds = time.perf_counter() - fitting

    with adapted(encoder, config):
        torch.manual_seed(config.seed + dist.get_rank())
        run_engine(encoder, config, fit)
    ended = time.perf_counter()
    return TrainOutcome(steps, ended - started, ended - tokenised - fit_seconds, progress.last_loss)
