"""A rank's share of a batch, collated: texts in padded groups, and what the loss compares.

All of it is made in main memory. For a GPU a thread makes it ahead of time and moves it there without waiting.
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
from effir_dist.models.encoder import Encoder, pad_rows, resolve_dtype
from effir_dist.models.grouping import filled, least_padding, split, within
from effir_dist.models.kernels import packed
from effir_dist.training.batches import Batch, Examples, Teacher
from effir_dist.training.losses import Targets, not_negatives
from effir_dist.training.memory import MOST_SCORES, lora_parameters
from effir_dist.training.step_cost import Model, device_of, grouping

T = TypeVar("T")
Group = tuple[Tensor, Tensor] | packed.Batch
"""Texts that pass through the model at once: input ids and attention mask, [G, T] each, or packed without padding."""
AHEAD = 2
"""Batches that are collated while one trains."""


@dataclass(frozen=True)
class CollatedBatch:
    """One rank's share of a batch: b queries and b * (1 + N) passages."""

    chunks: list[list[Group]]
    """GradCache chunks: groups of texts whose activations are in memory together."""
    order: Tensor
    """[b * (2 + N)] the row of each text among those of all groups: queries first, then passages."""
    targets: list[Targets]
    """What the similarities of the queries are compared with, a block of queries at a time."""

    def map(self, function: Callable[[Tensor], Tensor], chunks: bool = True) -> CollatedBatch:
        """With function(tensor) in place of every tensor. chunks: whether those of the chunks change too."""
        done: dict[int, Tensor] = {}  # blocks of targets share tensors

        def once(tensor: Tensor) -> Tensor:
            if id(tensor) not in done:
                done[id(tensor)] = function(tensor)
            return done[id(tensor)]

        moved = [map_groups(chunk, once) for chunk in self.chunks] if chunks else self.chunks
        return CollatedBatch(moved, once(self.order), [targets.map(once) for targets in self.targets])


def map_groups(groups: Sequence[Group], function: Callable[[Tensor], Tensor]) -> list[Group]:
    """With function(tensor) in place of every tensor."""
    return [(function(g[0]), function(g[1])) if isinstance(g, tuple) else g.map(function) for g in groups]


@dataclass(frozen=True)
class Collator:
    """Collates batches. Every rank has the same number of chunks and groups, as ZeRO's ranks communicate in each."""

    encoder: Encoder
    examples: Examples
    config: TrainConfig
    teacher: Teacher | None = None
    packs: bool = False
    """Whether texts are packed. The model must then be within `packed.for_training`."""
    groups: int = 1
    """Groups in a chunk. It stays the same for a training: ZeRO 3 expects the modules in the order of the step
    before."""

    def fitted(self, batch: Batch, packable: bool) -> Collator:
        """With the way and the number of groups that are fastest on this device for texts such as those of `batch`.

        packable: whether the model can train on packed texts. On a GPU, and in chunks by tokens, they then are.
        """
        encoder = self.encoder
        if self.config.gradcache_tokens or (packable and encoder.device.type == "cuda"):
            return replace(self, packs=packable)
        size = 2 if resolve_dtype(self.config.dtype) == "bfloat16" else 4
        model = Model.of(encoder.model_config, size, lora_parameters(encoder.model_config, self.config.lora_rank))
        rows = np.arange(len(batch.queries))[: self.config.gradcache_queries or None]
        packs, groups = grouping(self._lengths(batch, rows), model, device_of(encoder.device), packable)
        return replace(self, packs=packs, groups=groups)

    def collate(self, batch: Batch, rank: int = 0, ranks: int = 1) -> CollatedBatch:
        """This rank's share of a batch, in main memory."""
        rows = batch.share(rank, ranks)
        indices = self._indices(batch, rows, ranks)
        order = np.empty(len(rows) * (1 + batch.passages.shape[1]), np.int64)
        order[np.concatenate([group for chunk in indices for group in chunk])] = np.arange(len(order))
        texts, prompts = self._texts(batch, rows), self._prompts(batch, rows)
        chunks = [[self._group(group, texts, prompts) for group in chunk] for chunk in indices]
        return CollatedBatch(chunks, torch.from_numpy(order), self._targets(batch, rows))

    def _group(self, group: np.ndarray, texts: list[np.ndarray], prompts: np.ndarray | None) -> Group:
        rows, left_out = [texts[i] for i in group], None if prompts is None else prompts[group]
        if self.packs:
            return packed.pack_rows(rows, self.encoder.device, left_out)
        return pad_rows(rows, self.encoder.pad_id, left_out)

    def _texts(self, batch: Batch, rows: np.ndarray) -> list[np.ndarray]:
        """Tokens of these queries, then of their passages."""
        tokens = ((self.examples.queries, batch.queries[rows]), (self.examples.passages, batch.passages[rows].ravel()))
        return [of[i] for of, indices in tokens for i in indices.tolist()]

    def _prompts(self, batch: Batch, rows: np.ndarray) -> np.ndarray | None:
        """How many tokens of each of the texts of `_texts` pooling leaves out; None where it counts all."""
        queries, passages = self.examples.queries.prompt, self.examples.passages.prompt
        counts = [len(rows), len(rows) * batch.passages.shape[1]]
        return np.repeat([queries, passages], counts) if queries or passages else None

    def _lengths(self, batch: Batch, rows: np.ndarray) -> np.ndarray:
        """Tokens in each of the texts of `_texts`."""
        queries, passages = self.examples.queries.lengths, self.examples.passages.lengths
        return np.concatenate([queries[batch.queries[rows]], passages[batch.passages[rows].ravel()]])

    def _indices(self, batch: Batch, rows: np.ndarray, ranks: int) -> list[list[np.ndarray]]:
        """Which of this rank's texts are in each group of each chunk."""
        lengths, budget = self._lengths(batch, rows), self.config.gradcache_tokens
        if budget:
            part = filled if self.packs else within
            everyone = (self._lengths(batch, batch.share(rank, ranks)) for rank in range(ranks))
            most = max(len(part(of_rank, budget)) for of_rank in everyone)
            groups = split(part(lengths, budget), most)
            return [[group[np.argsort(lengths[group], kind="stable")]] for group in groups]
        b, size = batch.passages[rows].shape
        queries = self.config.gradcache_queries or b
        found = []
        for chunk in np.split(np.arange(b), range(queries, b, queries)):
            passages = b + (chunk[:, None] * size + np.arange(size)).ravel()
            texts = np.concatenate([chunk, passages])
            found.append([texts[group] for group in least_padding(lengths[texts], self.groups)])
        return found

    def _targets(self, batch: Batch, rows: np.ndarray) -> list[Targets]:
        passages, size = batch.passages.ravel(), batch.passages.shape[1]
        known = self.teacher if self.config.distils_itself else None
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
                    unit_length=self.encoder.settings.unit_length,
                    known_unit_length=known.unit_length if known else None,
                )
            )
        return found


def _floats(rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(rows, np.float32))


def collated(collator: Collator, batches: Iterable[Batch], rank: int, ranks: int) -> Iterator[CollatedBatch]:
    """This rank's share of each batch. For a GPU a thread makes them ahead of time, in pinned memory."""
    device = collator.encoder.device
    if device.type != "cuda":
        yield from (collator.collate(batch, rank, ranks) for batch in batches)
        return
    pinned = (collator.collate(batch, rank, ranks).map(torch.Tensor.pin_memory) for batch in batches)
    for batch in ahead(pinned):
        yield batch.map(lambda tensor: move(tensor, device), chunks=False)


def ahead(made: Iterator[T]) -> Iterator[T]:
    """The same items, made by a thread up to AHEAD items early. An error is raised where its item is due."""
    with ThreadPoolExecutor(1, "ahead") as thread:
        waiting = deque(thread.submit(next, made, None) for _ in range(AHEAD))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, made, None))
            yield item


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the device, made without waiting for it."""
    return tensor.to(device, non_blocking=True)
