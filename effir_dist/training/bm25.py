"""Lexical ranking of a large corpus: Lucene's BM25 (Kamphuis et al., ECIR 2020), English stop words and stemming.

Scores are bm25s's to the bit. bm25s scores every passage of the corpus for each query and partitions all of them. Here
a query's passages are found by its rare terms, and its frequent terms are looked up only for those that can still be
among the best (MaxScore: Turtle and Flood, 1995).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effir_dist.training.mining import Ranked

K1, B = 1.5, 0.75
"""bm25s's and Lucene's: how soon more of a term counts no more, and how much a passage's length does."""
BLOCK = 65536
"""Passages that are tokenised at a time."""
ROUNDING = 2.0**-22
"""Of a sum of single floats, a term: bounds are wrong by no more of the largest sum possible."""


@dataclass(frozen=True)
class _Block:
    """What some passages hold, by term and then by passage."""

    terms: NDArray[np.int32]
    """[n]"""
    passages: NDArray[np.int32]
    """[n] indices in the corpus"""
    counts: NDArray[np.int32]
    """[n] how often the term stands in the passage"""
    lengths: NDArray[np.int64]
    """[passages] in terms"""


@dataclass(frozen=True)
class _Postings:
    """The passages of each term, ascending, with the term's share of their scores."""

    starts: NDArray[np.int64]
    """[terms + 1]"""
    passages: NDArray[np.int32]
    """[n]"""
    weights: NDArray[np.float32]
    """[n]"""

    def of(self, term: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Passages and weights."""
        part = slice(self.starts[term], self.starts[term + 1])
        return self.passages[part], self.weights[part]

    def looked_up(self, term: int, wanted: NDArray[np.int32]) -> NDArray[np.float32]:
        """[n] weights of a term in `wanted` passages [n]; 0 where it is not in them."""
        passages, weights = self.of(term)
        places = np.minimum(np.searchsorted(passages, wanted), len(passages) - 1)
        return np.where(passages[places] == wanted, weights[places], np.float32(0))


def _tokens(texts: Sequence[str], as_ids: bool) -> Any:
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    return bm25s.tokenize(list(texts), stopwords="en", stemmer=stemmer, return_ids=as_ids, show_progress=False)


def _block(texts: Sequence[str], first: int, vocabulary: dict[str, int]) -> _Block:
    """The terms of `texts`, the first of which is the corpus's passage `first`. New terms join the vocabulary."""
    found = _tokens(texts, as_ids=True)
    terms = np.array([vocabulary.setdefault(stem, len(vocabulary)) for stem in found.vocab], np.int64)
    lengths = np.array([len(ids) for ids in found.ids], np.int64)
    own = np.fromiter(itertools.chain.from_iterable(found.ids), np.int64, int(lengths.sum()))
    keys = terms[own] * len(texts) + np.repeat(np.arange(len(texts)), lengths)
    unique, counts = np.unique(keys, return_counts=True)
    passages = unique % len(texts) + first
    return _Block((unique // len(texts)).astype(np.int32), passages.astype(np.int32), counts.astype(np.int32), lengths)


def _postings(blocks: list[_Block], terms: int) -> _Postings:
    """Takes the blocks out of the list one by one, so that they and the result are not in memory twice."""
    frequencies = sum((np.bincount(block.terms, minlength=terms) for block in blocks), np.zeros(terms, np.int64))
    lengths = np.concatenate([block.lengths for block in blocks])
    rarity, mean = _rarity(frequencies, len(lengths)), lengths.mean()
    starts = np.concatenate([[0], frequencies.cumsum()])
    found = _Postings(starts, np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32))
    ends = starts[:-1].copy()
    while blocks:
        block = blocks.pop(0)
        places, sizes = _places(block.terms, ends)
        found.passages[places] = block.passages
        found.weights[places] = rarity[block.terms] * (
            block.counts / (K1 * ((1 - B) + B * lengths[block.passages] / mean) + block.counts)
        )
        ends += sizes
    return found


def _places(terms: NDArray[np.int32], ends: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where a block's entries go, each behind what its term has already; and how many each term gets."""
    sizes = np.bincount(terms, minlength=len(ends))
    within = np.arange(len(terms)) - (sizes.cumsum() - sizes)[terms]
    return ends[terms] + within, sizes


def _rarity(frequencies: NDArray[np.int64], passages: int) -> NDArray[np.float32]:
    """[terms] inverse document frequencies; `math.log` of each distinct one, as in bm25s."""
    distinct, which = np.unique(frequencies, return_inverse=True)
    logs = [math.log(1 + (passages - n + 0.5) / (n + 0.5)) for n in distinct.tolist()]
    return np.array(logs, np.float32)[which]


class BM25:
    """Ranks passages for queries. Of equal scores the earlier passage comes first."""

    at_once = 256
    """Queries that are ranked between two writes."""

    def __init__(self, passages: Sequence[str]) -> None:
        self._vocabulary: dict[str, int] = {}
        starts = range(0, len(passages), BLOCK)
        blocks = [_block(passages[start : start + BLOCK], start, self._vocabulary) for start in starts]
        self._postings = _postings(blocks, len(self._vocabulary))
        starts_of = self._postings.starts[:-1]
        self._most = np.maximum.reduceat(self._postings.weights, starts_of) if len(starts_of) else np.empty(0)
        self._sums = np.zeros(len(passages), np.float32)

    def rank(self, queries: list[str], positives: list[list[int]], depth: int) -> list[Ranked]:
        """The best `depth` passages with a score above 0, and the scores of each query's positives."""
        found = []
        for stems, answers in zip(_tokens(queries, as_ids=False), positives, strict=True):
            terms = [self._vocabulary[stem] for stem in stems if stem in self._vocabulary]
            best = self._best(terms, depth)
            found.append(Ranked(best, self._scores(terms, best), self._scores(terms, np.array(answers, np.int32))))
        return found

    def _scores(self, terms: list[int], passages: NDArray[Any]) -> NDArray[np.float32]:
        """[n] scores of `passages`, summed in the query's order: in another one single floats round otherwise."""
        scores = np.zeros(len(passages), np.float32)
        for term in terms:
            scores += self._postings.looked_up(term, passages)
        return scores

    def _best(self, terms: list[int], depth: int) -> NDArray[np.int32]:
        candidates = self._candidates(Counter(terms), depth)
        scores = self._scores(terms, candidates)
        return candidates[np.lexsort((candidates, -scores))[:depth]]

    def _candidates(self, terms: Counter[int], depth: int) -> NDArray[np.int32]:
        """Passages among which the best are, ascending: none that is left out could reach them."""
        order = sorted(terms, key=lambda term: self._postings.starts[term + 1] - self._postings.starts[term])
        most = np.array([terms[term] * self._most[term] for term in order])
        left = np.append(most[::-1].cumsum()[::-1], 0.0)
        slack = ROUNDING * terms.total() * left[0]
        done, found = self._gathered(order, terms, depth, left + slack)
        sums = self._sums[found].copy()
        self._sums[found] = 0
        for number in range(done, len(order)):
            found, sums = _possible(found, sums, left[number] + slack, depth)
            sums += terms[order[number]] * self._postings.looked_up(order[number], found)
        found, _ = _possible(found, sums, slack, depth)
        return np.sort(found)

    def _gathered(
        self, order: list[int], terms: Counter[int], depth: int, left: NDArray[np.float64]
    ) -> tuple[int, NDArray[np.int32]]:
        """Number of terms whose passages all are in the second answer, with `_sums` of their weights.

        The terms that are left cannot bring another passage among the best: together they give less than the least of
        them has. left: what they may give at most.
        """
        parts: list[NDArray[np.int32]] = []
        count = 0
        for number, term in enumerate(order):
            passages, weights = self._postings.of(term)
            # To look is worth while where the term is longer than what is looked at.
            if depth <= count < 4 * len(passages) and _least(self._sums[np.concatenate(parts)], depth) > left[number]:
                return number, np.concatenate(parts)
            parts.append(passages[self._sums[passages] == 0])
            count += len(parts[-1])
            self._sums[passages] += terms[term] * weights
        return len(order), np.concatenate([np.empty(0, np.int32), *parts])


def _least(sums: NDArray[np.float32], depth: int) -> float:
    """The `depth`-th largest."""
    return float(np.partition(sums, len(sums) - depth)[len(sums) - depth])


def _possible(
    found: NDArray[np.int32], sums: NDArray[np.float32], left: float, depth: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Those that may be among the best `depth`, where what is left gives at most `left`."""
    if len(found) <= depth:
        return found, sums
    kept = sums + left >= _least(sums, depth)
    return found[kept], sums[kept]
