"""Training pairs as batches of tokens, for training and for the saliency of neurons."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effir_dist.core import strings
from effir_dist.core.errors import InputError
from effir_dist.core.kept import Kept
from effir_dist.core.settings import TrainConfig
from effir_dist.core.strings import Ragged, picked
from effir_dist.models.tokens import tokenizer_identity

if TYPE_CHECKING:
    from effir_dist.data.pairs import TrainingPairs
    from effir_dist.models.encoder import Encoder
    from effir_dist.models.tokens import Tokens

LOOKED_AT = 100
"""Of a teacher's vectors, that show whether they are of length 1."""


@dataclass(frozen=True)
class Examples:
    """Tokens of distinct texts, and the pairs that they form."""

    queries: Tokens
    passages: Tokens
    query: np.ndarray  # [pairs] index of the query
    positive: np.ndarray  # [pairs] index of the passage
    negatives: Sequence[list[int]]  # [pairs] indices of hard negatives
    answers: Sequence[list[int]]  # [queries] every known positive that is among the passages
    scores: Sequence[Sequence[float]]  # [pairs] a teacher's, of positive and hard negatives; NaN where it has none

    def group(self, pair: int, negatives: int, rng: np.random.Generator) -> tuple[list[int], list[float]]:
        """1 + negatives indices of passages: the positive, a sample of its hard negatives, then random passages.

        With the teacher's score of each, NaN for random passages.
        """
        known = self.negatives[pair]
        chosen = rng.choice(len(known), min(negatives, len(known)), replace=False).tolist() if known else []
        filled = rng.integers(len(self.passages), size=negatives - len(chosen)).tolist()
        scores = [self.scores[pair][i] for i in (0, *(1 + i for i in chosen))]
        return [int(self.positive[pair]), *(known[i] for i in chosen), *filled], [*scores, *[math.nan] * len(filled)]


@dataclass(frozen=True)
class Batch:
    """The batch of one step, of all ranks together. It is the same on every rank."""

    queries: np.ndarray  # [B] indices
    passages: np.ndarray  # [B, 1 + N] indices, each query's positive first
    scores: np.ndarray  # [B, 1 + N] of a teacher, NaN where it has none

    def share(self, rank: int, ranks: int) -> np.ndarray:
        """The queries of one rank: [b] indices within the batch, b = B / ranks."""
        size = len(self.queries) // ranks
        return np.arange(size) + rank * size


@dataclass(frozen=True)
class Teacher:
    """Embeddings of `distinct` texts by the unpruned retriever, or by `train.teacher`.

    They are l2-normalised where its similarity is cosine.
    """

    queries: np.ndarray  # [Q, D]
    passages: np.ndarray  # [P, D]

    @functools.cached_property
    def unit_length(self) -> bool:
        """Whether they are l2-normalised, by some of the queries."""
        some = np.asarray(self.queries[:LOOKED_AT], np.float32)
        return bool(np.allclose(np.linalg.norm(some, axis=1), 1, atol=1e-2))


def distinct(pairs: TrainingPairs, hard_negatives: bool) -> tuple[Sequence[str], Sequence[str]]:
    """Every query once, and every passage once. Positives come first: without hard negatives the passages are those."""
    hard = [_hard(pairs).flat] if hard_negatives else []
    return strings.distinct([pairs.queries])[0], strings.distinct([pairs.positives, *hard])[0]


def _hard(pairs: TrainingPairs) -> Ragged:
    """The hard negatives of all pairs."""
    return pairs.negatives if isinstance(pairs.negatives, Ragged) else Ragged.of(pairs.negatives)


def examples_of(encoder: Encoder, pairs: TrainingPairs, config: TrainConfig, cache: Path | None) -> Examples:
    """Tokenise pairs, each distinct text once. Raises InputError where a teacher's scores are needed and missing.

    cache: a folder of token ids; with it, this process does the work once for the same pairs.
    """
    if config.distill_scores and any(math.isnan(score) for scores in pairs.scores for score in scores):
        raise InputError("train.distill_scores needs a teacher's score of every positive and every hard negative")
    if cache is None:
        return _examples(encoder, pairs, config.hard_negatives > 0, None)
    key = (config.hard_negatives > 0, encoder.settings, tokenizer_identity(encoder.tokenizer))
    return _kept.get(pairs, key, lambda: _examples(encoder, pairs, config.hard_negatives > 0, cache))


_kept: Kept[Examples] = Kept(2)


def _examples(encoder: Encoder, pairs: TrainingPairs, hard_negatives: bool, cache: Path | None) -> Examples:
    queries, (query,) = strings.distinct([pairs.queries])
    hard = _hard(pairs) if hard_negatives else Ragged.of([[] for _ in pairs.queries])
    # Answers that no pair brings come last, and are no passages.
    known = Ragged.of([pairs.answers.get(text, ()) for text in queries])
    texts, (positive, negatives, answers) = strings.distinct([pairs.positives, hard.flat, known.flat])
    count = 1 + max(positive.max(initial=-1), negatives.max(initial=-1))
    of_known = np.repeat(np.arange(len(queries)), np.diff(known.offsets))[answers < count]
    owners, answering = np.concatenate([query, of_known]), np.concatenate([positive, answers[answers < count]])
    return Examples(
        queries=encoder.tokenize(queries, "query", cache),
        passages=encoder.tokenize(picked(texts, range(count)), "document", cache),
        query=query,
        positive=positive,
        negatives=Ragged(negatives.astype(np.int32), hard.offsets),
        answers=_answers(owners, answering, len(queries)),
        scores=pairs.scores,
    )


def _answers(queries: np.ndarray, passages: np.ndarray, count: int) -> Ragged:
    """Passages of each of `count` queries, each once: of pairs of a query and a passage that answers it."""
    pairs = np.unique(np.stack([queries, passages]), axis=1)
    return Ragged.of_lengths(pairs[1].astype(np.int32), np.bincount(pairs[0], minlength=count).tolist())


def batches(examples: Examples, config: TrainConfig) -> Iterator[Batch]:
    """Endless batches, the same on every rank."""
    negatives = config.hard_negatives if any(examples.negatives) else 0
    for epoch in itertools.count():
        rng = np.random.default_rng([config.seed, epoch])
        order = rng.permutation(len(examples.query))
        for start in range(0, len(order) - config.batch_size + 1, config.batch_size):
            pairs = order[start : start + config.batch_size]
            groups = [examples.group(int(i), negatives, rng) for i in pairs]
            indices, scores = (np.array(columns) for columns in zip(*groups, strict=True))
            yield Batch(examples.query[pairs], indices, scores)
