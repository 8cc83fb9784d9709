"""Records as trials of Optuna: `study.db` for its own tools, and the importance of each search parameter.

A trial that was screened stands there as PRUNED, with its score as a user attribute; where it was trained in full
later, that is another trial. Samplers never see this study.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from effir_dist.core.errors import InputError
from effir_dist.core.measures import QUALITY, SIZE, STUDY, shown_in
from effir_dist.core.units import SHARE
from effir_dist.core.values import LOW_FIDELITY
from effir_dist.models.facts import PlanFacts
from effir_dist.runs.objectives import Goal, unpruned
from effir_dist.runs.records import RungScore, TrialRecord, TrialSpec, Values

LEAST_TRIALS = 10
"""Complete trials that importances of parameters need: a tenth of them are the good ones."""
FACTS = {"dropped_mlp": "blocks", "dropped_attention": "blocks", "width_ratio": "of the MLPs that stay"}
"""What a plan leaves, as Optuna's tools show it with a trial -> its unit."""


def frozen_trial(record: TrialRecord, goal: Goal, baseline: TrialRecord | None) -> FrozenTrial:
    """A record as a finished Optuna trial. baseline: the record of the unpruned model, for the goal's constraints."""
    spec = record.spec
    dists: dict[str, BaseDistribution] = {n: json_to_distribution(d) for n, d in spec.distributions.items()}
    # A full recovery has a training seed of its own, which nobody suggested.
    params = {name: value for name, value in spec.suggested.items() if name in dists or name != "train.seed"}
    if record.state == "failed":
        return create_trial(
            state=TrialState.FAIL,
            params=params,
            distributions=dists,
            user_attrs={**_attributes(record), "reason": record.reason},
        )
    found = create_trial(
        values=goal.objective_values(record),
        params=params,
        distributions=dists,
        user_attrs=_attributes(record),
        system_attrs=dict(spec.attributes),
    )
    for name, value in goal.violations(record.values, baseline).items():
        found.set_constraint(name, value)
    return found


def pruned_trial(spec: TrialSpec, score: RungScore) -> FrozenTrial:
    """What a trial scored below full training. Optuna keeps no value of a pruned trial of several objectives."""
    attributes = {"trial": spec.trial, "trained (of the training)": score.share, LOW_FIDELITY: score.values[QUALITY]}
    return create_trial(
        state=TrialState.PRUNED,
        params=dict(spec.suggested),
        distributions={name: json_to_distribution(each) for name, each in spec.distributions.items()},
        user_attrs={**attributes, **_shown(score.facts, score.values, but=QUALITY)},
    )


def _attributes(record: TrialRecord) -> dict[str, Any]:
    """What Optuna's tools show with a trial: name, with its unit where that is not plain -> value."""
    low = {LOW_FIDELITY: record.rungs[0].values[QUALITY]} if record.rungs else {}
    return {"trial": record.trial, **low, **_shown(record.facts, record.values)}


def _shown(known: PlanFacts, values: Values, but: str = "") -> dict[str, Any]:
    """What a plan leaves, and measures. but: one that is left out."""
    found: dict[str, Any] = {}
    if SIZE in values:  # or it failed before its plan was made
        facts = {name: getattr(known, name) for name in FACTS}
        found |= {f"{n} ({FACTS[n]})": list(v) if isinstance(v, tuple) else v for n, v in facts.items()}
    for entry in shown_in(STUDY):
        if entry.name in values and entry.name != but:
            unit = f" ({entry.unit.name})" if entry.unit == SHARE else ""
            found[f"{entry.name}{unit}"] = values[entry.name]
    return found


def parameter_importances(records: Iterable[TrialRecord], goal: Goal | None = None) -> dict[str, float]:
    """Search parameter -> its share in what distinguishes trials of high quality (PED-ANOVA), largest first.

    Empty with fewer than LEAST_TRIALS complete trials.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    goal = goal or Goal()
    study = optuna.create_study(directions=goal.directions)
    for record in goal.scored(records):
        try:
            study.add_trials([frozen_trial(record, goal, None)] if record.spec.distributions else [])
        except (KeyError, TypeError, ValueError) as error:
            reason = f"the suggested values of trial {record.trial} do not fit their distributions ({error})"
            raise InputError(f"{reason}; the search did not write that: put its result.json back as it was") from None
    if len(study.trials) < LEAST_TRIALS:
        return {}
    with warnings.catch_warnings():
        # It says that low values are sought, which is why the sign is turned.
        warnings.simplefilter("ignore")
        place = goal.objectives.index(QUALITY)
        found = optuna.importance.get_param_importances(study, target=lambda trial: -trial.values[place])
    return dict(sorted(found.items(), key=lambda item: -item[1]))


class Mirror:
    """`study.db`: what trials came to in Optuna's own format, each exactly once, rebuilt from records at the start.

    A thread of its own writes it, as a record takes Optuna 10 ms and more: trials do not wait for that. What it has not
    written when the process dies is in the records. A context manager, which closes it.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        records: Iterable[TrialRecord],
        goal: Goal | None = None,
        stopped: Iterable[tuple[TrialSpec, Sequence[RungScore]]] = (),
    ) -> None:
        """stopped: trials that have no record, and what they scored below full training."""
        warnings.filterwarnings("ignore", ".*set_metric_names is experimental")
        self.path, self.goal = path, goal or Goal()
        known = [r for r in records if not r.spec.repeat_of]
        self.baseline = unpruned(known)
        self._thread = ThreadPoolExecutor(1, "study.db")
        rungs = sorted([*((r.spec, r.rungs) for r in known), *stopped], key=lambda each: each[0].number)
        screened = [(spec, score) for spec, scores in rungs for score in scores]
        self._writes: deque[Future[None]] = deque([self._thread.submit(self._create, name, known, screened)])
        self._study: optuna.Study

    def add(self, record: TrialRecord) -> None:
        """One more finished trial, unless it is a repeat. Raises InputError where the file could not be written, this
        time or before; resuming makes it anew."""
        if record.spec.repeat_of:
            return
        self.baseline = self.baseline or unpruned([record])
        self._add(frozen_trial(record, self.goal, self.baseline))

    def screened(self, spec: TrialSpec, score: RungScore) -> None:
        """A trial was scored below full training. Raises InputError as `add`."""
        self._add(pruned_trial(spec, score))

    def close(self) -> None:
        """Wait until all is written. Raises InputError as `add`."""
        self._thread.shutdown()
        self._raise_failed()

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _add(self, trial: FrozenTrial) -> None:
        self._writes.append(self._thread.submit(self._write, trial))
        self._raise_failed()

    def _raise_failed(self) -> None:
        while self._writes and self._writes[0].done():
            self._writes.popleft().result()

    def _create(
        self, name: str, records: Sequence[TrialRecord], screened: Sequence[tuple[TrialSpec, RungScore]]
    ) -> None:
        fresh, baseline = self.path.with_suffix(".db.tmp"), unpruned(records)
        fresh.unlink(missing_ok=True)
        with self._full_disks():
            storage = optuna.storages.RDBStorage(f"sqlite:///{fresh}")
            study = optuna.create_study(storage=storage, study_name=name, directions=self.goal.directions)
            study.set_metric_names(list(self.goal.objectives))
            for spec, score in screened:
                study.add_trial(pruned_trial(spec, score))
            for record in records:
                study.add_trial(frozen_trial(record, self.goal, baseline))
            storage.engine.dispose()
            os.replace(fresh, self.path)
            self._study = optuna.load_study(storage=f"sqlite:///{self.path}", study_name=name)

    def _write(self, trial: FrozenTrial) -> None:
        with self._full_disks():
            self._study.add_trial(trial)

    @contextlib.contextmanager
    def _full_disks(self) -> Iterator[None]:
        try:
            yield
        except optuna.exceptions.StorageInternalError as error:
            reason = str(error.__cause__).splitlines()[0]
            raise InputError(f"cannot write {self.path}: {reason}; free some space and go on with --resume") from None
