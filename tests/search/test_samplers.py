"""What is tried next without rungs: never the same twice, the same for the same seed, and the same after a kill."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import optuna
import pytest

from effir_dist.core import config as c
from effir_dist.core.files import plain
from effir_dist.core.measures import QUALITY
from effir_dist.core.settings import RunConfig
from effir_dist.runs.pareto import hypervolume
from effir_dist.runs.records import RungScore, TrialRecord, TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search.strategy import samplers, space_file
from effir_dist.search.strategy import space as spaces
from effir_dist.search.strategy.guided import sampler as guided
from effir_dist.search.strategy.next_trial import TrialQueue
from tests.search.test_space import IMPORTANCE, MINILM, NEURONS

SPACE = space_file.parse_space({"drop_mlp": {"max": 4}, "width_ratio": {"low": 0.4, "high": 1.0, "step": 0.1}}, "x")


def queue(
    seed: int = 0, space: spaces.Space = SPACE, sampler: str = "tpe", settings: Mapping[str, Any] = MappingProxyType({})
) -> TrialQueue:
    """Of a search whose run folder has nothing yet."""
    known = {"search.seed": seed, "search.sampler": sampler, "search.scheduler": "plain", **settings}
    config, neurons = c.replace(RunConfig(), known), {**NEURONS, "random": next(iter(NEURONS.values()))[::-1]}
    return TrialQueue(Run(Path("no") / "folder"), config, space, MINILM, IMPORTANCE, neurons)


def record_of(spec: TrialSpec, fail: bool = False) -> TrialRecord:
    """Quality falls with each dropped MLP by its importance, and with the width."""
    lost = sum(IMPORTANCE.mlp[block] for block in spec.plan.dropped_mlp)
    quality = 0.7 - 0.2 * lost - 0.1 * (1 - float(spec.suggested.get("width_ratio", 1.0)))
    facts, known = spec.facts(MINILM), spec.values(MINILM)
    if fail:
        return TrialRecord(spec, "failed", "out of memory", facts, known)
    return TrialRecord(spec, "complete", "", facts, {**known, "ndcg_at_10": quality})


def run(q: TrialQueue, numbers: range, failing: tuple[int, ...] = ()) -> list[TrialRecord]:
    records = []
    for number in numbers:
        spec = q.next(number)
        assert spec is not None
        records.append(record_of(spec, number in failing))
        q.ended(records[-1])
    return records


def keys(records: list[TrialRecord]) -> list[str]:
    return [record.spec.key for record in records]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_the_same_seed_gives_the_same_plans_and_none_twice(sampler: str) -> None:
    one, same, other = (keys(run(queue(seed, sampler=sampler), range(25))) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert len(set(one)) == 25


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_resumed_equals_uninterrupted(sampler: str) -> None:
    whole = run(queue(sampler=sampler), range(20), failing=(3, 12))
    first = run(queue(sampler=sampler), range(13), failing=(3, 12))
    resumed = queue(sampler=sampler)
    resumed.replay(first, [])
    assert keys(first + run(resumed, range(13, 20))) == keys(whole)


def test_a_trial_left_unfinished_starts_over_under_its_own_number() -> None:
    q = queue()
    done = run(q, range(8))
    lost = q.next(8)
    assert lost is not None
    resumed = queue()
    resumed.replay(done, [lost])
    assert resumed.next(9) == lost
    later = resumed.next(9)
    assert later is not None
    assert (later.number, later.key == lost.key) == (9, False)


def test_what_was_screened_and_left_is_trained_in_full_where_the_search_goes_on_without_rungs() -> None:
    q = queue()
    done = run(q, range(8))
    values = {**q.problem.starts[0], "drop_mlp.3": True, "drop_mlp.5": True}
    screened = dataclasses.replace(q.problem.spec(8, values), rung=0, cost=0.02)
    resumed = queue()
    resumed.replay(done, [screened])
    again = resumed.next(9)
    assert again is not None
    assert (again.number, again.rung, again.cost, again.key) == (8, None, 0.0, screened.key)


def test_trials_that_run_are_not_proposed_again_and_may_end_in_any_order() -> None:
    q = queue()
    specs = [spec for number in range(12) if (spec := q.next(number))]
    assert len({spec.key for spec in specs}) == 12
    for spec in reversed(specs):
        q.ended(record_of(spec))
    assert len(q.engine.study.get_trials(states=[optuna.trial.TrialState.COMPLETE])) == 12


@pytest.mark.parametrize(
    ("low", "settings", "screens"),
    [
        (0.05, {}, True),
        (0.06, {}, False),
        (0.06, {"search.screening_budget": 0.2}, True),
        (0.06, {"search.objectives": ("document_speedup", "ndcg_at_10")}, True),
    ],
)
def test_plans_are_screened_where_the_budget_buys_a_choice_or_speed_is_measured(
    low: float, settings: dict[str, Any], screens: bool
) -> None:
    spec = screening(Run(Path("no") / "folder"), low, settings).next(0)
    assert spec is not None
    assert spec.rung == (0 if screens else None)


def test_a_search_that_screened_goes_on_with_it(tmp_path: Path) -> None:
    """One of an older version, whose plans wait for a promotion: they are not all trained for being left over."""
    run = Run(tmp_path / "run")
    spec = screening(run, 0.05).next(0)
    assert spec is not None
    assert not screening(run, 0.06).has_rungs
    run.write_spec(spec)
    run.write_rung(spec.trial, RungScore(0, 0.0, spec.cost, spec.facts(MINILM), {**spec.values(MINILM), QUALITY: 0.5}))
    assert screening(run, 0.06).has_rungs


def screening(run: Run, low: float, settings: Mapping[str, Any] = MappingProxyType({})) -> TrialQueue:
    """Of a search whose cheap scores cost such a share of a trial."""
    config = c.replace(RunConfig(), {"search.sampler": "guided", **settings})
    neurons = {**NEURONS, "random": next(iter(NEURONS.values()))}
    work = {"train": 0.85, "score": 0.15, "low": low}
    return TrialQueue(run, config, SPACE, MINILM, IMPORTANCE, neurons, work)


@pytest.mark.parametrize("sampler", ["tpe", "guided"])
def test_an_exhausted_space_ends_the_search(sampler: str) -> None:
    q = queue(space=space_file.parse_space({"drop_mlp": {"max": 1}}, "x"), sampler=sampler)
    found: list[TrialRecord] = []
    while (spec := q.next(len(found))) is not None:
        found.append(record_of(spec))
        q.ended(found[-1])
    assert len(found) == len(set(keys(found))) == 7
    assert (q.repeats > 0) == (sampler == "tpe")
    asked = len(q.engine.study.get_trials(deepcopy=False))
    assert q.next(len(found)) is None
    assert len(q.engine.study.get_trials(deepcopy=False)) == asked, "no worker waits for hundreds of known plans again"


def test_a_setting_that_varies_makes_another_trial_of_the_same_plan() -> None:
    q = queue(space=space_file.parse_space({"train.temperature": [0.02, 0.05]}, "x"))
    specs = [q.next(0), q.next(1)]
    assert [spec.suggested["train.temperature"] for spec in specs if spec] == [0.05, 0.02]
    assert q.next(2) is None


WITHOUT_EFFECT: list[tuple[dict[str, Any], dict[str, Any], int]] = [
    ({"prune.ranking": ["activation", "random"], "prune.width_multiple": [1, 8]}, {}, 1),
    ({"model.dimension": [0, 384, 256]}, {}, 2),
    ({"train.lora_alpha": [16, 64], "train.teacher_temperature": [1.0, 2.0]}, {}, 1),
    ({"train.lora_alpha": [16, 64], "train.lora_rank": [0, 4]}, {}, 3),
    ({"train.epochs": [1.0, 2.0], "train.checkpoint_steps": [0, 8]}, {"train.steps": 10}, 1),
    ({"train.epochs": [1.0, 2.0]}, {}, 2),
    ({"train.learning_rate": [0.01, 0.1], "train.seed": [1, 2], "train.steps": [0, 5]}, {"train.epochs": 0}, 5),
    ({"train.order": ["prune_then_tune", "tune_then_prune"]}, {}, 1),
    ({"train.order": ["prune_then_tune", "tune_then_prune"], "drop_mlp": {"max": 1}}, {}, 13),
    ({"prune.ranking": ["activation", "random"], "drop_mlp": {"max": 1}}, {}, 7),
    ({"prune.ranking": ["activation", "random"], "width_ratio": {"low": 0.5, "high": 1.0, "step": 0.5}}, {}, 3),
    ({"plans": {"all": {}, "half": {"width_ratio": 0.5}}, "prune.ranking": ["activation", "random"]}, {}, 3),
]


@pytest.mark.parametrize(("space", "settings", "trials"), WITHOUT_EFFECT)
def test_settings_that_change_nothing_make_no_trial_of_their_own(
    space: dict[str, Any], settings: dict[str, Any], trials: int
) -> None:
    def new() -> TrialQueue:
        return queue(space=space_file.parse_space(space, "x"), sampler="guided", settings=settings)

    q = new()
    found: list[TrialRecord] = []
    while (spec := q.next(len(found))) is not None:
        found.append(record_of(spec))
        q.ended(found[-1])
    assert len(found) == trials
    tree = [plain(record.to_json()) for record in found]
    again = new()
    again.replay([TrialRecord.from_json(each, "x") for each in tree], [])
    assert again.next(99) is None
    assert keys([TrialRecord.from_json(each, "x") for each in tree]) == keys(found)
    for each in tree:
        del each["idle"]  # an older version's
    older = new()
    older.replay([TrialRecord.from_json(each, "x") for each in tree], [])
    assert older.next(99) is None


def test_guided_finds_a_better_front_than_chance_and_tpe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guided, "POOL", 20)  # 200 take their time

    def volume(sampler: str, seed: int) -> float:
        records = run(queue(seed, sampler=sampler), range(40))
        return hypervolume([(r.values["parameters_fraction"], r.values["ndcg_at_10"]) for r in records])

    for seed in range(3):
        assert volume("guided", seed) > max(volume("random", seed), volume("tpe", seed))


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_renamed_parameters_keep_their_place(name: str) -> None:
    """Optuna draws in the order of names; with the old names a seed gave a certain search, and it still does."""
    text = {"train.gradcache_queries": [0, 2], "train.order": ["prune_then_tune", "tune_then_prune"]}
    space = space_file.parse_space({**text, "train.dropout": [0.0, 0.1], "train.epochs": [1, 2]}, "x")
    distributions = spaces.distributions(space, 6)
    study = optuna.create_study(directions=["minimize", "maximize"])
    values = {name: dist.choices[0] for name, dist in distributions.items()}
    study.add_trial(optuna.trial.create_trial(params=values, distributions=distributions, values=[1.0, 0.5]))
    sampler = {"tpe": samplers._TPE(multivariate=True), "gp": samplers._GP()}[name]
    found = [*sampler.infer_relative_search_space(study, study.ask())]
    assert found == ["train.order", "train.gradcache_queries", "train.dropout", "train.epochs"]
