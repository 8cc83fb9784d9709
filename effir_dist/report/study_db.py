"""Records as trials of Optuna: what its own tools open (`study.db`), and what it says sets good trials apart."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from effir_dist.core.errors import InputError
from effir_dist.core.measures import QUALITY
from effir_dist.runs.objectives import Goal
from effir_dist.runs.pareto import unpruned

SHOWN = {
    "dropped_mlp": "dropped_mlp (blocks)",
    "dropped_attention": "dropped_attention (blocks)",
    "width_ratio": "width_ratio (of the MLPs that stay)",
    "parameters_fraction": "parameters_fraction (of the unpruned model)",
    "recall_at_100": "recall_at_100",
    "mrr_at_10": "mrr_at_10",
    "documents_per_second": "documents_per_second",
    "train_seconds": "train_seconds",
    "total_seconds": "total_seconds",
}
"""Fields of a record that Optuna's own tools show with a trial, and the name, with its unit, that they have there."""
LEAST_TRIALS = 10
"""Complete trials that importances of parameters are computed from: a tenth of them are the good ones."""


def frozen_trial(record: dict[str, Any], goal: Goal, whole: dict[str, Any] | None) -> FrozenTrial:
    """A record as a finished Optuna trial. whole: the record of the unpruned model, for the goal's constraints."""
    dists: dict[str, BaseDistribution] = {n: json_to_distribution(d) for n, d in record["distributions"].items()}
    attributes = {"trial": record["trial"], **{label: record[name] for name, label in SHOWN.items() if name in record}}
    if record["state"] == "failed":
        return create_trial(
            state=TrialState.FAIL,
            params=record["suggested"],
            distributions=dists,
            user_attrs={**attributes, "reason": record["reason"]},
        )
    found = create_trial(
        values=goal.values(record),
        params=record["suggested"],
        distributions=dists,
        user_attrs=attributes,
        system_attrs=record["attributes"],
    )
    for name, value in goal.violations(record, whole).items():
        found.set_constraint(name, value)
    return found


def parameter_importances(records: Iterable[dict[str, Any]], goal: Goal | None = None) -> dict[str, float]:
    """Suggested value -> its share in what sets trials of high quality apart (PED-ANOVA), largest first.

    Empty with fewer than LEAST_TRIALS complete trials: there is nothing to tell apart.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    goal = goal or Goal()
    study = optuna.create_study(directions=goal.directions)
    for record in goal.scored(records):
        try:
            study.add_trials([frozen_trial(record, goal, None)] if record.get("distributions") else [])
        except (KeyError, TypeError, ValueError) as error:
            reason = f"the suggested values of trial {record['trial']} do not fit their distributions ({error})"
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
    """`study.db`: the finished trials in Optuna's own format, each exactly once, rebuilt from records at the start."""

    def __init__(self, path: Path, name: str, records: Iterable[dict[str, Any]], goal: Goal | None = None) -> None:
        self.path, fresh = path, path.with_suffix(".db.tmp")
        self.goal, records = goal or Goal(), [r for r in records if not r.get("repeat_of")]
        self.whole = unpruned(records)
        fresh.unlink(missing_ok=True)
        storage = optuna.storages.RDBStorage(f"sqlite:///{fresh}")
        study = optuna.create_study(storage=storage, study_name=name, directions=self.goal.directions)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(self.goal.objectives))
        for record in records:
            study.add_trial(frozen_trial(record, self.goal, self.whole))
        storage.engine.dispose()
        os.replace(fresh, path)
        self.study = optuna.load_study(storage=f"sqlite:///{path}", study_name=name)

    def add(self, record: dict[str, Any]) -> None:
        """One more finished trial, unless it is a repeat. Raises InputError where the file cannot be written; resuming
        makes it anew."""
        if record.get("repeat_of"):
            return
        self.whole = self.whole or unpruned([record])
        try:
            self.study.add_trial(frozen_trial(record, self.goal, self.whole))
        except optuna.exceptions.StorageInternalError as error:
            reason = str(error.__cause__).splitlines()[0]
            raise InputError(f"cannot write {self.path}: {reason}; free some space and go on with --resume") from None
