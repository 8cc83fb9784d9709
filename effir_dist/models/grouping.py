"""Texts in groups of like length, so that little is padded. Pure arithmetic; a padded group is [texts, longest]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MOST_GROUPS = 8


def _costs(lengths: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Padded tokens of the best 1 to `most` groups, [most]; where each last group begins, [most, m + 1]; the m sizes.

    Only texts of different length are parted: group k ends at one of the m distinct lengths.
    """
    sizes, counts = np.unique(lengths, return_counts=True)
    upto = np.concatenate([[0], counts.cumsum()])
    begins, ends = np.arange(len(sizes))[:, None], np.arange(1, len(sizes) + 1)[None, :]
    padded = np.where(begins < ends, (upto[ends] - upto[begins]) * sizes[ends - 1], np.inf)  # of a group, [m, m]
    best = np.concatenate([[0.0], np.full(len(sizes), np.inf)])  # of the texts up to each length
    found, froms = [], []
    for _ in range(most):
        ways = best[:-1, None] + padded
        froms.append(np.concatenate([[0], ways.argmin(axis=0)]))
        best = np.concatenate([[np.inf], ways.min(axis=0)])
        found.append(best[-1])
    return np.array(found), np.array(froms), sizes


def padded_tokens(lengths: np.ndarray, most: int) -> np.ndarray:
    """Tokens, padding included, of the best 1 to `most` groups: [most]; infinite where there are fewer lengths."""
    return _costs(lengths, most)[0]


def least_padding(lengths: np.ndarray, count: int) -> list[np.ndarray]:
    """Indices of texts in `count` groups (one a text at most) with the least padding, shortest texts first."""
    order = np.argsort(lengths, kind="stable")
    padded, froms, sizes = _costs(lengths, count)
    parts = int(np.isfinite(padded).sum())
    cuts, end = [], len(sizes)
    for number in range(parts - 1, 0, -1):
        end = int(froms[number][end])
        cuts.append(int(np.searchsorted(lengths[order], sizes[end])))
    return split(np.split(order, sorted(cuts)), count)


def within(lengths: np.ndarray, tokens: int, enough: int | None = None) -> list[np.ndarray]:
    """Indices of texts, longest first, in groups of at most `tokens` when padded (one text at least).

    enough: padded tokens from which on a group takes no text that is shorter than its first; None fills all groups.
    """
    order = np.argsort(-lengths, kind="stable")
    falling, groups, start = -lengths[order], [], 0
    while start < len(order):
        longest = max(1, int(-falling[start]))
        size = max(1, tokens // longest)
        if enough is not None:
            alike = int(np.searchsorted(falling, falling[start], "right")) - start
            size = min(size, max(alike, -(-enough // longest)))
        groups.append(order[start : start + size])
        start += size
    return groups


def filled(lengths: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Indices of texts, in their order, in groups of at most `tokens` together, not padded (one text at least)."""
    ends, starts = lengths.cumsum(), [0]
    while starts[-1] < len(ends):
        first = starts[-1]
        before = int(ends[first - 1]) if first else 0
        starts.append(max(first + 1, int(np.searchsorted(ends, before + tokens, "right"))))
    return np.split(np.arange(len(ends)), starts[1:-1])


def split(groups: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """The same groups, the largest of them halved until there are `count`, or as many as there are texts."""
    found = list(groups)
    while len(found) < count:
        largest = max(range(len(found)), key=lambda i: len(found[i]))
        if len(found[largest]) < 2:
            return found
        middle = len(found[largest]) // 2
        found[largest : largest + 1] = [found[largest][:middle], found[largest][middle:]]
    return found
