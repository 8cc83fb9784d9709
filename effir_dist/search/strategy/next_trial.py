"""Which trial comes next. The sampler proposes plans, the scheduler decides who goes where; here both learn of trials.

Every rung of a trial is a job of its own: a promoted trial goes on from its checkpoint, in whichever process is free.
So a search that was killed knows all that it knew before, from the trials' files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from effir_dist.core.measures import QUALITY
from effir_dist.core.settings import RunConfig
from effir_dist.importance.ranking import Importance
from effir_dist.importance.store import load_work
from effir_dist.models.families.base import ModelDict
from effir_dist.report.progress import rung_seconds, seconds_of
from effir_dist.runs.objectives import Goal, unpruned
from effir_dist.runs.records import RungScore, TrialRecord, TrialSpec, Values
from effir_dist.runs.run_folder import Run
from effir_dist.search.cost_estimate import screening_share
from effir_dist.search.strategy.engine import Engine
from effir_dist.search.strategy.fidelity import FidelityState
from effir_dist.search.strategy.problem import Problem
from effir_dist.search.strategy.schedulers import Promote, Propose, scheduler_of, screening_pays
from effir_dist.search.strategy.space import Space

if TYPE_CHECKING:
    import numpy as np


def has_rungs(config: RunConfig, space: Space, work: Mapping[str, float] | None = None) -> bool:
    """Whether trials are scored on the way to full training; fixed plans are all trained in full, and so are all plans
    where screening would be no choice but a cost. work: as `load_work` has it; None: not known yet."""
    search = config.search
    if search.scheduler == "plain" or space.plans:
        return False
    if search.scheduler != "screening" or work is None or Goal.of(search).measured:  # speed is best known early
        return True
    return screening_pays(search.screening_budget, screening_share(work, search.rungs[0]))


class TrialQueue:
    """Gives the trials of a search, one at a time, and learns from how they end."""

    def __init__(
        self,
        run: Run,
        config: RunConfig,
        space: Space,
        model_config: ModelDict,
        importance: Importance,
        neurons: Mapping[str, np.ndarray],
        work: Mapping[str, float] | None = None,
    ) -> None:
        """neurons: [L, F] scores for each ranking. work: None takes the run's."""
        search, work = config.search, load_work(run) if work is None else work
        self.run, self.has_rungs = run, has_rungs(config, space, work)
        if not self.has_rungs and has_rungs(config, space):  # but what was screened is not trained for being left over
            self.has_rungs = any(run.rungs(trial) for trial in run.trials())
        rungs = search.rungs if self.has_rungs else ()
        self.problem = Problem(config, space, model_config, importance, neurons, work, rungs)
        self.goal = self.problem.goal
        self.scheduler = scheduler_of(search if self.has_rungs else replace(search, scheduler="plain"))
        self.state = FidelityState(len(rungs) + 1)
        self.specs: dict[str, TrialSpec] = {}
        """Trial -> where it went last."""
        self.engine = Engine(self.problem, self.state, search, self.specs)
        self.starts = [*self.problem.starts]
        self.baseline: TrialRecord | None = None
        """The unpruned model's, once there is one: what constraints on quality go by."""
        self.unfinished: list[TrialSpec] = []
        """Trials that ran when the search ended."""
        self.exhausted = False
        """Whether the sampler had no new plan, though asked hundreds of times: a free worker does not ask it again."""

    @property
    def top(self) -> int:
        """The rung of full training; 0 in a search without rungs."""
        return self.state.top

    @property
    def repeats(self) -> int:
        """Known plans that the sampler proposed, and that were not trained again."""
        return self.engine.repeats

    def replay(self, records: Sequence[TrialRecord], pending: Iterable[TrialSpec]) -> None:
        """Learn all that a run knows. Trials that were on their way somewhere are given again first.

        records, pending: by number; repeats among them are no part of this, nor are a base and full recoveries.
        """
        # With rungs Optuna hears of trials in the order in which they end, without in that in which they begin.
        heard = sorted(records, key=lambda r: r.finished) if self.has_rungs else records
        self.baseline = unpruned(heard)
        for record in records:
            self.problem.know(record.spec)
        own = [record for record in heard if record.spec.searched]
        left = [spec for spec in pending if spec.searched and spec.key not in self.problem.tried]
        for spec in left:
            self.problem.know(spec)
        ended = {record.trial: record for record in own}
        for spec in sorted([*(record.spec for record in own), *left], key=lambda spec: spec.number):
            self._replay_trial(spec, ended.get(spec.trial))
        self.engine.learn(own, self.baseline)

    def _replay_trial(self, spec: TrialSpec, record: TrialRecord | None) -> None:
        self.specs[spec.trial] = spec
        if self.has_rungs:
            for found in self.run.rungs(spec.trial):
                self._begin(spec, found.rung)
                self._scored(spec.trial, found)
        if record:
            # An older record does not say when the trial was promoted; it was after it had begun.
            self._begin(spec, self.top, spec.number + 1 if spec.begun is None else spec.begun)
            self._tell_end(record)
        elif not self.has_rungs or not self.run.reached(spec):
            self.unfinished.append(spec)

    def next(self, number: int) -> TrialSpec | None:
        """What a free worker does: a new trial, to be known as `number`, or one that goes on, which keeps its own.

        None: there is nothing now; and where no trial runs, every plan was tried.
        """
        if self.unfinished:
            return self._go_on()
        action = self.scheduler.next(self.state, self.engine, self.exhausted)
        if isinstance(action, Propose):
            if spec := self._propose(number):
                return self._begin(spec, action.rung)
            self.exhausted = True
            action = self.scheduler.next(self.state, self.engine, self.exhausted)
        if not isinstance(action, Promote):
            return None
        return self._begin(self.engine.begin(self.specs[action.trial]), action.rung)

    def scored(self, trial: str, rung: int) -> RungScore:
        """A trial was scored on a rung below the top; returns what its file says of it."""
        found = next(score for score in self.run.rungs(trial) if score.rung == rung)
        self._scored(trial, found)
        self.engine.leave(trial)
        return found

    def ended(self, record: TrialRecord) -> None:
        """A trial has its record. A repeat teaches nothing, a base that it is the baseline, a full recovery nothing."""
        if record.spec.repeat_of:
            return
        self.baseline = self.baseline or unpruned([record])
        if record.spec.stage:
            return
        self._tell_end(record)
        self.engine.finish(record, self.baseline)

    def set_aside(self, spec: TrialSpec) -> None:
        """A trial could not be run, for no reason of its own: it teaches nothing, and no other waits for it."""
        self.state.fail(spec.trial)
        self.engine.leave(spec.trial)

    def emptied(self, spec: TrialSpec) -> list[int]:
        """The MLPs that a trial drops only because its width ratio left them no neuron."""
        return self.problem.emptied(spec)

    def _go_on(self) -> TrialSpec:
        """The first unfinished trial, to where it was sent."""
        spec = self.engine.begin(self.unfinished.pop(0))
        if not self.has_rungs:
            return self._begin(spec, self.top)
        return self._begin(spec, self.top if spec.rung is None else spec.rung, spec.begun)

    def _propose(self, number: int) -> TrialSpec | None:
        """A new plan, which runs now: what the search starts with, then the sampler's; None where all were tried."""
        while self.starts:
            spec = self.problem.spec(number, self.starts.pop(0))
            wanted = self.problem.is_unpruned(spec) or self.problem.feasible(spec)
            if wanted and spec.key not in self.problem.tried:
                return self.engine.begin(spec)
        return None if self.problem.space.plans else self.engine.propose(number)

    def _begin(self, spec: TrialSpec, rung: int, begun: int | None = None) -> TrialSpec:
        """A trial goes to a rung. Returns its spec with the rung and the cost of going there. begun: how many trials
        had begun when it was sent there, where that was before."""
        trial, state = spec.trial, self.state
        state.begin(trial, rung, None if trial in state.candidates else self.problem.candidate(spec), begun)
        cost = round(state.cost(trial, rung), 6)
        self.specs[trial] = (
            replace(spec, rung=rung, cost=cost, begun=state.begun.get(trial))
            if self.has_rungs
            else replace(spec, rung=None, cost=0.0, begun=None)
        )
        return self.specs[trial]

    def _tell_end(self, record: TrialRecord) -> None:
        if record.complete:
            self._time(record.trial, self.top, seconds_of(record) - rung_seconds(record.rungs))
            self._tell(record.trial, self.top, record.values)
        else:
            self.state.fail(record.trial)

    def _scored(self, trial: str, found: RungScore) -> None:
        self._time(trial, found.rung, rung_seconds([found]))
        self._tell(trial, found.rung, found.values)

    def _time(self, trial: str, rung: int, seconds: float) -> None:
        """What a visit to a rung took; 0 where its record does not say."""
        if seconds > 0:
            self.state.timed_as(trial, rung, seconds)

    def _tell(self, trial: str, rung: int, values: Values) -> None:
        """What was found on a rung. Below the top speed is known already; quality there is of other data, and seconds
        are not those of a whole trial."""
        at_top = rung == self.top
        goal = self.goal.under(lambda c: c.measure.measured or (at_top and not c.measure.known))
        violations = goal.violations(values, self.baseline)
        self.state.tell(trial, rung, values[QUALITY], self._shares(trial, values), violations)

    def _shares(self, trial: str, values: Values) -> tuple[float, ...]:
        """Costs as found; those that were not measured there as they were known before."""
        pairs = zip(self.goal.shares(values), self.state.shares[trial], strict=True)
        return tuple(before if math.isnan(now) else now for now, before in pairs)
