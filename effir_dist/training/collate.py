"""What a step needs to know before the model runs: texts in padded groups, and what the loss compares.

All of it is made in main memory, for a GPU ahead of time in a thread, and moved there without waiting for the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from effir_dist.core.settings import TrainConfig
from effir_dist.models import packed
from effir_dist.models.encoder import Encoder, pad_rows
from effir_dist.models.families.backbones import family, mlp_width
from effir_dist.models.grouping import filled, group_count, least_padding, split, within
from effir_dist.training.batches import Batch, Examples, Teacher, distils_itself
from effir_dist.training.losses import Targets, not_negatives
from effir_dist.training.memory import MOST_SCORES

T = TypeVar("T")
Group = tuple[Tensor, Tensor] | packed.Batch
"""Texts that go through the model at once: input ids and attention mask, [G, T] each, or packed without padding."""
AHEAD = 2
"""Steps that are prepared while one runs."""
IDLE_FLOPS = {"cuda": 1e11, "cpu": 1e8}
"""What the device could compute while the operators of one block, forward and backward, are being started."""


@dataclass(frozen=True)
class Step:
    """One rank's share of a batch: b queries and b * (1 + N) passages."""

    chunks: list[list[Group]]
    """Groups of texts; those of a chunk are in memory together."""
    order: Tensor
    """[b * (2 + N)] where each text is among the rows of all groups: queries first, then passages."""
    targets: list[Targets]
    """Of the queries in turn."""

    def map(self, function: Callable[[Tensor], Tensor], chunks: bool = True) -> Step:
        """With every tensor replaced; without those of the chunks if told so."""
        done: dict[int, Tensor] = {}  # blocks share tensors

        def once(tensor: Tensor) -> Tensor:
            if id(tensor) not in done:
                done[id(tensor)] = function(tensor)
            return done[id(tensor)]

        moved = [map_groups(chunk, once) for chunk in self.chunks] if chunks else self.chunks
        return Step(moved, once(self.order), [targets.map(once) for targets in self.targets])


def map_groups(groups: Sequence[Group], function: Callable[[Tensor], Tensor]) -> list[Group]:
    """With every tensor replaced."""
    return [(function(g[0]), function(g[1])) if isinstance(g, tuple) else g.map(function) for g in groups]


@dataclass(frozen=True)
class Maker:
    """Makes steps of batches. Every rank cuts its share into as many chunks and groups: they go in step."""

    encoder: Encoder
    examples: Examples
    config: TrainConfig
    teacher: Teacher | None = None
    packs: bool = False
    """Whether texts are packed; the model must then be within `packed.attention`."""
    groups: int = 1
    """In a chunk. One number for a whole training: ZeRO 3 foresees the order of modules from the step before."""

    def fitted(self, batch: Batch) -> Maker:
        """With the number of groups that is cheapest on this device for texts such as those of `batch`."""
        if self.config.chunk_tokens or self.packs:
            return self
        row, model = family(self.encoder.model_config), self.encoder.model_config
        of_block = row.attention_parameters(model) + row.mlp_parameters(model, mlp_width(model))
        overhead = IDLE_FLOPS[self.encoder.device.type] / (6 * of_block)  # a token takes 6 FLOPs a parameter
        rows = np.arange(len(batch.queries))[: self.config.chunk or None]
        return replace(self, groups=group_count(self._lengths(batch, rows), overhead))

    def step(self, batch: Batch, rank: int = 0, ranks: int = 1) -> Step:
        """This rank's part of a batch, in main memory."""
        rows = batch.share(rank, ranks)
        places = self._places(batch, rows, ranks)
        order = np.empty(len(rows) * (1 + batch.passages.shape[1]), np.int64)
        order[np.concatenate([group for chunk in places for group in chunk])] = np.arange(len(order))
        texts = self._texts(batch, rows)
        chunks = [[self._group([texts[i] for i in group]) for group in chunk] for chunk in places]
        return Step(chunks, torch.from_numpy(order), self._targets(batch, rows))

    def _group(self, rows: list[np.ndarray]) -> Group:
        return packed.pack_rows(rows, self.encoder.device) if self.packs else pad_rows(rows, self.encoder.pad_id)

    def _texts(self, batch: Batch, rows: np.ndarray) -> list[np.ndarray]:
        """Tokens of these queries, then of their passages."""
        tokens = ((self.examples.queries, batch.queries[rows]), (self.examples.passages, batch.passages[rows].ravel()))
        return [of[i] for of, indices in tokens for i in indices.tolist()]

    def _lengths(self, batch: Batch, rows: np.ndarray) -> np.ndarray:
        """Of the same."""
        queries, passages = self.examples.queries.lengths, self.examples.passages.lengths
        return np.concatenate([queries[batch.queries[rows]], passages[batch.passages[rows].ravel()]])

    def _places(self, batch: Batch, rows: np.ndarray, ranks: int) -> list[list[np.ndarray]]:
        """Which of this rank's texts are in each group of each chunk."""
        lengths, budget = self._lengths(batch, rows), self.config.chunk_tokens
        if budget:
            part = filled if self.packs else within
            everyone = (self._lengths(batch, batch.share(rank, ranks)) for rank in range(ranks))
            most = max(len(part(of_rank, budget)) for of_rank in everyone)
            return [[group] for group in split(part(lengths, budget), most)]
        b, size = batch.passages[rows].shape
        found = []
        for chunk in np.split(np.arange(b), range(self.config.chunk or b, b, self.config.chunk or b)):
            passages = b + (chunk[:, None] * size + np.arange(size)).ravel()
            places = np.concatenate([chunk, passages])
            found.append([places[group] for group in least_padding(lengths[places], self.groups)])
        return found

    def _targets(self, batch: Batch, rows: np.ndarray) -> list[Targets]:
        passages, size = batch.passages.ravel(), batch.passages.shape[1]
        known = self.teacher if distils_itself(self.config) else None
        known_passages = _floats(known.passages[passages]) if known else None
        count = max(1, MOST_SCORES // len(passages))
        found = []
        for part in np.split(rows, range(count, len(rows), count)):
            repeated, excluded = not_negatives(passages, [self.examples.answers[i] for i in batch.queries[part]])
            found.append(
                Targets(
                    positives=torch.from_numpy(part * size),
                    repeated=torch.from_numpy(repeated),
                    excluded=torch.from_numpy(excluded),
                    group=torch.from_numpy(part[:, None] * size + np.arange(size)),
                    scores=_floats(batch.scores[part]) if self.config.distill_scores else None,
                    queries=_floats(known.queries[batch.queries[part]]) if known else None,
                    passages=known_passages,
                )
            )
        return found


def _floats(rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(rows, np.float32))


def steps(maker: Maker, found: Iterable[Batch], rank: int, ranks: int) -> Iterator[Step]:
    """The steps of batches. For a GPU a thread makes them ahead, in memory that the GPU reads without waiting."""
    device = maker.encoder.device
    if device.type != "cuda":
        yield from (maker.step(batch, rank, ranks) for batch in found)
        return
    made = (maker.step(batch, rank, ranks).map(torch.Tensor.pin_memory) for batch in found)
    for step in ahead(made):
        yield step.map(lambda tensor: move(tensor, device), chunks=False)


def ahead(made: Iterator[T]) -> Iterator[T]:
    """The same, made by a thread that is a little ahead. What it raises is raised here, in its turn."""
    with ThreadPoolExecutor(1, "ahead") as thread:
        waiting = deque(thread.submit(next, made, None) for _ in range(AHEAD))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, made, None))
            yield item


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device, without waiting for it."""
    return tensor.to(device, non_blocking=True)
