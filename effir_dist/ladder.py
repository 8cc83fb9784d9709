"""A cost ladder for two objectives: every trial starts at its lowest rung, and the best of each rung go on to the next.

Asynchronous successive halving (ASHA: Li et al., 2020) with the order of NSGA-II (Deb et al., 2002) in the place of a
metric: non-dominated rank, then crowding, of size against the score that a rung gave. Nobody waits for a rung to fill:
whenever a worker is free, the highest rung with a trial that is due gives it, and else a new trial begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from effir_dist.front import Point, non_dominated

if TYPE_CHECKING:
    import numpy as np


def ranks(points: Sequence[Point]) -> list[int]:
    """Of each point (size, quality) how many fronts must be taken away before it is on one; finite numbers only.

    Equal points share a front.
    """
    found = [-1] * len(points)
    left = list(range(len(points)))
    rank = 0
    while left:
        on_front = {points[left[i]] for i in non_dominated([points[j] for j in left])}
        for i in [i for i in left if points[i] in on_front]:
            found[i] = rank
        left = [i for i in left if found[i] < 0]
        rank += 1
    return found


def crowding(points: Sequence[Point]) -> list[float]:
    """Crowding distance of points on one front: the gaps to their neighbours, infinite for the ends."""
    found = [0.0] * len(points)
    for axis in (0, 1):
        order = sorted(range(len(points)), key=lambda i: (points[i][axis], i))
        span = points[order[-1]][axis] - points[order[0]][axis] if order else 0.0
        for place, i in enumerate(order):
            if place in (0, len(order) - 1):
                found[i] = math.inf
            elif span:
                found[i] += (points[order[place + 1]][axis] - points[order[place - 1]][axis]) / span
    return found


def best_first(points: Sequence[Point]) -> list[int]:
    """Indices by rank, within a rank the loneliest first; equal ones in the order given."""
    rank_of = ranks(points)
    distance = [0.0] * len(points)
    for rank in set(rank_of):
        front = [i for i in range(len(points)) if rank_of[i] == rank]
        for i, gap in zip(front, crowding([points[i] for i in front]), strict=True):
            distance[i] = gap
    return sorted(range(len(points)), key=lambda i: (rank_of[i], -distance[i], i))


@dataclass(frozen=True)
class Candidate:
    """A plan as a strategy sees it."""

    size: float
    """Share of the unpruned model's."""
    features: tuple[float, ...]
    """What is left of each part, in [0, 1], and the settings that vary."""
    training: tuple[float, ...]
    """For each rung: what training from the start to there costs, in full trials of the unpruned model."""
    scoring: tuple[float, ...]
    """For each rung: what scoring there costs."""


@dataclass
class Rungs:
    """Who is on which rung, and what that cost. Rung 0 is the lowest; trials are known by any name."""

    rungs: int
    share: float
    known: dict[str, Candidate] = field(default_factory=dict)
    scores: dict[str, dict[int, float]] = field(default_factory=dict)
    """Trial -> rung -> score."""
    sent: dict[str, int] = field(default_factory=dict)
    """Trial -> the highest rung that it was sent to, whether or not it has arrived."""
    busy: set[str] = field(default_factory=set)
    """Trials on their way."""
    lost: set[str] = field(default_factory=set)
    """Trials that failed."""
    spent: list[float] = field(init=False)
    """On each rung, by trials on their way there too."""

    def __post_init__(self) -> None:
        self.spent = [0.0] * self.rungs

    @property
    def top(self) -> int:
        return self.rungs - 1

    def cost(self, trial: str, rung: int) -> float:
        """Of going to a rung from the highest one below that the trial was scored on, and of scoring there."""
        candidate = self.known[trial]
        below = [r for r in self.scores.get(trial, {}) if r < rung]
        begun = candidate.training[max(below)] if below else 0.0
        return candidate.training[rung] - begun + candidate.scoring[rung]

    def begin(self, trial: str, rung: int, candidate: Candidate | None = None) -> None:
        """A trial is on its way to a rung; a new one comes with what is known of it."""
        if candidate is not None:
            self.known[trial] = candidate
        self.busy.add(trial)
        self.sent[trial] = rung
        self.spent[rung] += self.cost(trial, rung)

    def tell(self, trial: str, rung: int, score: float) -> None:
        """A trial was scored on a rung."""
        self.busy.discard(trial)
        self.scores.setdefault(trial, {})[rung] = score

    def fail(self, trial: str) -> None:
        """A trial ended without a score; it is not tried again."""
        self.busy.discard(trial)
        self.lost.add(trial)

    def waiting(self) -> list[str]:
        """Trials that could go on: scored, below the top, and on their way nowhere."""
        idle = [t for t in self.scored(0) if t not in self.busy and t not in self.lost]
        return [t for t in idle if self.top not in self.scores[t]]

    def scored(self, rung: int) -> list[str]:
        """Trials with a score on a rung, in the order in which they began: a resumed search knows no other."""
        return [t for t in self.known if rung in self.scores.get(t, {})]

    def pioneer(self) -> str | None:
        """The first trial, the unpruned model, where it waits: the measure of all others, it goes to the top."""
        first = next(iter(self.known), None)
        return first if first in self.waiting() else None


class Climb(Rungs):
    """The ladder by rank and crowding: `share` of the trials on a rung go on to the next."""

    def screens(self) -> bool:
        """Whether the next evaluation is of a new plan: where nobody is due to go on."""
        return self.promote() is None

    def promote(self) -> tuple[str, int] | None:
        """The trial that is due to go on and the rung it goes to, the highest first; None where none is."""
        if pioneer := self.pioneer():
            return pioneer, self.top
        for rung in reversed(range(self.top)):
            on = self.scored(rung)
            places = math.floor(self.share * len(on))
            if sum(self.sent[t] > rung for t in on) >= places:
                continue
            points = [(self.known[t].size, self.scores[t][rung]) for t in on]
            for i in best_first(points)[:places]:
                if self.sent[on[i]] == rung and on[i] not in self.lost:
                    return on[i], rung + 1
        return None

    def choose(self, pool: Sequence[Candidate], rng: np.random.Generator) -> int:
        """Which plan of a pool of new ones to begin with: the first, which the sampler suggested."""
        return 0
