"""The strategies alone: ranks and hypervolume against Optuna's, the rules of ladder and guide on made-up scores."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume
from optuna.study._multi_objective import _fast_non_domination_rank

from effir_dist.runs.pareto import hypervolume, hypervolume_losses, non_dominated_losses
from effir_dist.search.strategy.fidelity import Candidate, Climb, Losses, best_first, crowding, ranks
from effir_dist.search.strategy.guided import Guide
from effir_dist.search.strategy.surrogate import Surrogate, expected_growth

TRAINING, SCORING = (0.0, 0.2, 0.9), (0.05, 0.05, 0.1)


def points(seed: int, count: int = 60, grid: int = 0, costs: int = 1) -> list[Losses]:
    found = np.random.default_rng(seed).random((count, costs + 1))
    found = np.round(found * grid) / grid if grid else found
    return [(*map(float, each[:-1]), -float(each[-1])) for each in found]


@pytest.mark.parametrize("costs", [1, 2])
@pytest.mark.parametrize("grid", [0, 6])
@pytest.mark.parametrize("seed", range(10))
def test_ranks_and_hypervolume_are_those_of_optuna(seed: int, grid: int, costs: int) -> None:
    found = points(seed, grid=grid, costs=costs)
    losses, reference = np.array(found), [1.0] * costs + [0.0]
    assert ranks(found) == _fast_non_domination_rank(losses).tolist()
    assert hypervolume_losses(found, reference) == pytest.approx(compute_hypervolume(losses, np.array(reference)))
    first = [found[i] for i, rank in enumerate(ranks(found)) if rank == 0]
    assert {found[i] for i in non_dominated_losses(found)} == set(first)


def test_the_loneliest_of_a_rank_comes_first() -> None:
    found = [(0.1, -0.1), (0.2, -0.2), (0.25, -0.25), (0.6, -0.6), (0.9, -0.9), (0.95, -0.05)]
    order = best_first(found)
    assert set(order[:2]) == {0, 4}
    assert order[2:] == [3, 2, 1, 5]
    assert crowding([(0.0, 0.0), (1.0, -1.0), (0.25, -0.25)])[2] == pytest.approx(2.0)


def test_who_breaks_a_constraint_comes_last_and_takes_nobodys_rank() -> None:
    found = [(0.1, -0.9), (0.5, -0.5), (0.6, -0.6), (0.2, -0.95)]
    assert best_first(found) == [0, 3, 1, 2]
    assert best_first(found, [0.3, 0.0, -1.0, 0.1]) == [1, 2, 3, 0]


@pytest.mark.parametrize("costs", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_expected_growth_is_the_mean_growth_of_drawn_qualities(seed: int, costs: int) -> None:
    """Points of the front with no quality, or dearer than the unpruned model, change nothing."""
    rng, reference = np.random.default_rng(seed), [1.0] * costs + [0.0]
    front = [*points(seed, 9, costs=costs), (0.3,) * costs + (0.1,), (1.2,) * costs + (-0.99,)]
    mean, deviation = np.array([0.9, 0.5, 1.1, 0.4, 0.7]), np.array([0.1, 0.2, 0.05, 0.6, 0.1])
    shares = rng.random((5, costs))
    shares[4] = 1.1
    found, before = expected_growth(front, shares, mean, deviation), hypervolume_losses(front, reference)
    for i, own in enumerate(shares.tolist()):
        drawn = mean[i] + deviation[i] * rng.standard_normal(4000)
        grown = np.mean([hypervolume_losses([*front, (*own, -float(q))], reference) - before for q in drawn])
        assert found[i] == pytest.approx(grown, rel=0.06, abs=2e-3)
    assert found[4] == 0


def test_a_surrogate_predicts_what_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((60, 5))
    y = 1 - x @ np.array([0.3, 0.1, 0.0, 0.2, 0.1]) - 0.1 * x[:, 0] * x[:, 3]
    mean, deviation = Surrogate(x[:40], y[:40] + rng.normal(0, 0.005, 40)).predict(x[40:])
    assert np.sqrt(np.mean((mean - y[40:]) ** 2)) < 0.2 * y.std()
    assert (deviation > 0).all()
    assert np.isfinite(Surrogate(np.ones((1, 3)), np.array([0.5])).predict(np.zeros((2, 3)))[0]).all()


class Made:
    """Plans with known scores: a search of them by several workers that never wait, on the strategy's own terms."""

    def __init__(self, strategy: Any, seed: int, workers: int = 3, fails: tuple[int, ...] = ()) -> None:
        self.strategy, self.workers, self.fails = strategy, workers, fails
        self.rng = np.random.default_rng(seed)
        self.kept = self.rng.random((200, 4))
        self.kept[0] = 1
        self.quality = self.kept @ [0.1, 0.2, 0.3, 0.4]
        self.log: list[tuple[str, int, float]] = []
        self.idle = 0

    def candidate(self, i: int) -> Candidate:
        share = 0.3 + 0.7 * float(self.kept[i].mean())
        each = (tuple(share * value for value in values) for values in (TRAINING, SCORING))
        return Candidate((share,), tuple(self.kept[i]), *each)

    def run(self, steps: int) -> None:
        new, clock, number, running = 0, 0.0, 0, []
        for _ in range(steps):
            while len(running) < self.workers:
                if not self.strategy.known or self.strategy.screens():
                    pool = [self.candidate(i) for i in range(new, new + 1)]
                    trial, rung = str(new + self.strategy.choose(pool, self.rng)), 0
                    self.strategy.begin(trial, rung, self.candidate(new))
                    new += 1
                else:
                    due = self.strategy.promote()
                    assert due is not None, "a worker waits"
                    trial, rung = due
                    self.strategy.begin(trial, rung)
                cost = self.strategy.cost(trial, rung)
                self.log.append((trial, rung, cost))
                number += 1
                heapq.heappush(running, (clock + cost, number, trial, rung))
            clock, _, trial, rung = heapq.heappop(running)
            if int(trial) in self.fails:
                self.strategy.fail(trial)
                continue
            noise = (0.1, 0.05, 0.0)[rung]
            self.strategy.tell(trial, rung, float(self.quality[int(trial)] + noise * self.rng.standard_normal()))


@pytest.mark.parametrize("make", [lambda: Guide(3, 0.1), lambda: Climb(3, 1 / 3)])
def test_no_worker_waits_costs_add_up_and_nobody_goes_twice(make: Any) -> None:
    made = Made(make(), 0, fails=(5, 9))
    made.run(150)
    gone = [(trial, rung) for trial, rung, _ in made.log]
    assert len(gone) == len(set(gone))
    for rung in range(3):
        assert made.strategy.spent[rung] == pytest.approx(sum(cost for _, r, cost in made.log if r == rung))
    assert not any(trial in ("5", "9") and rung > 0 for trial, rung in gone)
    assert ("0", 2) in gone[:8]  # the unpruned model, the measure of all


def test_the_ladder_starves_no_rung_and_keeps_its_share() -> None:
    made = Made(Climb(3, 1 / 3), 1)
    made.run(200)
    on = [sum(rung in scores for scores in made.strategy.scores.values()) for rung in range(3)]
    assert on[0] > 80
    assert on[1] == pytest.approx(on[0] / 3, rel=0.15)
    assert on[2] == pytest.approx(on[1] / 3, rel=0.35)
    promoted = [t for t, rung in made.strategy.sent.items() if rung]
    best_third = set(made.strategy.order(list(made.strategy.scores), 0)[: len(made.strategy.scores) // 3])
    assert len(best_third & set(promoted)) > 0.7 * len(promoted)


def test_the_guide_screens_no_more_than_its_share_and_trains_better_than_chance() -> None:
    made = Made(Guide(3, 0.2), 2)
    made.run(120)
    spent = made.strategy.spent
    assert spent[1] == 0
    assert spent[0] <= 0.2 * sum(spent) + 0.1
    trained = [int(t) for t, s in made.strategy.scores.items() if 2 in s]
    chance = np.random.default_rng(0).permutation(200)[: len(trained)]

    def covered(plans: Any) -> float:
        return hypervolume([(made.candidate(int(i)).shares[0], float(made.quality[int(i)])) for i in plans])

    assert covered(trained) > 1.02 * covered(chance)


def test_equal_searches_take_equal_steps() -> None:
    logs = []
    for _ in range(2):
        made = Made(Guide(3, 0.1), 3, workers=1)
        made.run(60)
        logs.append(made.log)
    assert logs[0] == logs[1]


def test_what_is_told_again_gives_the_same_state() -> None:
    """A search that is resumed tells a new strategy all that is on disk."""
    made = Made(Climb(3, 1 / 3), 4, workers=1)
    made.run(90)
    old, new = made.strategy, Climb(3, 1 / 3)
    for trial in sorted(old.known, key=int):
        for rung, score in sorted(old.scores.get(trial, {}).items()):
            new.begin(trial, rung, None if trial in new.known else old.known[trial])
            new.tell(trial, rung, score)
    arrived = [(rung, cost) for trial, rung, cost in made.log if rung in old.scores.get(trial, {})]
    assert new.spent == pytest.approx([sum(cost for r, cost in arrived if r == rung) for rung in range(3)])
    assert sorted(new.waiting()) == sorted([*old.waiting(), *(t for t in old.busy if t in old.scores)])

