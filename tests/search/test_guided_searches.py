"""Searches with rungs by the real driver, without Ray: what is on disk is all that a resumed search needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from effir_dist.runs.objectives import Goal
from effir_dist.runs.run_folder import Run
from effir_dist.search.strategy import study
from tests.driven import drive, make_run, smooth

SPACE = {"drop_mlp": {"max": 5}, "width_ratio": {"low": 0.25, "high": 1.0, "step": 0.25, "groups": 2}}
LADDER = {"search.scheduler": "asha", "search.rungs": [0.0, 0.25], "search.promotion_fraction": 0.4}
GUIDED = {"search.sampler": "guided", "search.scheduler": "screening", "search.screening_budget": 0.3}


@pytest.fixture(autouse=True)
def few_to_choose_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of 200 plans for each suggestion costs more than all else here."""
    monkeypatch.setattr(study, "POOL", 20)


def scored(facts: dict[str, Any], head: dict[str, Any]) -> dict[str, Any]:
    """Lower rungs say less: an untrained model's score falls faster."""
    found = smooth(facts, head)
    harsh = {0.0: 3.0, 0.25: 1.5}.get(head.get("share", 1.0), 1.0)
    return {**found, "ndcg_at_10": max(0.01, 0.6 - harsh * (0.6 - found["ndcg_at_10"]))}


def history(run: Run) -> list[tuple[Any, ...]]:
    """What every trial came to, by number."""
    lines = []
    for trial in run.trials():
        record = run.result(trial) if run.finished(trial) else {}
        rungs = [(rung["rung"], rung["ndcg_at_10"], rung["cost"]) for rung in run.rungs(trial)]
        lines.append((trial, rungs, record.get("ndcg_at_10"), record.get("key")))
    return lines


@pytest.mark.parametrize("values", [LADDER, GUIDED], ids=["ladder", "guided"])
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


@pytest.mark.parametrize("values", [LADDER, GUIDED], ids=["ladder", "guided"])
def test_a_trial_that_died_on_its_way_to_a_rung_goes_there_again(values: dict[str, Any], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"search.trials": 4, **values}, SPACE)
    drive(run, scored, 3)
    driver = drive(run, scored, 0)
    job = driver.next_job()  # handed to a worker that is killed
    assert job
    resumed = drive(run, scored, 0)
    assert resumed.climbing is not None
    assert [head["trial"] for head in resumed.climbing.again] == [job["head"]["trial"]]
    next_job = resumed.next_job()
    assert next_job
    assert (next_job["head"]["trial"], next_job["head"]["rung"]) == (job["head"]["trial"], job["head"]["rung"])
    drive(run, scored)
    assert len(run.results()) == 4


def test_costs_on_disk_are_what_the_strategy_says_it_spent(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"search.trials": 5, **LADDER}, SPACE)
    driver = drive(run, scored)
    assert driver.climbing is not None
    below = [rung for trial in run.trials() for rung in run.rungs(trial)]
    for rung, spent in enumerate(driver.climbing.strategy.spent[:-1]):
        assert spent == pytest.approx(sum(each["cost"] for each in below if each["rung"] == rung), abs=1e-4)
    assert driver.climbing.strategy.spent[-1] == pytest.approx(sum(r["cost"] for r in run.results()), abs=1e-4)


@pytest.mark.slow
def test_the_guided_search_covers_more_than_a_random_one_with_as_many_trials(tmp_path: Path) -> None:
    def reached(name: str, values: dict[str, Any]) -> float:
        run = make_run(tmp_path / name, {"search.trials": 12, **values}, SPACE)
        drive(run, scored if "search.screening_budget" in values else smooth)
        return Goal().covered(run.results())

    plain = [reached(f"random{s}", {"search.sampler": "random", "search.seed": s}) for s in range(3)]
    guided = [reached(f"guided{s}", {**GUIDED, "search.seed": s}) for s in range(3)]
    assert min(guided) > max(plain)


def test_no_plan_that_breaks_a_constraint_is_screened(tmp_path: Path) -> None:
    values = {"search.trials": 4, "search.constraints": ["parameters <= 0.85"], **GUIDED}
    run = make_run(tmp_path / "run", values, SPACE)
    drive(run, scored)
    sizes = [rung["parameters_fraction"] for trial in run.trials() for rung in run.rungs(trial)]
    assert len(sizes) > 4
    assert max(sizes[1:]) <= 0.85


MEASURED = {"search.objectives": ["document_speedup", "ndcg_at_10"], "search.constraints": ["query_speedup >= 1.1"]}
THREE = {"search.objectives": ["index_bytes", "document_speedup", "ndcg_at_10"]}
CUT = {**SPACE, "model.dimension": [384, 256, 128]}


@pytest.mark.parametrize("strategy", [LADDER, GUIDED], ids=["ladder", "guided"])
@pytest.mark.parametrize(("asked", "space"), [(MEASURED, SPACE), (THREE, CUT)], ids=["measured", "three"])
def test_objectives_that_no_plan_tells_are_learned_on_the_lowest_rung_and_again_from_disk(
    asked: dict[str, Any], space: dict[str, Any], strategy: dict[str, Any], tmp_path: Path
) -> None:
    values = {"search.trials": 7, **strategy, **asked}
    whole = make_run(tmp_path / "whole", values, space)
    driver = drive(whole, scored)
    again = make_run(tmp_path / "again", values, space)
    for most in (3, 6, 1000):
        drive(again, scored, most)
    assert history(again) == history(whole)
    assert driver.climbing is not None
    shares = driver.climbing.strategy.shares
    for trial in whole.trials():
        lowest = whole.rungs(trial)[0]
        expected = [1 / lowest["document_speedup"]]
        if asked is THREE:
            expected.insert(0, lowest["index_bytes"] / lowest["full_index_bytes"])
        assert shares[trial] == pytest.approx(expected)
    assert len(whole.results()) == 7 < len(whole.trials())


@pytest.mark.slow
def test_three_objectives_are_covered_better_than_by_chance(tmp_path: Path) -> None:
    def reached(name: str, values: dict[str, Any]) -> float:
        run = make_run(tmp_path / name, {"search.trials": 12, **THREE, **values}, CUT)
        drive(run, scored if "search.screening_budget" in values else smooth)
        return Goal.of({"objectives": THREE["search.objectives"]}).covered(run.results())

    plain = [reached(f"random{s}", {"search.sampler": "random", "search.seed": s}) for s in range(3)]
    guided = [reached(f"guided{s}", {**GUIDED, "search.seed": s}) for s in range(3)]
    assert min(guided) > max(plain)


def constrained(folder: Path, constraint: str, seed: int, steered: bool) -> tuple[list[bool], float]:
    """Which trials of a search keep to a constraint, and what those cover; steered: whether the search knows of it."""
    values = {"search.trials": 16, "search.seed": seed, "search.constraints": [constraint] if steered else []}
    run = make_run(folder / f"{seed}-{steered}", {**values, **GUIDED}, SPACE)
    drive(run, scored)
    records, goal = run.results(), Goal.of({"constraints": [constraint]})
    keep = {record["trial"] for record in goal.satisfying(records)}
    return [record["trial"] in keep for record in records], goal.covered(records)


def test_a_constraint_on_speed_is_kept_by_all_that_is_trained(tmp_path: Path) -> None:
    """The unpruned model, the measure of all, is trained in any case."""
    constraint = "query_speedup >= 1.25"
    assert constrained(tmp_path, constraint, 0, True)[0] == [False] + [True] * 15
    assert sum(constrained(tmp_path, constraint, 0, False)[0]) < 14


def test_seconds_of_a_lower_rung_say_nothing_of_a_whole_trials(tmp_path: Path) -> None:
    def dear(facts: dict[str, Any], head: dict[str, Any]) -> dict[str, Any]:
        return {**scored(facts, head), "total_seconds": 1.0 if "share" in head else 900 * facts["parameters_fraction"]}

    values = {"search.trials": 3, "search.constraints": ["total_seconds <= 600"], **GUIDED}
    run = make_run(tmp_path / "run", values, SPACE)
    driver = drive(run, dear)
    assert driver.climbing is not None
    beyond = driver.climbing.strategy.beyond
    for trial in run.trials():
        known = {"total_seconds <= 600": run.result(trial)["total_seconds"] - 600} if run.finished(trial) else {}
        assert beyond[trial] == pytest.approx(known)


@pytest.mark.slow
def test_a_constraint_on_quality_leads_to_more_of_what_keeps_to_it(tmp_path: Path) -> None:
    constraint, seeds = "ndcg_at_10 >= 0.97", (0, 1)
    knowing, not_knowing = ([constrained(tmp_path, constraint, s, steered) for s in seeds] for steered in (True, False))
    assert sum(sum(kept) for kept, _ in knowing) > sum(sum(kept) for kept, _ in not_knowing)
    assert min(covered for _, covered in knowing) > 1.2 * max(covered for _, covered in not_knowing)
