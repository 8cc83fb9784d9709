"""`GuidedSampler` in plain studies of Optuna: no search of this project, no records, no Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from benchmarks.search.plain import SPACE, costs_of, latency, quality, size, studied, three, two, volume
from effir_dist import GuidedSampler
from effir_dist.search.strategy.guided import COSTS, LOW_FIDELITY, Screened

Params = dict[str, Any]


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def points(study: optuna.Study) -> list[Params]:
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("objective", [two, three])
@pytest.mark.parametrize("costs", ["told", "learned"])
def test_a_known_front_is_covered_better_than_by_chance(objective: Callable[..., Any], costs: str) -> None:
    known = {"costs": costs_of(objective), "space": SPACE} if costs == "told" else {}
    guided = [volume(studied(GuidedSampler(seed=seed, **known), objective)) for seed in range(3)]
    random = [volume(studied(optuna.samplers.RandomSampler(seed=seed), objective)) for seed in range(3)]
    assert np.mean(guided) > max(random)


def test_a_prior_that_is_right_helps_from_the_first_trials() -> None:
    def reached(prior: Callable[[Params], float] | None) -> float:
        told = {"costs": lambda p: [size(p)], "space": SPACE, "prior": prior}
        return float(np.mean([volume(studied(GuidedSampler(seed=seed, **told), trials=12)) for seed in range(4)]))

    assert reached(lambda params: 0.86 - quality(params)) > reached(None)


def test_objectives_may_come_in_any_order_and_direction() -> None:
    """Loss first, then speed: the same study with its signs turned."""

    def turned(trial: optuna.Trial) -> tuple[float, float]:
        found = two(trial)
        return -found[1], -found[0]

    study = optuna.create_study(sampler=GuidedSampler(seed=3, quality=0), directions=["minimize", "maximize"])
    study.optimize(turned, n_trials=20)
    assert points(study) == points(studied(GuidedSampler(seed=3), trials=20))


def test_a_single_objective_is_a_quality() -> None:
    def best(sampler: optuna.samplers.BaseSampler) -> float:
        study = optuna.create_study(sampler=sampler, direction="maximize")
        study.optimize(lambda trial: two(trial)[1], n_trials=30)
        return study.best_value

    assert best(GuidedSampler(seed=0)) > best(optuna.samplers.RandomSampler(seed=0))


def test_more_than_three_objectives_are_refused() -> None:
    study = optuna.create_study(sampler=GuidedSampler(space=SPACE), directions=["minimize"] * 4)
    with pytest.raises(ValueError, match="takes 1 to 3 objectives.*the study has 4"):
        study.ask(SPACE)


def test_a_seed_gives_the_same_study_and_another_one_another() -> None:
    one, same, other = (points(studied(GuidedSampler(seed=seed), trials=12)) for seed in (1, 1, 2))
    assert one == same
    assert one[3:] != other[3:]


def test_a_study_in_a_database_is_gone_on_with_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    storage, directions = f"sqlite:///{tmp_path / 'study.db'}", ["minimize", "maximize"]
    for _ in range(2):
        same = {"storage": storage, "study_name": "mine", "load_if_exists": True}
        study = optuna.create_study(sampler=GuidedSampler(seed=5), directions=directions, **same)
        study.optimize(two, n_trials=6)
    assert points(study) == points(studied(GuidedSampler(seed=5), trials=12))


def test_several_threads_never_evaluate_the_same_point_at_once() -> None:
    study = studied(GuidedSampler(seed=0, space=SPACE), trials=24, n_jobs=4)
    assert len(study.get_trials(states=[TrialState.COMPLETE])) == 24
    assert len({repr(each) for each in points(study)}) == 24


def test_running_trials_count_with_the_quality_that_is_expected_of_them() -> None:
    """What a trial's worker has not asked for yet is known to the others: define-by-run tells params one at a time."""
    study = studied(GuidedSampler(seed=4, costs=lambda p: [size(p)], space=SPACE), trials=20)
    first, second = study.ask(), study.ask()
    found = [two(trial)[0] for trial in (first, second)]
    assert first.params != second.params
    alone = studied(GuidedSampler(seed=4, costs=lambda p: [size(p)], space=SPACE), trials=20)
    alone.tell(alone.ask(), state=TrialState.FAIL)
    again = alone.ask()
    assert two(again)[0] != found[1], "a failed trial is as if it had not been"


def test_constraints_are_learned() -> None:
    def slow(trial: optuna.Trial) -> tuple[float, float]:
        found = two(trial)
        trial.set_constraint("latency", latency(trial.params) - 5.0)
        return found

    def feasible(sampler: optuna.samplers.BaseSampler) -> int:
        trials = studied(sampler, slow, 30).trials[10:]
        return sum(trial.constraints["latency"] <= 0 for trial in trials)

    assert feasible(GuidedSampler(seed=0)) >= 17 > feasible(optuna.samplers.RandomSampler(seed=0))


def test_what_is_not_allowed_is_not_proposed() -> None:
    study = studied(GuidedSampler(seed=0, space=SPACE, allowed=lambda p: size(p) <= 0.3), trials=15)
    assert max(size(each) for each in points(study)) <= 0.3


def test_a_space_that_was_tried_in_full_is_tried_again() -> None:
    study = optuna.create_study(sampler=GuidedSampler(seed=0), directions=["minimize", "maximize"])
    study.optimize(lambda t: (t.suggest_int("x", 0, 4), t.suggest_categorical("y", [1, 2])), n_trials=16)
    assert len({repr(each) for each in points(study)}) == 10


def screen(study: optuna.Study, sampler: GuidedSampler, full: int, cheap: int) -> None:
    """The loop of docs/guides/guided-sampler.md: `cheap` candidates get a cheap score for each full evaluation."""
    for _ in range(full):
        for _ in range(cheap):
            trial = study.ask(SPACE)
            trial.set_user_attr(LOW_FIDELITY, quality(trial.params) - 0.3 * trial.params["dropout"])
            study.tell(trial, state=TrialState.PRUNED)
        sampler.promote(study)
        trial = study.ask(SPACE)
        study.tell(trial, [size(trial.params), quality(trial.params)])


def test_candidates_with_a_cheap_score_are_chosen_for_a_full_evaluation() -> None:
    sampler = GuidedSampler(seed=0, costs=lambda p: [size(p)], space=SPACE)
    study = optuna.create_study(sampler=sampler, directions=["minimize", "maximize"])
    screen(study, sampler, 12, 6)
    trained = study.get_trials(states=[TrialState.COMPLETE])
    assert len(trained) == 12
    assert all(LOW_FIDELITY in trial.user_attrs for trial in trained)
    assert len({repr(trial.params) for trial in trained}) == 12, "none is promoted twice"
    alone = [GuidedSampler(seed=seed, costs=lambda p: [size(p)], space=SPACE) for seed in (0, 1)]
    assert volume(study) > max(volume(studied(each, trials=12)) for each in alone)


def test_worth_is_large_where_a_cheap_score_promises_more() -> None:
    sampler = GuidedSampler(seed=0, costs=lambda p: [size(p)], space=SPACE)
    study = optuna.create_study(sampler=sampler, directions=["minimize", "maximize"])
    base = {name: dist.choices[0] if hasattr(dist, "choices") else dist.low for name, dist in SPACE.items()}
    pair = [Screened({**base, "width": 65}, 0.2), Screened(base, 0.9)]
    assert np.argmax(sampler.worth(study, pair)) == 1, "by its cheap score, while nothing was evaluated"
    screen(study, sampler, 6, 3)
    assert np.argmax(sampler.worth(study, pair)) == 1
    dear = [Screened(base, 0.5, expense=10.0), Screened(base, 0.5, expense=1.0)]
    assert np.argmax(sampler.worth(study, dear)) == 1
    late = [Screened(base, 0.5, constraints={"latency": 1.0}), Screened(base, 0.5, constraints={"latency": -1.0})]
    study.add_trial(_constrained(study))
    assert sampler.worth(study, late)[0] == 0 < sampler.worth(study, late)[1]


def _constrained(study: optuna.Study) -> optuna.trial.FrozenTrial:
    """A trial that tells of the constraint."""
    params = {**study.best_trials[0].params, "rate": 5e-5}
    found = optuna.create_trial(params=params, distributions=SPACE, values=[0.5, 0.5])
    found.set_constraint("latency", 0.5)
    return found


def test_costs_that_were_measured_on_the_way_go_before_those_that_are_expected() -> None:
    """A promotion carries them along, and they need not be in the units of the objective."""
    sampler = GuidedSampler(seed=0, costs=lambda p: [np.nan], space=SPACE)
    study = optuna.create_study(sampler=sampler, directions=["maximize", "maximize"])
    for _ in range(8):
        trial = study.ask(SPACE)
        trial.set_user_attr(COSTS, [size(trial.params)])
        trial.set_user_attr(LOW_FIDELITY, 0.5)
        study.tell(trial, state=TrialState.PRUNED)
        assert sampler.promote(study) is not None
        trial = study.ask(SPACE)
        assert trial.user_attrs[COSTS] == [size(trial.params)]
        study.tell(trial, [1 / size(trial.params), quality(trial.params)])
    best = Screened(study.trials[0].params, 0.5, [0.04])
    worst = Screened(study.trials[0].params, 0.5, [0.9])
    assert np.argmax(sampler.worth(study, [worst, best])) == 1
