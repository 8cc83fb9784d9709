"""Why a search ends: trials, GPU hours, a hypervolume that no longer grows, a space used up; and going on after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from effir_dist.core import config as c
from effir_dist.core.settings import SearchConfig
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import TrialRecord
from effir_dist.runs.run_folder import Run
from effir_dist.search.strategy.stopping import gpu_hours, spent, stale, stopped_trials
from tests.driven import drive, make_run, smooth
from tests.synthetic import record


def change(run: Run, values: dict[str, Any]) -> None:
    """As --resume does with settings on its command line."""
    run.write_config(c.to_dict(c.replace(c.from_dict(run.config), values)))


def test_gpu_hours_end_a_search_and_more_of_them_go_on(tmp_path: Path) -> None:
    # A trial is a minute on 4 GPUs: a fifteenth of an hour.
    run = make_run(tmp_path / "run", {"search.trials": 40, "search.gpu_hours": 0.5})
    driver = drive(run, gpus=4)
    assert len(run.results()) == 7, "the eighth would have passed them"
    assert gpu_hours(run.results()) == pytest.approx(7 / 15)
    assert driver.why == ("search.gpu_hours: 0.47 of 0.5 GPU hours are used, and another trial would pass them")
    change(run, {"search.gpu_hours": 1.0})
    drive(run, gpus=4)
    assert len(run.results()) == 15


def test_trials_that_stopped_on_a_lower_rung_or_failed_cost_gpu_hours_too(tmp_path: Path) -> None:
    # A visit to the lowest rung is 3 s on 4 GPUs, a trial in full 60 s more.
    screening = {"search.scheduler": "screening", "search.sampler": "guided", "search.screening_budget": 0.5}
    run = make_run(tmp_path / "run", {"search.trials": 40, "search.gpu_hours": 0.5, **screening})
    driver = drive(run, gpus=4)
    screened = len([trial for trial in run.trials() if not run.finished(trial)])
    trained, visits = len(run.results()), len(run.trials())
    assert screened > trained > 2
    used = 4 * (60 * trained + 3 * visits) / 3600
    assert gpu_hours(run.results(), stopped_trials(run)) == pytest.approx(used)
    assert driver.why.startswith(f"search.gpu_hours: {used:.2f} of 0.5 GPU hours are used")
    assert drive(run, gpus=4).why == driver.why, "resumed, it knows of the same hours"
    failed = TrialRecord(
        run.results()[1].spec,
        "failed",
        started="2026-11-01T00:00:00+00:00",
        finished="2026-11-01T00:00:30+00:00",
        rungs=run.results()[1].rungs,
    )
    assert gpu_hours([failed]) == pytest.approx(4 * 33 / 3600)


def test_trials_under_way_count_towards_gpu_hours() -> None:
    config = SearchConfig(gpu_hours=1.0)
    trained = record(0, 0.5, values={"total_seconds": 1200.0}, gpus=1.0)
    assert spent(config, [trained], 1, 1.0) == ""
    assert spent(config, [trained], 2, 1.0) != ""
    assert spent(config, [], 5, 1.0) == "", "nothing is known of what a trial takes"
    assert spent(SearchConfig(), [trained] * 1000, 9, 8.0) == ""


def test_a_search_that_gains_nothing_ends_and_says_so(tmp_path: Path) -> None:
    values = {"search.trials": 200, "search.patience_trials": 10, "search.patience_percent": 1.0}
    run = make_run(tmp_path / "run", values)
    driver = drive(run)
    records = run.results()
    assert 10 < len(records) < 200
    assert "the hypervolume grew from" in driver.why
    assert "in the last 10 trials, no more than 1 %" in driver.why
    goal = Goal()
    assert goal.hypervolume(records) <= 1.01 * goal.hypervolume(records[:-10])
    assert goal.hypervolume(records[:-1]) > 1.01 * goal.hypervolume(records[:-11]), "and not before"
    assert drive(run).why == driver.why, "resumed as it is, it ends for the same reason"
    change(run, {"search.patience_trials": 0, "search.trials": len(records) + 3})
    assert drive(run).why == f"all {len(records) + 3} trials are done"


def test_patience_waits_for_a_first_hypervolume() -> None:
    same = [record(number, 0.5) for number in range(9)]
    assert stale(SearchConfig(patience_trials=3), Goal(), same) == ""


def test_a_space_that_is_used_up_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"search.trials": 50}, {"drop_mlp": {"max": 1}})
    assert drive(run).why == "every plan of the search space was tried"
    assert len(run.results()) == 7
    kept = {"search.trials": 50, "search.constraints": ["parameters <= 0.96"]}
    run = make_run(tmp_path / "kept", kept, {"drop_mlp": {"max": 1}})
    assert drive(run).why == "every feasible plan of the search space was tried"
    assert len(run.results()) == 7


def test_a_time_budget_that_is_up_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"search.trials": 50, "search.time_budget": 30.0})
    assert drive(run, smooth).why == "search.time_budget: no time is left for another trial in 30 s"
    assert len(run.results()) == 1
