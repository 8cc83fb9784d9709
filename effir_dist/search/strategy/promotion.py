"""The rungs of a search: which trial goes where next, from what is on disk; `Guide` or `Ladder` decides.

Every rung of a trial is a job of its own: a promoted trial goes on from its checkpoint, in whichever process is free.
So nothing waits in Ray's memory, and a search that was killed knows all that it knew before from `rungs.json`, the
checkpoints and the records.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from effir_dist.core.settings import RunConfig, SearchConfig
from effir_dist.importance.store import load_work
from effir_dist.models.facts import plan_facts
from effir_dist.models.families.backbones import ModelDict, mlp_width
from effir_dist.models.pruning import PruningPlan, moving_share
from effir_dist.runs.objectives import Goal
from effir_dist.runs.pareto import unpruned
from effir_dist.runs.run_folder import Run
from effir_dist.search.strategy.fidelity import Candidate, Climb
from effir_dist.search.strategy.guided import Guide
from effir_dist.search.strategy.space import Space
from effir_dist.search.strategy.study import Sampler, Suggestion


def climbs(config: RunConfig, space: Space) -> bool:
    """Whether a search has rungs; fixed plans are trained in full."""
    return config.search.strategy != "plain" and not space.plans


class Climbing:
    """What is known of the trials below the top, and what to do next."""

    def __init__(self, run: Run, config: RunConfig, model_config: ModelDict, sampler: Sampler) -> None:
        self.run, self.search, self.model_config, self.sampler = run, config.search, model_config, sampler
        self.goal, self.dimension = Goal.of(vars(config.search)), config.model.dimension
        self.top = len(config.search.rungs)
        self.work = load_work(run)
        self.strategy = _strategy(config.search)
        self.again: list[dict[str, Any]] = []
        """Heads of trials that were on their way to a rung when the search ended."""
        self.heads: dict[str, dict[str, Any]] = {}

    def replay(self, records: list[dict[str, Any]], pending: list[dict[str, Any]]) -> None:
        """Learn what a run knows already; trials on their way to a rung are sent there again first."""
        for head in sorted([*records, *pending], key=lambda tree: tree["number"]):
            trial = head["trial"]
            self.heads[trial] = head
            for rung in self.run.rungs(trial):
                self._begin(head, rung["rung"])
                self._tell(trial, rung["rung"], rung)
            if "state" in head:
                self._begin(head, self.top)
                self.ended(head)
            elif not self.run.reached(head):
                self.again.append(head)

    def next(self, number: int) -> dict[str, Any] | None:
        """The head of the next job; None where there is none now. number: of a trial that begins."""
        if self.again:
            head = self.again.pop(0)
            return self._begin(head, head["rung"])
        if self.strategy.known and not self.strategy.screens():
            return self._promote()
        suggestion = self.sampler.pick(number, self._choose if self.search.strategy == "guided" else None)
        if suggestion is None:
            return self._promote()
        return self._begin(suggestion.to_dict(), 0)

    def _promote(self) -> dict[str, Any] | None:
        action = self.strategy.promote()
        return self._begin(self.heads[action[0]], action[1]) if action else None

    def ended(self, record: dict[str, Any]) -> None:
        """A trial has its record."""
        if record["state"] == "complete":
            self._tell(record["trial"], self.top, record)
        else:
            self.strategy.fail(record["trial"])

    def scored(self, trial: str, rung: int) -> dict[str, Any]:
        """A trial was scored on a rung below the top; what its file says of it."""
        found = next(r for r in self.run.rungs(trial) if r["rung"] == rung)
        self._tell(trial, rung, found)
        return found

    def _tell(self, trial: str, rung: int, found: dict[str, Any]) -> None:
        """What a rung found, or the record says at the top. Below it speed is told already; quality, of other data
        there, and seconds are not."""
        at_top = rung == self.top
        goal = self.goal.under(lambda c: c.measure.measured or (at_top and not c.measure.known))
        beyond = goal.violations(found, self.sampler.whole or (unpruned([found]) if at_top else None))
        self.strategy.tell(trial, rung, found["ndcg_at_10"], self._shares(trial, found), beyond)

    def _shares(self, trial: str, found: dict[str, Any]) -> tuple[float, ...]:
        """Costs as found, those that were not measured there as they were known before."""
        pairs = zip(self.goal.shares(found), self.strategy.shares[trial], strict=True)
        return tuple(before if math.isnan(now) else now for now, before in pairs)

    def _begin(self, head: dict[str, Any], rung: int) -> dict[str, Any]:
        trial = head["trial"]
        candidate = None if trial in self.strategy.known else self._candidate(head)
        self.strategy.begin(trial, rung, candidate)
        cost = self.strategy.cost(trial, rung)
        self.heads[trial] = {**head, "rung": rung, "cost": round(cost, 6)}
        return self.heads[trial]

    def _choose(self, pool: list[Suggestion], rng: np.random.Generator) -> int:
        return self.strategy.choose([self._candidate(each.to_dict()) for each in pool], rng)

    def _candidate(self, head: dict[str, Any]) -> Candidate:
        facts = plan_facts(self.model_config, head, self.dimension)
        width, gone = mlp_width(self.model_config), set(facts["dropped_attention"])
        # The fourth root: an MLP's first neurons matter most, its last hardly.
        kept = [(left / width) ** 0.25 for left in facts["mlp_widths"]]
        kept += [float(block not in gone) for block in range(len(kept))]
        share = moving_share(self.model_config, PruningPlan.from_dict(head["plan"]))
        training = [s * self.work["train"] for s in (*self.search.rungs, 1.0)]
        scoring = [*[self.work["low"]] * self.top, self.work["score"]]
        whole = self.work["train"] + self.work["score"]
        costs = (tuple(share * tokens / whole for tokens in each) for each in (training, scoring))
        return Candidate(self.goal.shares(facts), (*kept, *self.sampler.inputs(head["suggested"])), *costs)


def _strategy(search: SearchConfig) -> Guide | Climb:
    rungs = len(search.rungs) + 1
    guided = search.strategy == "guided"
    return Guide(rungs, search.screening_budget) if guided else Climb(rungs, search.promotion_fraction)

