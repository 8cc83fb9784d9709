"""Groups of texts: least padding against all ways of cutting, budgets, and steps that are the same with and without."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from effir_dist.models.grouping import filled, least_padding, padded_tokens, split, within
from effir_dist.training.collate import ahead


def padded(groups: list[np.ndarray], lengths: np.ndarray) -> int:
    return sum(len(group) * int(lengths[group].max()) for group in groups)


def test_no_other_way_of_cutting_pads_less() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        lengths, count = rng.integers(1, 6, size=rng.integers(1, 9)), int(rng.integers(1, 6))
        found, rising = least_padding(lengths, count), np.sort(lengths)
        n = len(lengths)
        assert sorted(np.concatenate(found).tolist()) == list(range(n))
        assert len(found) == min(count, n)
        cuts = itertools.combinations(range(1, n), min(count, n) - 1)
        ways = [itertools.pairwise((0, *c, n)) for c in cuts]
        assert padded(found, lengths) == min(sum((b - a) * rising[b - 1] for a, b in way) for way in ways)


def test_more_groups_pad_less() -> None:
    lengths = np.random.default_rng(0).integers(5, 256, 128)
    found = padded_tokens(lengths, 8)
    assert found[0] == 128 * lengths.max()
    assert (np.diff(found) < 0).all()
    assert [found[count - 1] for count in (1, 3, 8)] == [padded(least_padding(lengths, n), lengths) for n in (1, 3, 8)]


@pytest.mark.parametrize("budget", [1, 60, 300, 10**6])
def test_groups_keep_to_their_budget(budget: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 256, 100)
    for groups, size in ((within(lengths, budget), padded), (filled(lengths, budget), lambda g, n: n[g[0]].sum())):
        assert sorted(np.concatenate(groups).tolist()) == list(range(100))
        assert all(len(group) == 1 or size([group], lengths) <= budget for group in groups)


def test_ranks_get_as_many_groups() -> None:
    found = split([np.arange(5), np.arange(5, 7)], 4)
    assert sorted(len(group) for group in found) == [1, 2, 2, 2]
    assert np.concatenate(found).tolist() == list(range(7))
    assert len(split([np.arange(2)], 5)) == 2


def test_what_a_thread_makes_ahead_comes_in_order_with_its_error() -> None:
    def made() -> Iterator[int]:
        yield from range(5)
        raise OSError("no disk")

    steps = ahead(made())
    assert list(itertools.islice(steps, 5)) == list(range(5))
    with pytest.raises(OSError, match="no disk"):
        next(steps)
    assert list(ahead(iter(range(1, 4)))) == [1, 2, 3]
    assert next(ahead(itertools.count(1))) == 1  # and the thread ends with it


def test_a_group_that_is_large_enough_ends_where_texts_get_shorter() -> None:
    lengths = np.array([4, 9, 9, 9, 4, 4, 4, 1, 2, 3])
    found = [lengths[group].tolist() for group in within(lengths, 20, 8)]
    assert found == [[9, 9], [9], [4, 4, 4, 4], [3, 2, 1]]
    assert [lengths[group].tolist() for group in within(lengths, 20, 10**6)] == [
        lengths[group].tolist() for group in within(lengths, 20)
    ]


def test_such_groups_of_many_short_texts_are_hardly_padded() -> None:
    lengths = np.random.default_rng(0).integers(12, 40, 400)
    padded = {
        enough: sum(int(lengths[group].max()) * len(group) for group in within(lengths, 1024, enough))
        for enough in (256, None)
    }
    assert padded[256] < 1.01 * lengths.sum() < padded[None]
