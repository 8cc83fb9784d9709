"""BM25 of a large corpus against bm25s, which scores all passages: the same passages, scores and ties."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np
import pytest
import Stemmer

from effir_dist.training import bm25
from effir_dist.training.bm25 import BM25
from effir_dist.training.mining import Ranked

WORDS = [f"{a}{b}{c}" for a in "bdgkl" for b in "aiou" for c in "mnrst"]


class Plain:
    """Every passage's score, a stable sort."""

    def __init__(self, passages: Sequence[str]) -> None:
        self.index, self.size = bm25s.BM25(), len(passages)
        self.index.index(self.tokens(passages), show_progress=False)

    def tokens(self, texts: Sequence[str]) -> list[list[str]]:
        stemmer = Stemmer.Stemmer("english")
        return bm25s.tokenize(list(texts), stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)  # type: ignore[return-value]

    def rank(self, queries: list[str], positives: list[list[int]], depth: int) -> list[Ranked]:
        found = []
        for tokens, answers in zip(self.tokens(queries), positives, strict=True):
            scores = self.index.get_scores(tokens) if tokens else np.zeros(self.size, np.float32)
            best = np.argsort(-scores, kind="stable")[:depth]
            best = best[scores[best] > 0]
            found.append(Ranked(best, scores[best], scores[answers]))
        return found


def texts(count: int, words: tuple[int, int], seed: int) -> list[str]:
    """Frequent words are much more frequent than rare ones, as in language."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, len(WORDS) + 1) ** 1.5
    lengths = rng.integers(*words, count)
    return [" ".join(rng.choice(WORDS, size, p=share / share.sum())) for size in lengths]


def same(found: list[Ranked], expected: list[Ranked]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.indices, other.indices)
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.positives, other.positives)


@pytest.mark.parametrize("depth", [1, 7, 100, 2000])
@pytest.mark.parametrize("words", [(1, 5), (30, 60)], ids=["short", "long"])
def test_the_best_are_those_of_bm25s(depth: int, words: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bm25, "BLOCK", 300)
    passages = texts(900, (5, 40), 0)
    passages += ["", "the of and", *passages[:50]]  # nothing to find, and passages that stand there twice
    queries = [*texts(40, words, 1), "", "the", "nosuchword", "kim kim kim bam"]
    positives = [[i, 901] for i in range(len(queries))]
    expected = Plain(passages).rank(queries, positives, depth)
    ties = [(np.diff(ranked.scores) == 0).any() for ranked in expected]
    assert depth < 100 or sum(ties) > 20, "a test of ties needs ties"
    same(BM25(passages).rank(queries, positives, depth), expected)


def test_frequent_terms_are_only_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    passages = [f"often {'rare ' * int(rng.integers(1, 9)) if i % 50 == 0 else ''}word{i}" for i in range(3000)]
    miner, plain = BM25(passages), Plain(passages)
    walked: list[int] = []
    gathered = miner._gathered
    monkeypatch.setattr(miner, "_gathered", lambda *given: walked.append(len((found := gathered(*given))[1])) or found)
    same(miner.rank(["rare often"], [[0]], 10), plain.rank(["rare often"], [[0]], 10))
    assert walked == [60], "the 3,000 passages of the frequent word were walked through"
    assert not miner._sums.any()
