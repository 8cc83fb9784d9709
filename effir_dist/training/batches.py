"""Training pairs as batches of tokens: the same for training and for ranking neurons."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effir_dist.core.errors import InputError
from effir_dist.core.kept import Kept
from effir_dist.core.settings import TrainConfig
from effir_dist.models.tokens import tokenizer_identity

if TYPE_CHECKING:
    from effir_dist.data.pairs import TrainingPairs
    from effir_dist.models.encoder import Encoder
    from effir_dist.models.tokens import Tokens


@dataclass(frozen=True)
class Examples:
    """Tokens of distinct texts, and which belong together."""

    queries: Tokens
    passages: Tokens
    query: np.ndarray  # [pairs] index of the query
    positive: np.ndarray  # [pairs] index of the passage
    negatives: list[list[int]]  # [pairs] indices of hard negatives
    answers: list[set[int]]  # [queries] every known positive
    scores: list[list[float]]  # [pairs] a teacher's, of the positive and the hard negatives; NaN where it has none

    def group(self, pair: int, negatives: int, rng: np.random.Generator) -> tuple[list[int], list[float]]:
        """The positive and a sample of its hard negatives, filled up with random passages: 1 + negatives indices.

        With the teacher's score of each; it says nothing (NaN) of random passages.
        """
        known = self.negatives[pair]
        chosen = rng.choice(len(known), min(negatives, len(known)), replace=False).tolist() if known else []
        filled = rng.integers(len(self.passages), size=negatives - len(chosen)).tolist()
        scores = [self.scores[pair][place] for place in (0, *(1 + i for i in chosen))]
        return [int(self.positive[pair]), *(known[i] for i in chosen), *filled], [*scores, *[math.nan] * len(filled)]


@dataclass(frozen=True)
class Batch:
    """What all ranks together train on in one step: the same on every rank."""

    queries: np.ndarray  # [B] indices
    passages: np.ndarray  # [B, 1 + N] indices, each query's positive first
    scores: np.ndarray  # [B, 1 + N] of a teacher, NaN where it has none

    def share(self, rank: int, ranks: int) -> np.ndarray:
        """The queries that are one rank's: [b] places in the batch, b = B / ranks."""
        size = len(self.queries) // ranks
        return np.arange(size) + rank * size


@dataclass(frozen=True)
class Teacher:
    """Embeddings of `distinct` texts by the unpruned retriever, l2-normalised."""

    queries: np.ndarray  # [Q, D]
    passages: np.ndarray  # [P, D]


def distils_itself(config: TrainConfig) -> bool:
    """Whether a training needs the unpruned retriever as `Teacher`."""
    return config.distill_similarities > 0 or config.distill_embeddings > 0


def distinct(pairs: TrainingPairs, hard_negatives: bool) -> tuple[list[str], list[str]]:
    """Every query and every passage once, the positives first: without hard negatives the passages are a prefix."""
    hard = pairs.negatives if hard_negatives else []
    return list(dict.fromkeys(pairs.queries)), list(dict.fromkeys(itertools.chain(pairs.positives, *hard)))


def examples_of(encoder: Encoder, pairs: TrainingPairs, config: TrainConfig, cache: Path | None) -> Examples:
    """Tokenise pairs: every distinct text once. InputError where a teacher's scores are asked for and missing.

    With a `cache`, the same pairs are neither sorted out nor tokenised again by this process.
    """
    if config.distill_scores and any(math.isnan(score) for scores in pairs.scores for score in scores):
        raise InputError("train.distill_scores needs a teacher's score of every positive and every hard negative")
    if cache is None:
        return _examples(encoder, pairs, config.hard_negatives > 0, None)
    key = (config.hard_negatives > 0, encoder.settings, tokenizer_identity(encoder.tokenizer))
    return _kept.get(pairs, key, lambda: _examples(encoder, pairs, config.hard_negatives > 0, cache))


_kept: Kept[Examples] = Kept(2)


def _examples(encoder: Encoder, pairs: TrainingPairs, hard_negatives: bool, cache: Path | None) -> Examples:
    query_texts, passage_texts = distinct(pairs, hard_negatives)
    queries = {text: i for i, text in enumerate(query_texts)}
    passages = {text: i for i, text in enumerate(passage_texts)}
    answers: list[set[int]] = [set() for _ in queries]
    for query, positive in zip(pairs.queries, pairs.positives, strict=True):
        answers[queries[query]].add(passages[positive])
    hard = pairs.negatives if hard_negatives else [[] for _ in pairs.queries]
    return Examples(
        queries=encoder.tokenize(query_texts, "query", cache),
        passages=encoder.tokenize(passage_texts, "document", cache),
        query=np.array([queries[text] for text in pairs.queries]),
        positive=np.array([passages[text] for text in pairs.positives]),
        negatives=[[passages[text] for text in texts] for texts in hard],
        answers=answers,
        scores=pairs.scores,
    )


def batches(examples: Examples, config: TrainConfig) -> Iterator[Batch]:
    """Without end, the same on every rank."""
    negatives = config.hard_negatives if any(examples.negatives) else 0
    for epoch in itertools.count():
        rng = np.random.default_rng([config.seed, epoch])
        order = rng.permutation(len(examples.query))
        for start in range(0, len(order) - config.batch_size + 1, config.batch_size):
            pairs = order[start : start + config.batch_size]
            groups = [examples.group(int(i), negatives, rng) for i in pairs]
            indices, scores = (np.array(columns) for columns in zip(*groups, strict=True))
            yield Batch(examples.query[pairs], indices, scores)
