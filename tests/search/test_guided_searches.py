"""Searches with rungs by the real driver, without Ray: what is on disk is all that a resumed search needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from effir_dist.core.settings import SearchConfig
from effir_dist.report.study_db import Mirror
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search.cluster.worker import Job
from effir_dist.search.strategy.guided import sampler as guided
from tests.driven import MODEL, drive, make_run, smooth

SPACE = {"drop_mlp": {"max": 5}, "width_ratio": {"low": 0.25, "high": 1.0, "step": 0.25, "groups": 2}}
ASHA = {"search.scheduler": "asha", "search.rungs": [0.0, 0.25], "search.promotion_fraction": 0.4}
GUIDED = {"search.sampler": "guided", "search.scheduler": "screening", "search.screening_budget": 0.3}


@pytest.fixture(autouse=True)
def few_to_choose_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of 200 plans for each proposal costs more than all else here."""
    monkeypatch.setattr(guided, "POOL", 20)


def scored(spec: TrialSpec, share: float) -> dict[str, float]:
    """Lower rungs say less: an untrained model's score falls faster."""
    found = smooth(spec, share)
    harsh = {0.0: 3.0, 0.25: 1.5}.get(share, 1.0)
    return {**found, "ndcg_at_10": max(0.01, 0.6 - harsh * (0.6 - found["ndcg_at_10"]))}


def history(run: Run) -> list[tuple[Any, ...]]:
    """What every trial came to, by number."""
    lines = []
    for trial in run.trials():
        record = run.result(trial) if run.finished(trial) else None
        rungs = [(score.rung, score.values["ndcg_at_10"], score.cost) for score in run.rungs(trial)]
        lines.append((trial, rungs, record and record.values["ndcg_at_10"], record and record.spec.key))
    return lines


@pytest.mark.parametrize("values", [ASHA, GUIDED], ids=["asha", "guided"])
def test_a_search_that_is_stopped_and_resumed_takes_the_steps_of_one_that_is_not(
    values: dict[str, Any], tmp_path: Path
) -> None:
    whole = make_run(tmp_path / "whole", {"search.trials": 6, **values}, SPACE)
    drive(whole, scored)
    again = make_run(tmp_path / "again", {"search.trials": 6, **values}, SPACE)
    for most in (1, 4, 2, 1000):
        drive(again, scored, most)
    assert history(again) == history(whole)
    assert len(whole.results()) == 6


@pytest.mark.parametrize("values", [ASHA, GUIDED], ids=["asha", "guided"])
def test_a_trial_that_died_on_its_way_to_a_rung_goes_there_again(values: dict[str, Any], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"search.trials": 4, **values}, SPACE)
    drive(run, scored, 3)
    job = drive(run, scored, 0).next_job()  # handed to a worker that is killed
    assert isinstance(job, Job)
    resumed = drive(run, scored, 0)
    assert [spec.trial for spec in resumed.trials.searched.queue.unfinished] == [job.spec.trial]
    again = resumed.next_job()
    assert isinstance(again, Job)
    assert (again.spec.trial, again.spec.rung, again.spec.key) == (job.spec.trial, job.spec.rung, job.spec.key)
    drive(run, scored)
    assert len(run.results()) == 4


def test_costs_on_disk_are_what_the_state_says_was_spent(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"search.trials": 5, **ASHA}, SPACE)
    driver = drive(run, scored)
    below = [score for trial in run.trials() for score in run.rungs(trial)]
    spent = driver.trials.searched.queue.state.spent
    for rung, cost in enumerate(spent[:-1]):
        assert cost == pytest.approx(sum(score.cost for score in below if score.rung == rung), abs=1e-4)
    assert spent[-1] == pytest.approx(sum(r.spec.cost for r in run.results()), abs=1e-4)


@pytest.mark.parametrize("values", [ASHA, GUIDED], ids=["asha", "guided"])
def test_study_db_shows_what_was_screened_as_pruned_with_its_score(values: dict[str, Any], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"search.trials": 5, "search.most_screened": 3, **values}, SPACE)

    def shown() -> list[tuple[str, str, Any]]:
        study = optuna.load_study(study_name=run.name, storage=f"sqlite:///{run.study_path}")
        return sorted((t.user_attrs["trial"], t.state.name, t.user_attrs["low_fidelity"]) for t in study.trials)

    drive(run, scored, 7, mirror=Mirror)
    drive(run, scored, mirror=Mirror)
    written = shown()
    below = [(trial, score) for trial in run.trials() for score in run.rungs(trial)]
    assert [each for each in written if each[1] == "PRUNED"] == sorted(
        (trial, "PRUNED", score.values["ndcg_at_10"]) for trial, score in below
    )
    assert sum(state == "COMPLETE" for _, state, _ in written) == 5
    drive(run, scored, 0, mirror=Mirror)
    assert shown() == written, "made anew from the records"


@pytest.mark.slow
def test_the_guided_search_reaches_more_than_a_random_one_with_as_many_trials(tmp_path: Path) -> None:
    def reached(name: str, values: dict[str, Any]) -> float:
        run = make_run(tmp_path / name, {"search.trials": 12, **values}, SPACE)
        drive(run, scored if "search.screening_budget" in values else smooth)
        return Goal().hypervolume(run.results())

    plain = [reached(f"random{s}", {"search.sampler": "random", "search.seed": s}) for s in range(3)]
    guided = [reached(f"guided{s}", {**GUIDED, "search.seed": s}) for s in range(3)]
    assert min(guided) > max(plain)


def test_no_plan_that_violates_a_constraint_is_screened(tmp_path: Path) -> None:
    values = {"search.trials": 4, "search.constraints": ["parameters <= 0.85"], **GUIDED}
    run = make_run(tmp_path / "run", values, SPACE)
    drive(run, scored)
    sizes = [score.values["parameters_fraction"] for trial in run.trials() for score in run.rungs(trial)]
    assert len(sizes) > 4
    assert max(sizes[1:]) <= 0.85


MEASURED = {"search.objectives": ["document_speedup", "ndcg_at_10"], "search.constraints": ["query_speedup >= 1.1"]}
THREE = {"search.objectives": ["index_bytes", "document_speedup", "ndcg_at_10"]}
CUT = {**SPACE, "model.dimension": [384, 256, 128]}


@pytest.mark.parametrize("scheduler", [ASHA, GUIDED], ids=["asha", "guided"])
@pytest.mark.parametrize(("asked", "space"), [(MEASURED, SPACE), (THREE, CUT)], ids=["measured", "three"])
def test_objectives_that_no_plan_tells_are_learned_on_the_lowest_rung_and_again_from_disk(
    asked: dict[str, Any], space: dict[str, Any], scheduler: dict[str, Any], tmp_path: Path
) -> None:
    values = {"search.trials": 7, **scheduler, **asked}
    whole = make_run(tmp_path / "whole", values, space)
    driver = drive(whole, scored)
    again = make_run(tmp_path / "again", values, space)
    for most in (3, 6, 1000):
        drive(again, scored, most)
    assert history(again) == history(whole)
    for trial in whole.trials():
        lowest = whole.rungs(trial)[0].values
        expected = [1 / lowest["document_speedup"]]
        if asked is THREE:
            expected.insert(0, lowest["index_bytes"] / lowest["full_index_bytes"])
        assert driver.trials.searched.queue.state.shares[trial] == pytest.approx(expected)
    assert len(whole.results()) == 7 < len(whole.trials())


@pytest.mark.slow
def test_three_objectives_are_covered_better_than_by_chance(tmp_path: Path) -> None:
    def reached(name: str, values: dict[str, Any]) -> float:
        run = make_run(tmp_path / name, {"search.trials": 12, **THREE, **values}, CUT)
        drive(run, scored if "search.screening_budget" in values else smooth)
        return Goal(tuple(THREE["search.objectives"])).hypervolume(run.results())

    plain = [reached(f"random{s}", {"search.sampler": "random", "search.seed": s}) for s in range(3)]
    guided = [reached(f"guided{s}", {**GUIDED, "search.seed": s}) for s in range(3)]
    assert min(guided) > max(plain)


def constrained(folder: Path, constraint: str, seed: int, steered: bool) -> tuple[list[bool], float]:
    """Which trials of a search are feasible, and their hypervolume. steered: whether it knows of the constraint."""
    values = {"search.trials": 16, "search.seed": seed, "search.constraints": [constraint] if steered else []}
    run = make_run(folder / f"{seed}-{steered}", {**values, **GUIDED}, SPACE)
    drive(run, scored)
    records, goal = run.results(), Goal.of(SearchConfig(constraints=(constraint,)))
    feasible = {record.trial for record in goal.feasible(records)}
    return [record.trial in feasible for record in records], goal.hypervolume(records)


def test_a_constraint_on_speed_is_kept_by_all_that_is_trained(tmp_path: Path) -> None:
    """The unpruned model, which all others are measured by, is trained in any case."""
    constraint = "query_speedup >= 1.25"
    assert constrained(tmp_path, constraint, 0, True)[0] == [False] + [True] * 15
    assert sum(constrained(tmp_path, constraint, 0, False)[0]) < 14


def test_seconds_of_a_lower_rung_say_nothing_of_a_whole_trials(tmp_path: Path) -> None:
    def dear(spec: TrialSpec, share: float) -> dict[str, float]:
        parameters = spec.values(MODEL)["parameters_fraction"]
        return {**scored(spec, share), "total_seconds": 1.0 if share < 1 else 900 * parameters}

    values = {"search.trials": 3, "search.constraints": ["total_seconds <= 600"], **GUIDED}
    run = make_run(tmp_path / "run", values, SPACE)
    violations = drive(run, dear).trials.searched.queue.state.violations
    for trial in run.trials():
        trained = run.finished(trial)
        known = {"total_seconds <= 600": run.result(trial).values["total_seconds"] - 600} if trained else {}
        assert violations[trial] == pytest.approx(known)


@pytest.mark.slow
def test_a_constraint_on_quality_leads_to_more_feasible_trials(tmp_path: Path) -> None:
    constraint, seeds = "ndcg_at_10 >= 0.97", (0, 1)
    knowing, not_knowing = ([constrained(tmp_path, constraint, s, steered) for s in seeds] for steered in (True, False))
    assert sum(sum(feasible) for feasible, _ in knowing) > sum(sum(feasible) for feasible, _ in not_knowing)
    assert min(volume for _, volume in knowing) > max(volume for _, volume in not_knowing)
