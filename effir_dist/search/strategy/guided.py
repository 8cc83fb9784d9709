"""Which trial to begin and which to train further: the search's own strategy, without Ray, Optuna or files.

A trial's lowest rung is a score without training, which costs a fraction of a trial. So many plans are screened there,
and a `Surrogate` that learns from those trained in full says which of them are expected to widen the front most for
what they cost: those go on. Which plans are screened is up to a surrogate as well, one of the plans alone. A constraint
that only training tells has a surrogate of its own: growth counts by the chance that it is kept (Gardner et al., 2014).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from effir_dist.search.strategy.fidelity import Candidate, Rungs
from effir_dist.search.strategy.surrogate import Surrogate, chance_below, expected_growth

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
        gain = self._gain([c.features for c in pool], self._expected_shares(pool), ())
        return int(np.argmax(gain / np.array([c.training[-1] + c.scoring[-1] for c in pool])))

    def _expected_shares(self, pool: Sequence[Candidate]) -> np.ndarray:
        """[M, C] costs of new plans; those that are yet to be measured as the screened plans' let expect."""
        found = np.array([c.shares for c in pool])
        screened = self.scored(0)
        inputs = np.array([c.features for c in pool])
        for axis in np.flatnonzero(np.isnan(found).any(axis=0)):
            measured = np.array([self.shares[t][axis] for t in screened])
            found[:, axis] = Surrogate(np.array(self._features(screened, ())), measured).predict(inputs)[0]
        return found

    def promote(self) -> tuple[str, int] | None:
        """The waiting trial that goes on, and the rung it goes to; None where none waits."""
        waiting = self.waiting()
        if not waiting:
            return None
        if pioneer := self.pioneer():
            return pioneer, self.top
        if len(self._trained()) < ENOUGH:
            return self.order(waiting, 0)[0], self.top
        gain = self._gain(self._features(waiting, (0,)), np.array([self.shares[t] for t in waiting]), (0,), waiting)
        return waiting[int(np.argmax(gain / np.array([self.cost(t, self.top) for t in waiting])))], self.top

    def _trained(self) -> list[str]:
        return [t for t in self.scored(self.top) if 0 in self.scores[t]]

    def _gain(
        self, inputs: Sequence[Sequence[float]], shares: np.ndarray, rungs: Sequence[int], trials: Sequence[str] = ()
    ) -> np.ndarray:
        """[M] expected growth of the front by plans of these inputs, which include the scores of `rungs`, and shares
        [M, C]. trials: theirs, where they have begun."""
        trained = self._trained()
        reached = np.array([self.scores[t][self.top] for t in trained])
        model = Surrogate(np.array(self._features(trained, rungs)), reached)
        front = [self.losses(t, self.top) for t in trained if all(v <= 0 for v in self.beyond[t].values())]
        going = [t for t in self.scored(0) if t in self.busy]
        if going:  # taken for as good as expected, so that several workers do not train the same corner
            there = self._features(going, rungs)
            guess, kept = model.predict(np.array(there))[0], self._chance_kept(there, rungs, going) > 0.5
            front += [(*self.shares[t], -float(g)) for t, g, k in zip(going, guess, kept, strict=True) if k]
        mean, deviation = model.predict(np.array(inputs))
        return expected_growth(front, shares, mean, deviation) * self._chance_kept(inputs, rungs, trials)

    def _chance_kept(
        self, inputs: Sequence[Sequence[float]], rungs: Sequence[int], trials: Sequence[str]
    ) -> np.ndarray:
        """[M] how likely plans of these inputs keep to the constraints that no plan tells: 0 or 1 where the lowest rung
        of their trial told, as it does of speed."""
        x, found = np.array(inputs), np.ones(len(inputs))
        for name in {name: None for t in self.scored(0) for name in self.beyond[t]}:
            told = [t for t in self.scored(0) if name in self.beyond[t]]
            over = np.array([self.beyond[t][name] for t in told])
            chance = chance_below(0.0, *Surrogate(np.array(self._features(told, rungs)), over).predict(x))
            known = {i: float(self.beyond[t][name] <= 0) for i, t in enumerate(trials) if name in self.beyond[t]}
            chance[list(known)] = list(known.values())
            found *= chance
        return found

    def _features(self, trials: Sequence[str], rungs: Sequence[int]) -> list[list[float]]:
        """[N, K + rungs]"""
        return [[*self.known[t].features, *(self.scores[t][r] for r in rungs)] for t in trials]
