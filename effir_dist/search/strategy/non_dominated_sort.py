"""The order of NSGA-II (Deb et al., 2002): feasible points first, by non-dominated rank, then by crowding distance."""

from __future__ import annotations

import math
from collections.abc import Sequence

from effir_dist.runs.pareto import non_dominated_losses

Losses = tuple[float, ...]
"""All to be small: costs as shares of the unpruned model's, then quality, negative."""


def ranks(points: Sequence[Losses]) -> list[int]:
    """Non-dominated rank of each point: 0 is the front, 1 the front once that is taken away, and so on.

    Equal points share a rank. Coordinates must be finite.
    """
    found = [-1] * len(points)
    left = list(range(len(points)))
    rank = 0
    while left:
        on_front = {points[left[i]] for i in non_dominated_losses([points[j] for j in left])}
        for i in [i for i in left if points[i] in on_front]:
            found[i] = rank
        left = [i for i in left if found[i] < 0]
        rank += 1
    return found


def crowding(points: Sequence[Losses]) -> list[float]:
    """Crowding distance of points on one front: the gaps to their neighbours, infinite for the ends."""
    found = [0.0] * len(points)
    for axis in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda i: (points[i][axis], i))
        span = points[order[-1]][axis] - points[order[0]][axis] if order else 0.0
        for place, i in enumerate(order):
            if place in (0, len(order) - 1):
                found[i] = math.inf
            elif span:
                found[i] += (points[order[place + 1]][axis] - points[order[place - 1]][axis]) / span
    return found


def best_first(points: Sequence[Losses], violations: Sequence[float] = ()) -> list[int]:
    """Indices by rank, within a rank by falling crowding distance; equal ones in the order given.

    violations: how far each point is beyond the constraints. Feasible points (0 or less) come first, ranked among
    themselves; the others follow, the smallest violation first.
    """
    violations = violations or [0.0] * len(points)
    feasible = [i for i in range(len(points)) if violations[i] <= 0]
    rank_of = dict(zip(feasible, ranks([points[i] for i in feasible]), strict=True))
    distance: dict[int, float] = {}
    for rank in set(rank_of.values()):
        front = [i for i in feasible if rank_of[i] == rank]
        distance |= zip(front, crowding([points[i] for i in front]), strict=True)
    infeasible = sorted(set(range(len(points))) - set(feasible), key=lambda i: (violations[i], i))
    return sorted(feasible, key=lambda i: (rank_of[i], -distance[i], i)) + infeasible
