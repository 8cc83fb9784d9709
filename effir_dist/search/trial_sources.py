"""Where a driver's trials come from: given ones, such as a base or repeats; the search's own; full recoveries; and
several of these in turn."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Protocol

from effir_dist.core.settings import RunConfig, SearchConfig
from effir_dist.importance.store import load_importance, load_saliency
from effir_dist.models.families.base import ModelDict
from effir_dist.runs.records import BASE, FULL_RECOVERY, RungScore, TrialRecord, TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search.cost_estimate import screening_share
from effir_dist.search.live.view import LiveView
from effir_dist.search.strategy.next_trial import TrialQueue, has_rungs
from effir_dist.search.strategy.recovering import Recovered, base_specs, full_recoveries
from effir_dist.search.strategy.repeating import pending_repeats, repeat_specs
from effir_dist.search.strategy.schedulers import no_screening
from effir_dist.search.strategy.space import Space
from effir_dist.search.strategy.stopping import stale


class TrialSource(Protocol):
    """Some trials of a search, one at a time. `under_way`: those of the driver that run, or are to be tried again."""

    stage: str
    """Of its trials: `TrialSpec.stage`."""

    @property
    def left(self) -> int:
        """Trials that lack their record, as far as is known; 0 where it has ended for another reason."""

    @property
    def why(self) -> str:
        """Why it gives no more trials; "" where there is nothing to say."""

    def next(self, number: int, under_way: Sequence[TrialSpec]) -> TrialSpec | None:
        """A trial, where it is new to be known as `number`; None where there is none now."""

    def holds(self, under_way: Sequence[TrialSpec]) -> bool:
        """Whether the trials of the next source must wait, once this one has none now."""

    def ended(self, record: TrialRecord) -> None:
        """A trial, of this source or of another, has its record."""

    def set_aside(self, spec: TrialSpec) -> None:
        """One of its trials, or of another source, could not be run for no reason of its own."""


class GivenTrials:
    """Trials that are settled before they start."""

    def __init__(self, specs: Sequence[TrialSpec], done: str = "", needed: bool = False, stage: str = "") -> None:
        """done: what is said when all have their record. needed: whether nothing else may start without them."""
        self.waiting, self.open = [*specs], {spec.trial for spec in specs}
        self.done, self.needed, self.stage, self.failed = done, needed, stage, ""

    @property
    def left(self) -> int:
        return len(self.open)

    @property
    def why(self) -> str:
        return self.failed or self.done

    def next(self, number: int, under_way: Sequence[TrialSpec]) -> TrialSpec | None:
        return self.waiting.pop(0) if self.waiting else None

    def holds(self, under_way: Sequence[TrialSpec]) -> bool:
        return self.needed and bool(self.open or self.failed)

    def ended(self, record: TrialRecord) -> None:
        if record.trial in self.open:
            self.open.remove(record.trial)
            if self.needed and not record.complete:
                self.failed = f"trial {record.trial} failed, from which all others start: {record.reason}"

    def set_aside(self, spec: TrialSpec) -> None: ...


class SearchedTrials:
    """The search's own: those of a queue, up to `search.trials` with a record."""

    stage = ""

    def __init__(self, queue: TrialQueue, search: SearchConfig, records: list[TrialRecord], view: LiveView) -> None:
        """records: the driver's, which grow."""
        self.queue, self.search, self.records, self.view = queue, search, records, view
        self.ended_trials = sum(record.spec.searched for record in records)
        self.aside: list[TrialSpec] = []
        self.stale = stale(search, queue.goal, records)

    @property
    def left(self) -> int:
        return 0 if self.stale else max(0, self.search.trials - self.ended_trials)

    @property
    def why(self) -> str:
        if self.stale or not self.left:
            return self.stale or f"all {self.search.trials} trials are done"
        return f"every {'feasible ' if self.queue.goal.constraints else ''}plan of the search space was tried"

    def next(self, number: int, under_way: Sequence[TrialSpec]) -> TrialSpec | None:
        if self.left <= sum(spec.searched and self._to_the_end(spec) for spec in (*under_way, *self.aside)):
            return None
        known = self.queue.repeats
        spec = self.queue.next(number)
        for _ in range(self.queue.repeats - known):
            self.view.repeat_saved()
        if spec:
            for block in self.queue.emptied(spec):
                self.view.message(f"trial {spec.trial}: its width leaves MLP {block} no neuron, so that is dropped")
        return spec

    def _to_the_end(self, spec: TrialSpec) -> bool:
        return spec.rung is None or spec.rung >= len(self.search.rungs)

    def holds(self, under_way: Sequence[TrialSpec]) -> bool:
        return bool(under_way)

    def scored(self, trial: str, rung: int) -> RungScore:
        """A trial was scored below the top."""
        return self.queue.scored(trial, rung)

    def ended(self, record: TrialRecord) -> None:
        self.queue.ended(record)
        self.ended_trials += record.spec.searched
        self.stale = self.stale or stale(self.search, self.queue.goal, self.records)

    def set_aside(self, spec: TrialSpec) -> None:
        if spec.searched:
            self.aside.append(spec)
            self.queue.set_aside(spec)


class FullRecoveries:
    """A full recovery of each model of the front, once the front is settled."""

    stage = FULL_RECOVERY

    def __init__(self, run: Run, config: RunConfig, recovered: Recovered, expect: Callable[[int], None]) -> None:
        """expect: called with the number of trials that come, once that is known."""
        self.run, self.own_seed, self.recovered, self.expect = run, config.train.seed, recovered, expect
        self.waiting = [spec for spec in run.pending() if spec.stage == FULL_RECOVERY and not spec.repeat_of]
        self.open = {spec.continues for spec in self.waiting}
        """Trials whose full recovery has begun and has no record."""
        self.settled = False

    @property
    def lacking(self) -> list[str]:
        """Trials that are to have a full recovery and have none, as far as is known."""
        return sorted({*self.open, *(spec.trial for spec in self.recovered.lacking)})

    @property
    def left(self) -> int:
        return len(self.lacking)

    @property
    def why(self) -> str:
        return "each model of the front had its full recovery"

    def next(self, number: int, under_way: Sequence[TrialSpec]) -> TrialSpec | None:
        if not self.settled:
            self.settled = True
            new = [spec for spec in self.recovered.lacking if spec.trial not in self.open]
            self.waiting += full_recoveries(new, number, self.own_seed)
            self.open |= {spec.trial for spec in new}
            self.expect(len(self.waiting))
        return self.waiting.pop(0) if self.waiting else None

    def holds(self, under_way: Sequence[TrialSpec]) -> bool:
        return True

    def ended(self, record: TrialRecord) -> None:
        self.open -= self.recovered.done

    def set_aside(self, spec: TrialSpec) -> None: ...


class InTurn:
    """Several sources, each when the one before has no more and does not hold it back."""

    def __init__(self, *sources: TrialSource, recovered: Recovered | None = None) -> None:
        """recovered: where the front's models are to have a full recovery, which of them have."""
        self.sources, self.at, self.recovered = sources, 0, recovered
        self.searched = next((each for each in sources if isinstance(each, SearchedTrials)), None)

    @property
    def stage(self) -> str:
        """Of the trial that comes next."""
        return next((source for source in self.sources[self.at :] if source.left), self.sources[-1]).stage

    @property
    def left(self) -> int:
        """As `TrialSource.left`, of all of them."""
        return sum(source.left for source in self.sources)

    @property
    def why(self) -> str:
        """Why there are no more trials."""
        ended = itertools.takewhile(lambda n: n <= self.at or not self.sources[n].left, range(len(self.sources)))
        return "; ".join(why for number in ended if (why := self.sources[number].why))

    @property
    def owed(self) -> list[str]:
        """Trials that are to have a full recovery, and have none."""
        begun = (source.open for source in self.sources if isinstance(source, FullRecoveries))
        lacking = self.recovered.lacking if self.recovered else []
        return sorted({*(spec.trial for spec in lacking), *(trial for trials in begun for trial in trials)})

    def next(self, number: int, under_way: Sequence[TrialSpec]) -> TrialSpec | None:
        """A trial; None where there is none now, and none at all where none is under way."""
        while True:
            source = self.sources[self.at]
            spec = source.next(number, under_way)
            if spec or source.holds(under_way) or self.at + 1 == len(self.sources):
                return spec
            self.at += 1

    def scored(self, trial: str, rung: int) -> RungScore:
        """A trial of the search's own was scored below the top."""
        assert self.searched is not None
        return self.searched.scored(trial, rung)

    def ended(self, record: TrialRecord) -> None:
        """A trial has its record, which is among the driver's."""
        if self.recovered:
            self.recovered.add(record)
        for source in self.sources:
            source.ended(record)

    def set_aside(self, spec: TrialSpec) -> None:
        """A trial could not be run, for no reason of its own."""
        for source in self.sources:
            source.set_aside(spec)


def of_base(run: Run) -> InTurn:
    """The base alone, before anything is known of the model that it becomes."""
    done = f"the base is done, and no time is left for trials: --resume {run.folder} goes on"
    return InTurn(GivenTrials(base_specs(run), done, needed=True, stage=BASE))


def of_repeats(run: Run, config: RunConfig, repeat: int, recovered: Recovered | None = None) -> InTurn:
    """The front's trials again, until each has so many repeats. recovered: as for `InTurn`."""
    done = f"each trial of the front was given {repeat} repeats"
    return InTurn(GivenTrials(repeat_specs(run, config, repeat), done), recovered=recovered)


def of_search(
    run: Run,
    config: RunConfig,
    space: Space,
    model_config: ModelDict,
    view: LiveView,
    records: list[TrialRecord],
    recovered: Recovered | None = None,
) -> InTurn:
    """The trials of a search, whose layers and neurons are scored. records: the driver's, which grow. recovered: where
    the front's models have a full recovery at the end."""
    queue = TrialQueue(run, config, space, model_config, load_importance(run), load_saliency(run))
    if has_rungs(config, space) and not queue.has_rungs:
        view.message(no_screening(config.search, screening_share(queue.problem.work, config.search.rungs[0])))
    queue.replay(records, run.pending())
    found: list[TrialSource] = [GivenTrials(pending_repeats(run))]
    if config.train.recovers:
        found.append(GivenTrials(base_specs(run), needed=True, stage=BASE))
    found.append(SearchedTrials(queue, config.search, records, view))
    if recovered:
        found.append(FullRecoveries(run, config, recovered, view.expect_recoveries))
    return InTurn(*found, recovered=recovered)
