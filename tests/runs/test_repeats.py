"""Front points run again with other seeds: which, how they are pooled, and which differences are significant."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import effir_dist
from effir_dist.core import config as c
from effir_dist.core.measures import METRICS
from effir_dist.evaluate.intervals import difference_interval, mean_interval
from effir_dist.report.front_text import front_text
from effir_dist.report.significance import steps
from effir_dist.runs.objectives import Goal
from effir_dist.runs.run_folder import Run, write_queries
from tests.driven import drive, make_run
from tests.synthetic import record, synthetic_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run", {"search.trials": 12, "train.seed": 5})
    drive(made)
    return made


def test_each_point_of_the_front_is_run_again_with_seeds_of_its_own(run: Run) -> None:
    best = [r.trial for r in Goal().front(run.results())]
    drive(run, most=3, repeat=2)
    drive(run, repeat=2)  # after a kill the same command goes on
    records = {r.trial: r for r in run.results()}
    repeats = [r for r in records.values() if r.spec.repeat_of]
    assert len(records) == 12 + 2 * len(best)
    assert sorted(r.spec.repeat_of for r in repeats) == sorted(2 * best)
    for repeat in repeats:
        original = records[repeat.spec.repeat_of]
        assert repeat.spec.plan == original.spec.plan
        assert repeat.spec.key != original.spec.key
    seeds = {trial: [r.spec.suggested["train.seed"] for r in repeats if r.spec.repeat_of == trial] for trial in best}
    assert all(sorted(found) == [6, 7] for found in seeds.values())


def test_repeats_teach_the_sampler_nothing_and_count_as_no_trials(run: Run) -> None:
    import optuna

    from effir_dist.report.study_db import Mirror

    drive(run, repeat=1)
    run.write_config(c.to_dict(c.replace(c.from_dict(run.config), {"search.trials": 15})))
    assert drive(run, mirror=Mirror).why == "all 15 trials are done"
    searched = [r for r in run.results() if not r.spec.repeat_of]
    assert len({r.spec.key for r in searched}) == len(searched) == 15
    study = optuna.load_study(study_name="run", storage=f"sqlite:///{run.study_path}")
    assert {t.user_attrs["trial"] for t in study.trials} == {r.trial for r in searched}


def with_queries(run: Run) -> dict[str, np.ndarray]:
    """Per-query scores beside every record, whose mean is the record's; trial -> [Q]."""
    rng, found = np.random.default_rng(0), {}
    hard = rng.uniform(-0.3, 0.3, 30)
    for each in run.results():
        values = each.values["ndcg_at_10"] + hard + rng.normal(0, 0.02, 30)
        values += each.values["ndcg_at_10"] - values.mean()
        found[each.trial] = values.clip(0, 1)
        per_query = {f"q{i}": dict.fromkeys(METRICS, float(v)) for i, v in enumerate(found[each.trial])}
        write_queries(run.queries_path(each.trial), {"toy": per_query})
    return found


def test_the_report_pools_seeds_with_intervals_over_queries_and_seeds(run: Run) -> None:
    drive(run, repeat=2)
    values = with_queries(run)
    table = effir_dist.load_run(run.folder).trials.set_index("trial")
    groups: dict[str, list[str]] = {}
    for each in run.results():
        groups.setdefault(each.spec.repeat_of or each.trial, []).append(each.trial)
    repeated = [trial for trial, members in groups.items() if len(members) == 3]
    assert repeated
    whole = {"toy": np.stack([values[t] for t in groups["0000"]])}
    for trial in repeated:
        sample = {"toy": np.stack([values[t] for t in groups[trial]])}
        interval, row = mean_interval(sample), table.loc[trial]
        assert row["seeds"] == 3
        assert row["ndcg_at_10"] == pytest.approx(interval.value, abs=1e-9)
        assert (row["ndcg_at_10_low"], row["ndcg_at_10_high"]) == pytest.approx((interval.low, interval.high))
        low = 0.0 if trial == "0000" else difference_interval(sample, whole).low
        assert row["ndcg_at_10_difference_low"] == pytest.approx(low, abs=1e-9)
    assert not table.loc[table["repeat_of"] != "", "on_front"].any()


def test_a_lucky_seed_leaves_the_front_once_it_is_repeated() -> None:
    lucky, steady = record(1, 0.60, 11), record(2, 0.58, 12)
    assert [r.trial for r in Goal().front([lucky, steady])] == ["0001"]
    again = [record(3, 0.50, 11, repeat_of="0001"), record(4, 0.52, 11, repeat_of="0001")]
    best = Goal().front([lucky, steady, *again])
    assert [r.trial for r in best] == ["0002", "0001"]
    assert best[1].values["ndcg_at_10"] == pytest.approx(0.54)
    assert best[1].seeds == 3


def test_a_repeat_that_failed_says_nothing() -> None:
    failed = record(3, None, 11, repeat_of="0001")
    assert Goal().front([record(1, 0.6, 11), failed])[0].values["ndcg_at_10"] == 0.6


def test_a_difference_that_is_noise_is_not_significant() -> None:
    rng = np.random.default_rng(1)
    hard = rng.uniform(0.2, 0.8, 50)
    scores = {"large": hard + rng.normal(0, 0.05, 50), "alike": hard + rng.normal(0, 0.05, 50), "small": hard - 0.1}
    rows = [("search", name, "toy", f"q{i}", v) for name, values in scores.items() for i, v in enumerate(values)]
    queries = pd.DataFrame(rows, columns=["split", "trial", "dataset", "query_id", "ndcg_at_10"])
    found = steps(["large", "alike", "small"], queries)
    assert list(found) == ["alike", "small"]
    assert found["alike"].is_noise
    assert not found["small"].is_noise
    expected = difference_interval({"toy": scores["small"][None]}, {"toy": scores["alike"][None]})
    assert dataclasses.astuple(found["small"]) == pytest.approx(dataclasses.astuple(expected), abs=0.005), "any order"


def test_the_front_in_the_terminal_marks_models_without_a_significant_difference(tmp_path: Path) -> None:
    front = effir_dist.load_run(synthetic_run(tmp_path / "demo", 30).folder).front
    lines = front_text(front.assign(run="demo")).splitlines()[1:]
    marked = [line.split()[0] for line in lines if "~" in line]
    assert marked == list(front.loc[front["significant"] == False, "trial"])  # noqa: E712
    assert 0 < len(marked) < len(front) - 1
