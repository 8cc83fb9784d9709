"""The records in Optuna's own format: what its dashboard opens, and which search parameter decides."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import optuna
import pytest

from effir_dist.report.study_db import Mirror, parameter_importances
from tests.search.test_samplers import queue, run


def test_study_db_opens_in_optuna_with_each_trial_once(tmp_path: Path) -> None:
    records = run(queue(), range(6), failing=(2,))
    with Mirror(tmp_path / "study.db", "mine", records[:4]) as mirror:
        mirror.add(records[4])
    # A driver killed here is followed by one that rebuilds the study from the records.
    with Mirror(tmp_path / "study.db", "mine", records[:5]) as mirror:
        mirror.add(records[5])
    study = optuna.load_study(study_name="mine", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert [t.user_attrs["trial"] for t in study.trials] == [r.trial for r in records]
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert study.trials[2].user_attrs["reason"] == "out of memory"
    assert study.metric_names == ["parameters", "ndcg_at_10"]
    assert study.trials[1].values == [records[1].values["parameters"], records[1].values["ndcg_at_10"]]


def test_study_db_names_what_it_shows_with_units(tmp_path: Path) -> None:
    more = {"documents_per_second": 500.0, "parameters_fraction": 0.5}
    records = [dataclasses.replace(r, values={**r.values, **more}) for r in run(queue(), range(3))]
    with Mirror(tmp_path / "study.db", "mine", records):
        pass
    study = optuna.load_study(study_name="mine", storage=f"sqlite:///{tmp_path / 'study.db'}")
    shown = study.trials[1].user_attrs
    assert shown["dropped_mlp (blocks)"] == list(records[1].facts.dropped_mlp)
    assert shown["documents_per_second"] == 500.0
    assert shown["parameters_fraction (of the unpruned model)"] == 0.5
    assert set(study.trials[1].params) == {"width_ratio", *(f"drop_mlp.{block}" for block in range(6))}


def test_importance_goes_to_what_decides_and_needs_enough_trials() -> None:
    records = run(queue(sampler="random"), range(60))
    deciding = [
        dataclasses.replace(r, values={**r.values, "ndcg_at_10": 0.7 - 0.3 * float(r.spec.suggested["drop_mlp.4"])})
        for r in records
    ]
    found = parameter_importances(deciding)
    assert next(iter(found)) == "drop_mlp.4"
    assert sum(found.values()) == pytest.approx(1)
    assert found["drop_mlp.4"] > 2 * found["width_ratio"]
    assert parameter_importances(deciding[:9]) == {}
