"""`train.order=tune_prune_recover`: the base comes first, and the full recoveries of the front come last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from effir_dist.core.errors import InputError
from effir_dist.models.pruning import PruningPlan
from effir_dist.runs.front_so_far import FrontSoFar
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import BASE, FULL_RECOVERY, TrialRecord, TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.runs.trial_spec import BASE_TRIAL
from effir_dist.search.strategy.repeating import again


def has_base(run: Run) -> bool:
    """Whether a run's base has its scores and its weights."""
    return run.finished(BASE_TRIAL) and run.result(BASE_TRIAL).complete


def base_specs(run: Run) -> list[TrialSpec]:
    """The base where it has no record yet. Raises InputError where it failed."""
    if not run.finished(BASE_TRIAL):
        return [TrialSpec(int(BASE_TRIAL), {}, {}, PruningPlan(), idle=(), stage=BASE)]
    base = run.result(BASE_TRIAL)
    if not base.complete:
        raise InputError(f"trial {BASE_TRIAL} failed, from which all others start: {base.reason}; start a new run")
    return []


class Recovered:
    """Which models of the front have had their full recovery, while records come in.

    The front is that of the base and of the search's own trials: a full recovery makes no other model worth one.
    """

    def __init__(self, goal: Goal, records: Iterable[TrialRecord]) -> None:
        self.best = FrontSoFar(goal, (r for r in records if _decides(r)))
        self.done = {r.spec.continues for r in records if _is_first(r.spec)}

    def add(self, record: TrialRecord) -> None:
        """One more record has come."""
        if _decides(record):
            self.best.add(record)
        elif _is_first(record.spec):
            self.done.add(record.spec.continues)

    @property
    def lacking(self) -> list[TrialSpec]:
        """The front's models without one, the largest first."""
        front = [record.spec for record in self.best.goal.front(self.best.records)]
        return [spec for spec in front if not spec.stage and spec.trial not in self.done]


def _decides(record: TrialRecord) -> bool:
    return record.spec.stage != FULL_RECOVERY


def _is_first(spec: TrialSpec) -> bool:
    """Whether it is a full recovery, and no repeat of one."""
    return spec.stage == FULL_RECOVERY and not spec.repeat_of


def full_recoveries(lacking: Sequence[TrialSpec], number: int, own_seed: int) -> list[TrialSpec]:
    """A full recovery of each of these trials, the first to be known as `number`. own_seed: the run's `train.seed`."""
    seeds = [int(spec.suggested.get("train.seed", own_seed)) for spec in lacking]
    return [
        again(spec, number + i, seed + 1, stage=FULL_RECOVERY, continues=spec.trial)
        for i, (spec, seed) in enumerate(zip(lacking, seeds, strict=True))
    ]
