"""The surrogate: what it is surer of, what a prior and cheap scores teach it; and a proposal builds one plan only."""

from __future__ import annotations

import numpy as np
import pytest

from effir_dist.search.strategy import space as spaces
from effir_dist.search.strategy.guided.points import Observed, Points
from effir_dist.search.strategy.guided.quality import Quality
from effir_dist.search.strategy.guided.surrogate import Surrogate, fitted, probability_below
from tests.search.test_next_trial import Searched


def made(count: int, inputs: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, quality and the damage that is expected: it tells much of the quality, not all."""
    rng = np.random.default_rng(0)
    x = (rng.random((count, inputs)) < 0.6).astype(float)
    damage = rng.lognormal(0, 1, inputs)
    expected = damage * rng.lognormal(0, 0.7, inputs)
    return x, 1 - (1 - x) @ damage / damage.sum(), (1 - x) @ expected / expected.sum()


def error(model: Surrogate, x: np.ndarray, y: np.ndarray, prior: np.ndarray | None = None) -> float:
    return float(np.sqrt(np.mean((model.predict(x, prior)[0] - y) ** 2)))


def test_a_prior_makes_up_for_data_where_inputs_are_many() -> None:
    x, y, prior = made(300)
    told, plain = Surrogate(x[:20], y[:20], prior[:20]), Surrogate(x[:20], y[:20])
    assert error(told, x[100:], y[100:], prior[100:]) < 0.7 * error(plain, x[100:], y[100:])


def test_what_comes_as_expected_changes_no_mean_and_is_what_a_new_fit_would_say() -> None:
    x, y, prior = made(60)
    model = Surrogate(x[:30], y[:30], prior[:30])
    after = model.expecting(x[30:40], prior[30:40])
    before, found = model.predict(x[30:], prior[30:]), after.predict(x[30:], prior[30:])
    assert found[0] == pytest.approx(before[0])
    assert (found[1] <= before[1] + 1e-6).all()
    assert (found[1][:10] < 0.8 * before[1][:10]).all()
    kernel = np.linalg.inv(after.inverse.T @ after.inverse)
    assert np.linalg.inv(model.inverse.T @ model.inverse) == pytest.approx(kernel[:30, :30], abs=1e-6)


def test_equal_data_are_fitted_once() -> None:
    x, y, prior = made(20)
    assert fitted(x, y, prior) is fitted(x.copy(), y.copy(), prior.copy())
    assert fitted(x, y, prior) is not fitted(x, y + 0.1, prior)


def test_probabilities_are_those_of_a_normal_variable() -> None:
    found = probability_below(0.0, np.array([0.0, 1.0, -1.0, 6.0]), np.ones(4))
    assert found == pytest.approx([0.5, 0.158655254, 0.841344746, 9.865876e-10], rel=1e-6)


def test_cheap_scores_of_others_tell_of_points_that_have_none() -> None:
    x, y, prior = made(260)
    low = y**3 + 0.01 * np.random.default_rng(1).standard_normal(260)

    def points(places: range, trained: bool, screened: bool = True) -> Points:
        nan = float("nan")
        rows = [(y[i] if trained else nan, low[i] if screened else nan) for i in places]
        each = zip(places, rows, strict=True)
        return Points.of([Observed(x[i], np.zeros(1), *row, prior=prior[i : i + 1]) for i, row in each])

    complete, new = points(range(15), True), points(range(200, 260), False, screened=False)
    knowing = Quality(complete, lambda: points(range(15, 200), False)).predict(new)
    alone = Quality(points(range(15), True, screened=False), lambda: Points.of([])).predict(new)
    truth = y[200:]
    assert np.mean((knowing[0] - truth) ** 2) < 0.5 * np.mean((alone[0] - truth) ** 2)


def test_of_a_pool_of_candidates_one_is_built(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """Hundreds are weighed for each proposal: at 36 blocks a plan takes a millisecond."""
    settings = {"sampler": "guided", "scheduler": "screening", "trials": 10}
    space = {"drop_mlp": {"max": 5}, "width_ratio": {"low": 0.25, "high": 1.0, "step": 0.25, "groups": 2}}
    built, real = [], spaces.plan_of
    monkeypatch.setattr(spaces, "plan_of", lambda *args: built.append(1) or real(*args))
    searched = Searched(tmp_path / "run", {"settings": settings, "space": space, "workers": 1})
    searched.go_on(30)
    assert len(searched.run.trials()) >= 12 > searched.queue.problem.start_count
    assert len(built) <= 3 * len(searched.run.trials())
