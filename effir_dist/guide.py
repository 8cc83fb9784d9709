"""Which trial to begin and which to train further: the search's own strategy, without Ray, Optuna or files.

A trial's lowest rung is a score without training, which costs a fraction of a trial. So many plans are screened there,
and a `Surrogate` that learns from those trained in full says which of them are expected to widen the front most for
what they cost: those go on. Which plans are screened is up to a surrogate as well, one of the screen's own scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from effir_dist.ladder import Candidate, Rungs, best_first
from effir_dist.surrogate import Surrogate, expected_growth

ENOUGH = 4
"""Scores that a surrogate is fitted to, at least."""
CHANCE = 0.1
"""Share of the screened plans that are drawn at random, so that a wrong surrogate is found out."""


class Guide(Rungs):
    """The state of a search by this strategy; `share` is what the lowest rung may take of all cost."""

    def screens(self) -> bool:
        """Whether the next evaluation is of a new plan: while the screen's share lasts, or nothing else is there."""
        if self.pioneer():
            return False
        return self.spent[0] <= self.share * sum(self.spent) or not self.waiting()

    def choose(self, pool: Sequence[Candidate], rng: np.random.Generator) -> int:
        """Which plan of a pool of new ones to screen: its place."""
        if len(self._trained()) < ENOUGH or rng.random() < CHANCE:
            return int(rng.integers(len(pool)))
        gain = self._gain([c.features for c in pool], [c.size for c in pool], ())
        return int(np.argmax(gain / np.array([c.training[-1] + c.scoring[-1] for c in pool])))

    def promote(self) -> tuple[str, int] | None:
        """The waiting trial that goes on, and the rung it goes to; None where none waits."""
        waiting = self.waiting()
        if not waiting:
            return None
        if pioneer := self.pioneer():
            return pioneer, self.top
        if len(self._trained()) < ENOUGH:
            points = [(self.known[t].size, self.scores[t][max(self.scores[t])]) for t in waiting]
            return waiting[best_first(points)[0]], self.top
        gain = self._gain(self._features(waiting, (0,)), [self.known[t].size for t in waiting], (0,))
        return waiting[int(np.argmax(gain / np.array([self.cost(t, self.top) for t in waiting])))], self.top

    def _trained(self) -> list[str]:
        return [t for t in self.scored(self.top) if 0 in self.scores[t]]

    def _gain(self, inputs: Sequence[Sequence[float]], sizes: Sequence[float], rungs: Sequence[int]) -> np.ndarray:
        """[M] expected growth of the front by plans of these inputs and sizes, which include the scores of `rungs`."""
        trained = self._trained()
        reached = np.array([self.scores[t][self.top] for t in trained])
        model = Surrogate(np.array(self._features(trained, rungs)), reached)
        front = [(self.known[t].size, self.scores[t][self.top]) for t in trained]
        going = [t for t in self.scored(0) if t in self.busy]
        if going:  # taken for as good as expected, so that several workers do not train the same corner
            guess, _ = model.predict(np.array(self._features(going, rungs)))
            front += [(self.known[t].size, float(g)) for t, g in zip(going, guess, strict=True)]
        mean, deviation = model.predict(np.array(inputs))
        return expected_growth(front, np.array(sizes), mean, deviation)

    def _features(self, trials: Sequence[str], rungs: Sequence[int]) -> list[list[float]]:
        """[N, K + rungs]"""
        return [[*self.known[t].features, *(self.scores[t][r] for r in rungs)] for t in trials]
