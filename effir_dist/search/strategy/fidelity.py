"""What a search knows of its trials: the rungs that they were scored on, their costs, the constraints they violate.

A rung is a fidelity: a share of the training, and a part of the data to score on. Rung 0 is the lowest; on the top rung
a trial is trained and scored in full. Samplers and schedulers read this state; `next_trial` keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from effir_dist.search.strategy.guided.pool import Candidate
from effir_dist.search.strategy.non_dominated_sort import Losses, best_first


@dataclass
class FidelityState:
    """Which trial is on which rung, and what that cost. Trials are known by any name."""

    rungs: int
    """How many there are, the top included."""
    candidates: dict[str, Candidate] = field(default_factory=dict)
    """Trial -> its plan, in the order in which trials began."""
    shares: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Trial -> `Candidate.shares`, with those that were measured."""
    violations: dict[str, dict[str, float]] = field(default_factory=dict)
    """Trial -> constraint that no plan tells -> how far it is beyond the bound, by the highest rung that knows."""
    scores: dict[str, dict[int, float]] = field(default_factory=dict)
    """Trial -> rung -> score, in the order in which trials began: a resumed search knows no other."""
    target: dict[str, int] = field(default_factory=dict)
    """Trial -> the highest rung that it was sent to, whether or not it was scored there yet."""
    running: set[str] = field(default_factory=set)
    """Trials on their way to a rung."""
    failed: set[str] = field(default_factory=set)
    begun: dict[str, int] = field(default_factory=dict)
    """Trial -> how many trials had begun when it was promoted to the top."""
    spent: list[float] = field(init=False)
    """Cost of each rung by FLOPs, that of running trials included."""
    timed: list[tuple[float, float]] = field(init=False)
    """For each rung: cost and seconds of what was timed there."""

    def __post_init__(self) -> None:
        self.spent = [0.0] * self.rungs
        self.timed = [(0.0, 0.0)] * self.rungs

    @property
    def top(self) -> int:
        return self.rungs - 1

    def cost(self, trial: str, rung: int) -> float:
        """Of going to a rung from the highest one below that the trial was scored on, and of scoring there."""
        candidate = self.candidates[trial]
        below = [r for r in self.scores[trial] if r < rung]
        begun = candidate.training[max(below)] if below else 0.0
        return candidate.training[rung] - begun + candidate.scoring[rung]

    def begin(self, trial: str, rung: int, candidate: Candidate | None = None, begun: int | None = None) -> None:
        """A trial is on its way to a rung; a new one comes with its candidate. begun: how many trials had begun then,
        where it is told later."""
        if candidate is not None:
            self.candidates[trial] = candidate
            self.shares[trial], self.scores[trial] = candidate.shares, {}
        self.running.add(trial)
        self.target[trial] = rung
        if rung == self.top:
            self.begun[trial] = len(self.candidates) if begun is None else begun
        self.spent[rung] += self.cost(trial, rung)

    def timed_as(self, trial: str, rung: int, seconds: float) -> None:
        """A trial took so many seconds to come to a rung and to be scored there."""
        cost, before = self.timed[rung]
        self.timed[rung] = cost + self.cost(trial, rung), before + seconds

    def seconds_spent(self) -> list[float] | None:
        """Of each rung, as measured; what runs, or was not timed, by its FLOPs at the rung's seconds for those. None
        where a rung that trials were sent to has no measurement."""
        used = [rung for rung, cost in enumerate(self.spent) if cost > 0]
        if not all(self.timed[rung][0] > 0 for rung in used):
            return None
        rates = {rung: self.timed[rung][1] / self.timed[rung][0] for rung in used}
        return [cost * rates.get(rung, 0.0) for rung, cost in enumerate(self.spent)]

    def screened_since(self, promotions: int) -> int:
        """Trials that began since the last so many promotions to the top; all, where there were fewer."""
        return len(self.candidates) - (sorted(self.begun.values())[-promotions] if promotions <= len(self.begun) else 0)

    @property
    def below_top(self) -> int:
        """Trials that run below the top."""
        return sum(self.target[trial] < self.top for trial in self.running)

    def tell(
        self,
        trial: str,
        rung: int,
        score: float,
        shares: tuple[float, ...] = (),
        violations: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """A trial was scored on a rung. shares: costs as found there (empty: as its plan tells)."""
        self.running.discard(trial)
        self.scores[trial][rung] = score
        self.shares[trial] = shares or self.shares[trial]
        self.violations[trial] = {**self.violations.get(trial, {}), **violations}

    def fail(self, trial: str) -> None:
        """A trial ended without a score; it is not tried again."""
        self.running.discard(trial)
        self.failed.add(trial)

    def waiting(self) -> list[str]:
        """Trials that could go on: those screened that have not failed."""
        return [t for t in self.screened() if t not in self.failed]

    def screened(self) -> list[str]:
        """Trials that were scored on the lowest rung, and are neither running nor scored on the top."""
        top = self.top
        return [t for t, scores in self.scores.items() if 0 in scores and top not in scores and t not in self.running]

    def scored(self, rung: int) -> list[str]:
        """Trials with a score on a rung."""
        return [t for t, scores in self.scores.items() if rung in scores]

    def feasible(self, trial: str) -> bool:
        """Whether a scored trial violates no constraint, as far as is known."""
        return all(value <= 0 for value in self.violations[trial].values())

    def losses(self, trial: str, rung: int) -> Losses:
        """Of a trial that was scored on a rung."""
        return (*self.shares[trial], -self.scores[trial][rung])

    def best_first(self, trials: Sequence[str], rung: int) -> list[str]:
        """Trials that were scored on a rung, by non-dominated rank and crowding distance."""
        over = [sum(max(0.0, value) for value in self.violations[t].values()) for t in trials]
        return [trials[i] for i in best_first([self.losses(t, rung) for t in trials], over)]

    def waiting_baseline(self) -> str | None:
        """The first trial, the unpruned model, where it waits: all others are measured by it."""
        first = next(iter(self.candidates), None)
        return first if first in self.waiting() else None
