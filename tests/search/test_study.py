"""What is tried next: never the same twice, the same for the same seed, and the same after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from effir_dist.search.strategy.study import Sampler, Suggestion

from effir_dist.core import config as c
from effir_dist.core.settings import RunConfig
from effir_dist.models.pruning import count_parameters
from effir_dist.report.study_db import Mirror, parameter_importances
from effir_dist.search.strategy import space as spaces
from effir_dist.search.strategy import space_file
from tests.search.test_space import IMPORTANCE, MINILM, NEURONS

SPACE = space_file.parse_space({"drop_mlp": {"max": 4}, "width_ratio": {"low": 0.4, "high": 1.0, "step": 0.1}}, "x")


def sampler(seed: int = 0, space: spaces.Space = SPACE, kind: str = "tpe") -> Sampler:
    config = c.replace(RunConfig(), {"search.seed": seed, "search.sampler": kind})
    return Sampler(config, space, MINILM, IMPORTANCE, NEURONS)


def record_of(suggestion: Suggestion, fail: bool = False) -> dict[str, Any]:
    """A stand-in outcome: quality falls with each dropped MLP by its importance, and with the width."""
    size = count_parameters(MINILM, suggestion.plan)
    lost = sum(IMPORTANCE.mlp[block] for block in suggestion.plan.dropped_mlp)
    width = suggestion.suggested.get("width_ratio", 1.0)
    outcome = {"parameters": size, "ndcg_at_10": 0.7 - 0.2 * lost - 0.1 * (1 - width)}
    state = {"state": "failed", "reason": "out of memory"} if fail else {"state": "complete", "reason": "", **outcome}
    return {**suggestion.to_dict(), "dropped_mlp": list(suggestion.plan.dropped_mlp), **state}


def run(s: Sampler, numbers: range, failing: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    records = []
    for number in numbers:
        suggestion = s.suggest(number)
        assert suggestion is not None
        records.append(record_of(suggestion, number in failing))
        s.tell(records[-1])
    return records


@pytest.mark.parametrize("kind", ["tpe", "nsga2", "random"])
def test_the_same_seed_gives_the_same_plans_and_none_twice(kind: str) -> None:
    one, same, other = (run(sampler(seed, kind=kind), range(25)) for seed in (1, 1, 2))
    assert [r["key"] for r in one] == [r["key"] for r in same]
    assert [r["key"] for r in one] != [r["key"] for r in other]
    assert len({r["key"] for r in one}) == 25


@pytest.mark.parametrize("kind", ["tpe", "nsga2"])
def test_resumed_equals_uninterrupted(kind: str) -> None:
    whole = run(sampler(kind=kind), range(20), failing=(3, 12))
    first = run(sampler(kind=kind), range(13), failing=(3, 12))
    resumed = sampler(kind=kind)
    resumed.replay(first, [])
    assert [r["key"] for r in first + run(resumed, range(13, 20))] == [r["key"] for r in whole]


def test_a_trial_left_unfinished_starts_over_under_its_own_number() -> None:
    s = sampler()
    done = run(s, range(8))
    lost = s.suggest(8)
    assert lost is not None
    resumed = sampler()
    resumed.replay(done, [lost.to_dict()])
    assert resumed.suggest(9) == lost
    later = resumed.suggest(9)
    assert later is not None
    assert (later.number, later.key == lost.key) == (9, False)


def test_trials_that_run_are_not_suggested_again_and_may_end_in_any_order() -> None:
    s = sampler()
    suggestions = [s.suggest(number) for number in range(12)]
    assert len({x.key for x in suggestions if x}) == 12
    for suggestion in reversed(suggestions):
        assert suggestion
        s.tell(record_of(suggestion))
    assert len(s.study.get_trials(states=[optuna.trial.TrialState.COMPLETE])) == 12


def test_an_exhausted_space_ends_the_search() -> None:
    s = sampler(space=space_file.parse_space({"drop_mlp": {"max": 1}}, "x"))
    keys = []
    while (suggestion := s.suggest(len(keys))) is not None:
        keys.append(suggestion.key)
        s.tell(record_of(suggestion))
    assert len(keys) == len(set(keys)) == 7


def test_a_setting_that_varies_makes_another_trial_of_the_same_plan() -> None:
    s = sampler(space=space_file.parse_space({"train.temperature": [0.02, 0.05]}, "x"))
    suggestions = [s.suggest(0), s.suggest(1)]
    assert [x.suggested["train.temperature"] for x in suggestions if x] == [0.05, 0.02]
    assert s.suggest(2) is None


def test_learning_finds_a_better_front_than_chance() -> None:
    from effir_dist.runs.pareto import hypervolume

    def volume(kind: str, seed: int) -> float:
        records = run(sampler(seed, kind=kind), range(40))
        full = count_parameters(MINILM)
        return hypervolume([(r["parameters"] / full, r["ndcg_at_10"]) for r in records])

    assert sum(volume("tpe", s) for s in range(3)) > sum(volume("random", s) for s in range(3))


def test_study_db_opens_in_optuna_with_each_trial_once(tmp_path: Path) -> None:
    s = sampler()
    records = run(s, range(6), failing=(2,))
    mirror = Mirror(tmp_path / "study.db", "mine", records[:4])
    mirror.add(records[4])
    # A driver killed here is followed by one that rebuilds the study from the records.
    Mirror(tmp_path / "study.db", "mine", records)
    study = optuna.load_study(study_name="mine", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert [t.user_attrs["trial"] for t in study.trials] == [r["trial"] for r in records]
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert study.trials[2].user_attrs["reason"] == "out of memory"
    assert study.metric_names == ["parameters", "ndcg_at_10"]
    assert study.trials[1].values == [records[1]["parameters"], records[1]["ndcg_at_10"]]


def test_study_db_names_what_it_shows_with_units(tmp_path: Path) -> None:
    records = [{**r, "documents_per_second": 500.0, "parameters_fraction": 0.5} for r in run(sampler(), range(3))]
    Mirror(tmp_path / "study.db", "mine", records)
    study = optuna.load_study(study_name="mine", storage=f"sqlite:///{tmp_path / 'study.db'}")
    shown = study.trials[1].user_attrs
    assert shown["dropped_mlp (blocks)"] == records[1]["dropped_mlp"]
    assert shown["documents_per_second"] == 500.0
    assert shown["parameters_fraction (of the unpruned model)"] == 0.5
    assert set(study.trials[1].params) == {"width_ratio", *(f"drop_mlp.{block}" for block in range(6))}


def test_importance_goes_to_what_decides_and_needs_enough_trials() -> None:
    records = run(sampler(kind="random"), range(60))
    deciding = [{**r, "ndcg_at_10": 0.7 - 0.3 * r["suggested"]["drop_mlp.4"]} for r in records]
    found = parameter_importances(deciding)
    assert next(iter(found)) == "drop_mlp.4"
    assert sum(found.values()) == pytest.approx(1)
    assert found["drop_mlp.4"] > 2 * found["width_ratio"]
    assert parameter_importances(deciding[:9]) == {}
