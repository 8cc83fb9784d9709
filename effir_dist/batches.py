"""Training pairs as batches of tokens, and the loss of one: the same for training and for ranking neurons."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from effir_dist.encoder import Encoder, pad
from effir_dist.losses import info_nce, not_negatives
from effir_dist.settings import TrainConfig

if TYPE_CHECKING:
    from effir_dist.data import TrainingPairs
    from effir_dist.tokens import Tokens


@dataclass(frozen=True)
class Examples:
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


def examples_of(encoder: Encoder, pairs: TrainingPairs, hard_negatives: int, cache: Path | None) -> Examples:
    """Tokenise pairs: every distinct text once."""
    queries = {text: i for i, text in enumerate(dict.fromkeys(pairs.queries))}
    hard = pairs.negatives if hard_negatives else [[] for _ in pairs.queries]
    passages = {text: i for i, text in enumerate(dict.fromkeys(itertools.chain(pairs.positives, *hard)))}
    answers: list[set[int]] = [set() for _ in queries]
    for query, positive in zip(pairs.queries, pairs.positives, strict=True):
        answers[queries[query]].add(passages[positive])
    return Examples(
        queries=encoder.tokenize(list(queries), "query", cache),
        passages=encoder.tokenize(list(passages), "document", cache),
        query=np.array([queries[text] for text in pairs.queries]),
        positive=np.array([passages[text] for text in pairs.positives]),
        negatives=[[passages[text] for text in texts] for texts in hard],
        answers=answers,
    )


def batches(examples: Examples, config: TrainConfig) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Without end: the queries [B] and passages [B, 1 + N] of each batch of all ranks, the same on every rank."""
    negatives = config.hard_negatives if any(examples.negatives) else 0
    for epoch in itertools.count():
        rng = np.random.default_rng([config.seed, epoch])
        order = rng.permutation(len(examples.query))
        for start in range(0, len(order) - config.batch_size + 1, config.batch_size):
            pairs = order[start : start + config.batch_size]
            yield examples.query[pairs], np.array([examples.group(int(i), negatives, rng) for i in pairs])


def batch_loss(
    towers: Callable[..., tuple[Tensor, Tensor]],
    encoder: Encoder,
    examples: Examples,
    batch: tuple[np.ndarray, np.ndarray],
    temperature: float,
) -> Tensor:
    """InfoNCE of this rank's share of a batch (`batches`)."""
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
