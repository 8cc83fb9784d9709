"""Contrastive fine-tuning of an encoder with DeepSpeed ZeRO, on one rank or several; no Ray."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from effir_dist.config import TrainConfig
from effir_dist.encoder import Encoder, default_device, pad
from effir_dist.engine import TrainingDiverged, run_engine, start_distributed
from effir_dist.lora import adapted
from effir_dist.losses import info_nce, not_negatives
from effir_dist.schedule import count_steps, learning_rate

if TYPE_CHECKING:
    from effir_dist.data import TrainingPairs
    from effir_dist.tokens import Tokens

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


@dataclass(frozen=True)
class _Examples:
    """Tokens of distinct texts, and which belong together."""

    queries: Tokens
    passages: Tokens
    query: np.ndarray  # [pairs] index of the query
    positive: np.ndarray  # [pairs] index of the passage
    negatives: list[list[int]]  # [pairs] indices of hard negatives
    answers: list[set[int]]  # [queries] every known positive

    def group(self, pair: int, negatives: int, rng: np.random.Generator) -> list[int]:
        """The positive and a sample of its hard negatives, filled up with random passages: 1 + negatives indices."""
        known = self.negatives[pair]
        chosen = rng.choice(known, min(negatives, len(known)), replace=False).tolist() if known else []
        return [int(self.positive[pair]), *chosen, *rng.integers(len(self.passages), size=negatives - len(chosen))]


def _examples(encoder: Encoder, pairs: TrainingPairs, hard_negatives: int, cache: Path | None) -> _Examples:
    queries = {text: i for i, text in enumerate(dict.fromkeys(pairs.queries))}
    hard = pairs.negatives if hard_negatives else [[] for _ in pairs.queries]
    passages = {text: i for i, text in enumerate(dict.fromkeys(itertools.chain(pairs.positives, *hard)))}
    answers: list[set[int]] = [set() for _ in queries]
    for query, positive in zip(pairs.queries, pairs.positives, strict=True):
        answers[queries[query]].add(passages[positive])
    return _Examples(
        queries=encoder.tokenize(list(queries), "query", cache),
        passages=encoder.tokenize(list(passages), "document", cache),
        query=np.array([queries[text] for text in pairs.queries]),
        positive=np.array([passages[text] for text in pairs.positives]),
        negatives=[[passages[text] for text in texts] for texts in hard],
        answers=answers,
    )


def _batches(examples: _Examples, config: TrainConfig) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Without end: the queries [B] and passages [B, 1 + N] of each batch of all ranks, the same on every rank."""
    negatives = config.hard_negatives if any(examples.negatives) else 0
    for epoch in itertools.count():
        rng = np.random.default_rng([config.seed, epoch])
        order = rng.permutation(len(examples.query))
        for start in range(0, len(order) - config.batch_size + 1, config.batch_size):
            pairs = order[start : start + config.batch_size]
            yield examples.query[pairs], np.array([examples.group(int(i), negatives, rng) for i in pairs])


def _loss(
    towers: Callable[..., tuple[Tensor, Tensor]],
    encoder: Encoder,
    examples: _Examples,
    batch: tuple[np.ndarray, np.ndarray],
    temperature: float,
) -> Tensor:
    """InfoNCE of this rank's share of a batch (`_batches`)."""
    queries, passages = batch
    size, device = len(queries) // dist.get_world_size(), encoder.device
    rows = np.arange(size) + dist.get_rank() * size
    q, p = towers(
        pad(examples.queries, queries[rows], encoder.pad_id, device),
        pad(examples.passages, passages[rows].reshape(-1), encoder.pad_id, device),
    )
    answers = [examples.answers[i] for i in queries[rows]]
    excluded = not_negatives(
        torch.from_numpy(passages.reshape(-1)), answers, torch.from_numpy(rows * passages.shape[1])
    )
    return info_nce(q, p, temperature, excluded.to(device))


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


def _fit(engine: Any, encoder: Encoder, examples: _Examples, config: TrainConfig, progress: _Progress) -> None:
    for step, batch in enumerate(itertools.islice(_batches(examples, config), progress.steps)):
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate(config, step, progress.steps)
        loss = _loss(engine, encoder, examples, batch, config.temperature)
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
    examples = _examples(encoder, pairs, config.hard_negatives, cache)
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
