"""A cost ladder for several objectives: every trial starts at its lowest rung, and the best of each go on to the next.

Asynchronous successive halving (ASHA: Li et al., 2020) with the order of NSGA-II (Deb et al., 2002) in the place of a
metric: what keeps to the constraints, non-dominated rank, then crowding, of costs against the score that a rung gave.
Nobody waits for a rung to fill: whenever a worker is free, the highest rung with a trial that is due gives it, and else
a new trial begins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from effir_dist.runs.pareto import non_dominated_losses

if TYPE_CHECKING:
    import numpy as np


Losses = tuple[float, ...]
"""All to be small: costs as shares of the unpruned model's, then quality, negative."""


def ranks(points: Sequence[Losses]) -> list[int]:
    """Of each point how many fronts must be taken away before it is on one; finite numbers only.

    Equal points share a front.
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


def best_first(points: Sequence[Losses], beyond: Sequence[float] = ()) -> list[int]:
    """Indices by rank, within a rank the loneliest first; equal ones in the order given.

    beyond: how far each point is beyond the constraints. Those that keep to them (0 or less) come first, ranked among
    themselves; then the others, the nearest first.
    """
    beyond = beyond or [0.0] * len(points)
    kept = [i for i in range(len(points)) if beyond[i] <= 0]
    rank_of = dict(zip(kept, ranks([points[i] for i in kept]), strict=True))
    distance: dict[int, float] = {}
    for rank in set(rank_of.values()):
        front = [i for i in kept if rank_of[i] == rank]
        distance |= zip(front, crowding([points[i] for i in front]), strict=True)
    others = sorted(set(range(len(points))) - set(kept), key=lambda i: (beyond[i], i))
    return sorted(kept, key=lambda i: (rank_of[i], -distance[i], i)) + others


@dataclass(frozen=True)
class Candidate:
    """A plan as a strategy sees it."""

    shares: tuple[float, ...]
    """Costs that are objectives, as shares of the unpruned model's; NaN: the lowest rung will measure it."""
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
    shares: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Trial -> `Candidate.shares`, those that were measured too."""
    beyond: dict[str, dict[str, float]] = field(default_factory=dict)
    """Trial -> constraint that no plan tells -> how far it is beyond it, by the highest rung that knows."""
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
            self.shares[trial] = candidate.shares
        self.busy.add(trial)
        self.sent[trial] = rung
        self.spent[rung] += self.cost(trial, rung)

    def tell(
        self,
        trial: str,
        rung: int,
        score: float,
        shares: tuple[float, ...] = (),
        beyond: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """A trial was scored on a rung, with `shares` (empty: as its plan tells) and `beyond` as found there."""
        self.busy.discard(trial)
        self.scores.setdefault(trial, {})[rung] = score
        self.shares[trial] = shares or self.shares[trial]
        self.beyond[trial] = {**self.beyond.get(trial, {}), **beyond}

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

    def losses(self, trial: str, rung: int) -> Losses:
        """Of a trial that was scored on a rung."""
        return (*self.shares[trial], -self.scores[trial][rung])

    def order(self, trials: Sequence[str], rung: int) -> list[str]:
        """Trials that were scored on a rung, the best first."""
        over = [sum(max(0.0, value) for value in self.beyond[t].values()) for t in trials]
        return [trials[i] for i in best_first([self.losses(t, rung) for t in trials], over)]

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
            for trial in self.order(on, rung)[:places]:
                if self.sent[trial] == rung and trial not in self.lost:
                    return trial, rung + 1
        return None

    def choose(self, pool: Sequence[Candidate], rng: np.random.Generator) -> int:
        """Which plan of a pool of new ones to begin with: the first, which the sampler suggested."""
        return 0
