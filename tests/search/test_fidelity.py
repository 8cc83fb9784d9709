"""Samplers and schedulers alone: ranks and hypervolume against Optuna's, their rules on made-up scores."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna._hypervolume import compute_hypervolume
from optuna.distributions import IntDistribution
from optuna.study._multi_objective import _fast_non_domination_rank

from effir_dist.runs.pareto import hypervolume, hypervolume_losses, non_dominated_losses
from effir_dist.search.strategy.fidelity import FidelityState
from effir_dist.search.strategy.guided import LOW_FIDELITY, GuidedSampler, Screened
from effir_dist.search.strategy.guided.pool import Candidate
from effir_dist.search.strategy.guided.surrogate import Surrogate, expected_hypervolume_improvement
from effir_dist.search.strategy.non_dominated_sort import Losses, best_first, crowding, ranks
from effir_dist.search.strategy.samplers import score_by_rank
from effir_dist.search.strategy.schedulers import Asha, Plain, Promote, Propose, Scheduler, Screening

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


def test_within_a_rank_the_largest_crowding_distance_comes_first() -> None:
    found = [(0.1, -0.1), (0.2, -0.2), (0.25, -0.25), (0.6, -0.6), (0.9, -0.9), (0.95, -0.05)]
    order = best_first(found)
    assert set(order[:2]) == {0, 4}
    assert order[2:] == [3, 2, 1, 5]
    assert crowding([(0.0, 0.0), (1.0, -1.0), (0.25, -0.25)])[2] == pytest.approx(2.0)


def test_infeasible_points_come_last_and_take_nobodys_rank() -> None:
    found = [(0.1, -0.9), (0.5, -0.5), (0.6, -0.6), (0.2, -0.95)]
    assert best_first(found) == [0, 3, 1, 2]
    assert best_first(found, [0.3, 0.0, -1.0, 0.1]) == [1, 2, 3, 0]


@pytest.mark.parametrize("costs", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_expected_improvement_is_the_mean_improvement_of_drawn_qualities(seed: int, costs: int) -> None:
    """Points of the front with no quality, or dearer than the unpruned model, change nothing."""
    rng, reference = np.random.default_rng(seed), [1.0] * costs + [0.0]
    front = [*points(seed, 9, costs=costs), (0.3,) * costs + (0.1,), (1.2,) * costs + (-0.99,)]
    mean, deviation = np.array([0.9, 0.5, 1.1, 0.4, 0.7]), np.array([0.1, 0.2, 0.05, 0.6, 0.1])
    shares = rng.random((5, costs))
    shares[4] = 1.1
    found = expected_hypervolume_improvement(front, shares, mean, deviation)
    before = hypervolume_losses(front, reference)
    for i, own in enumerate(shares.tolist()):
        drawn = mean[i] + deviation[i] * rng.standard_normal(4000)
        improved = np.mean([hypervolume_losses([*front, (*own, -float(q))], reference) - before for q in drawn])
        assert found[i] == pytest.approx(improved, rel=0.06, abs=2e-3)
    assert found[4] == 0


def test_a_surrogate_predicts_what_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((60, 5))
    y = 1 - x @ np.array([0.3, 0.1, 0.0, 0.2, 0.1]) - 0.1 * x[:, 0] * x[:, 3]
    mean, deviation = Surrogate(x[:40], y[:40] + rng.normal(0, 0.005, 40)).predict(x[40:])
    assert np.sqrt(np.mean((mean - y[40:]) ** 2)) < 0.2 * y.std()
    assert (deviation > 0).all()
    assert np.isfinite(Surrogate(np.ones((1, 3)), np.array([0.5])).predict(np.zeros((2, 3)))[0]).all()


class ByRank:
    """The scorer of samplers that have no `worth`."""

    score = staticmethod(score_by_rank)


class Made:
    """Plans with known scores: a search of them by several workers that never wait, with `GuidedSampler` in a study of
    Optuna whose one param is the plan. ASHA takes plans in their order; else each new one is chosen of two."""

    def __init__(self, scheduler: Scheduler, seed: int, workers: int = 3, fails: tuple[int, ...] = ()) -> None:
        self.scheduler, self.workers, self.fails = scheduler, workers, fails
        self.state = FidelityState(1 if isinstance(scheduler, Plain) else 3)
        self.rng = np.random.default_rng(seed)
        self.kept = self.rng.random((200, 4))
        self.kept[0] = 1
        self.quality = self.kept @ [0.1, 0.2, 0.3, 0.4]
        self.log: list[tuple[str, int, float]] = []
        self.offered: list[int] = []
        self.sampler = GuidedSampler(
            seed=seed,
            costs=lambda point: self.candidate(point["plan"]).shares,
            features=lambda point: self.candidate(point["plan"]).features,
            expense=lambda point: self.candidate(point["plan"]).training[-1] + SCORING[-1],
            points=lambda *_: ({"plan": plan} for plan in self.offered),
            space={"plan": IntDistribution(0, 199)},
            worst_costs=[1.0],
            worst_quality=0.0,
        )
        self.study = optuna.create_study(sampler=self.sampler, directions=["minimize", "maximize"])
        self.asked: dict[str, optuna.Trial] = {}

    def candidate(self, i: int) -> Candidate:
        share, first = 0.3 + 0.7 * float(self.kept[i].mean()), 3 - self.state.rungs
        each = (tuple(share * value for value in values[first:]) for values in (TRAINING, SCORING))
        return Candidate((share,), tuple(self.kept[i]), *each)

    def score(self, state: FidelityState, trials: Sequence[str]) -> np.ndarray:
        """As the engine of a search does for its scheduler."""
        waiting = [Screened({"plan": int(t)}, state.scores[t][0], expense=state.cost(t, state.top)) for t in trials]
        return self.sampler.worth(self.study, waiting)

    def start(self, new: list[int]) -> tuple[str, int]:
        """What the next worker does; new: plans that have not begun."""
        action = self.scheduler.next(self.state, self)
        assert action is not None, "a worker waits"
        if isinstance(action, Promote):
            plan = int(action.trial)
            known = {LOW_FIDELITY: self.state.scores[action.trial][0]}
            self.study.enqueue_trial({"plan": plan}, user_attrs=known)
            self.asked[action.trial] = self.study.ask(self.sampler.space)
            self.state.begin(action.trial, action.rung)
            return action.trial, action.rung
        free = isinstance(self.scheduler, Asha) or len(new) == 200
        self.offered = new[:1] if free else new[:2]
        asked = self.study.ask(self.sampler.space)
        plan = asked.params["plan"]
        new.remove(plan)
        self.asked[str(plan)] = asked
        self.state.begin(str(plan), action.rung, self.candidate(plan))
        return str(plan), action.rung

    def end(self, trial: str, rung: int) -> None:
        """What a trial comes to on a rung."""
        asked = self.asked.pop(trial)
        failed = int(trial) in self.fails
        if failed:
            self.state.fail(trial)
        else:
            noise = (0.1, 0.05, 0.0)[rung + 3 - self.state.rungs]
            self.state.tell(trial, rung, float(self.quality[int(trial)] + noise * self.rng.standard_normal()))
        if failed or rung < self.state.top:
            self.study.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(asked, [self.state.shares[trial][0], self.state.scores[trial][rung]])

    def run(self, steps: int) -> None:
        new, clock, number = list(range(200)), 0.0, 0
        running: list[tuple[float, int, str, int]] = []
        for _ in range(steps):
            while len(running) < self.workers:
                trial, rung = self.start(new)
                cost = self.state.cost(trial, rung)
                self.log.append((trial, rung, cost))
                number += 1
                heapq.heappush(running, (clock + cost, number, trial, rung))
            clock, _, trial, rung = heapq.heappop(running)
            self.end(trial, rung)

    def hypervolume(self, plans: Any) -> float:
        return hypervolume([(self.candidate(int(i)).shares[0], float(self.quality[int(i)])) for i in plans])


@pytest.mark.parametrize("scheduler", [Screening(0.1), Asha(1 / 3), Plain()])
def test_no_worker_waits_costs_add_up_and_nobody_goes_twice(scheduler: Scheduler) -> None:
    made = Made(scheduler, 0, fails=(5, 9))
    made.run(40 if isinstance(scheduler, Plain) else 150)
    gone = [(trial, rung) for trial, rung, _ in made.log]
    assert len(gone) == len(set(gone))
    for rung in range(made.state.rungs):
        assert made.state.spent[rung] == pytest.approx(sum(cost for _, r, cost in made.log if r == rung))
    assert not any(trial in ("5", "9") and rung > 0 for trial, rung in gone)
    assert ("0", made.state.top) in gone[:8]  # the unpruned model, which all others are measured by


def test_asha_starves_no_rung_and_promotes_its_fraction() -> None:
    made = Made(Asha(1 / 3), 1)
    made.run(200)
    on = [len(made.state.scored(rung)) for rung in range(3)]
    assert on[0] > 80
    assert on[1] == pytest.approx(on[0] / 3, rel=0.15)
    assert on[2] == pytest.approx(on[1] / 3, rel=0.35)
    promoted = [t for t, rung in made.state.target.items() if rung]
    best_third = set(made.state.best_first(list(made.state.scores), 0)[: len(made.state.scores) // 3])
    assert len(best_third & set(promoted)) > 0.7 * len(promoted)


def test_screening_stays_within_its_budget_and_the_surrogate_trains_better_than_chance() -> None:
    made = Made(Screening(0.2), 2)
    made.run(120)
    spent = made.state.spent
    assert spent[1] == 0
    assert spent[0] <= 0.2 * sum(spent) + 0.1
    trained = [int(t) for t in made.state.scored(2)]
    chance = np.random.default_rng(0).permutation(200)[: len(trained)]
    assert made.hypervolume(trained) > 1.02 * made.hypervolume(chance)


def screened(pairs: int, scheduler: Screening, seconds: bool = True, trials: int = 12) -> list[int]:
    """Plans screened before each promotion, of a model that trains an epoch of so many pairs and then is scored on
    10,000 documents. A step of training is three passes; 20,000 tokens pass the model in a second, and every visit to a
    rung takes 8 seconds more."""
    rng, state = np.random.default_rng(0), FidelityState(2)
    tokens, low, top = 3.0 * 80 * pairs, 80.0 * 400, 80.0 * 11_000
    found, since = list[int](), 0
    while len(found) < trials:
        action = scheduler.next(state, ByRank())
        assert action is not None
        if isinstance(action, Propose):
            trial, kept = str(len(state.candidates)), rng.random(4) if state.candidates else np.ones(4)
            share = float(kept.mean())
            costs = [share * each / (tokens + top) for each in (tokens, low, top)]
            state.begin(trial, 0, Candidate((share,), tuple(kept), (0.0, costs[0]), (costs[1], costs[2])))
            since += 1
        else:
            trial, share = action.trial, state.candidates[action.trial].shares[0]
            state.begin(trial, 1)
            found, since = [*found, since], 0
        spent = low if isinstance(action, Propose) else tokens + top
        if seconds:
            state.timed_as(trial, action.rung, 8 + share * spent / 20_000)
        state.tell(trial, action.rung, 0.5 * share)
    return found


@pytest.mark.parametrize("pairs", [50_000, 500_000, 5_000_000])
@pytest.mark.parametrize("seconds", [True, False])
def test_a_long_training_does_not_wait_for_thousands_of_screened_plans(pairs: int, seconds: bool) -> None:
    counts = screened(pairs, Screening(0.1), seconds)
    assert counts[0] == 1, "the unpruned model"
    assert counts[1:4] == [4, 4, 4], "few while no surrogate has data"
    assert max(counts[4:]) <= 16


def test_many_workers_screen_for_all_of_them_before_they_promote() -> None:
    """Cheap plans end first: without that each would be promoted as the only one that waits."""
    made = Made(Screening(0.2), 2, workers=16)
    made.run(100)
    jobs = [(int(trial), rung) for trial, rung, _ in made.log]
    first = next(place for place, (trial, rung) in enumerate(jobs) if rung and trial)
    promoted = [trial for trial, rung in jobs if rung and trial][:8]
    assert first >= 32, "plans screened, two for each worker"
    screened = sorted({trial for trial, rung in jobs[:first] if not rung}, key=lambda t: made.kept[t].mean())
    assert promoted != screened[:8], "not the cheapest, as they came"


def test_screening_is_charged_in_seconds_where_they_are_known() -> None:
    """By FLOPs a plan costs 1 % of a trial here; as measured, with what every visit to a rung takes, 6 %."""
    by_flops, by_seconds = (screened(10_000, Screening(0.1, 1000, by), trials=8) for by in (False, True))
    assert np.mean(by_flops[4:]) > 8
    assert np.mean(by_seconds[4:]) < 3


def test_seconds_that_are_not_known_yet_are_taken_as_those_that_are() -> None:
    state = FidelityState(2)
    assert state.seconds_spent() == [0.0, 0.0]
    for trial in "abc":
        state.begin(trial, 0, Candidate((1.0,), (1.0,), (0.0, 0.9), (0.01, 0.1)))
    assert state.seconds_spent() is None
    state.timed_as("a", 0, 5.0)
    state.tell("a", 0, 0.5)
    assert state.seconds_spent() == pytest.approx([15.0, 0.0])
    state.begin("a", 1)
    assert state.seconds_spent() is None, "its seconds are of another kind than those of screening"
    state.timed_as("a", 1, 70.0)
    assert state.seconds_spent() == pytest.approx([15.0, 70.0])


def waiting_trials(*found: tuple[float, float]) -> FidelityState:
    """Trials that were screened: share of the unpruned model's size and cheap score of each."""
    state = FidelityState(2)
    for i, (share, score) in enumerate(found):
        state.begin(str(i), 0, Candidate((share,), (share,), (0.0, 0.9), (0.01, 0.1)))
        state.tell(str(i), 0, score)
    return state


def promote_all(state: FidelityState, exhausted: bool = False) -> tuple[list[str], Propose | Promote | None]:
    """The trials that are promoted before anything else is done, and that."""
    promoted = []
    while isinstance(action := Screening(0.001).next(state, ByRank(), exhausted), Promote):
        promoted.append(action.trial)
        state.begin(action.trial, action.rung)
    return promoted, action


def test_without_a_surrogate_screening_promotes_by_rank() -> None:
    """Optuna's samplers have no model of candidates."""
    state = waiting_trials((1.0, 0.9), (0.6, 0.5), (0.7, 0.7), (0.5, 0.4))
    promoted, action = promote_all(state)
    assert promoted == ["0", "2", "1", "3"]
    assert action == Propose(0), "where nobody waits, a new plan is screened though the budget is spent"
    assert promote_all(state, exhausted=True) == ([], None)


def test_a_plan_that_is_hopeless_untrained_is_not_trained_for_want_of_another() -> None:
    found = [(1.0, 0.9), (0.7, 0.7), (0.7 - 1e-5, 0.1), (0.5, 0.01), (0.8, 0.3)]
    assert promote_all(waiting_trials(*found)) == (["0", "1"], Propose(0)), "small, but as bad as nothing"
    promoted, _ = promote_all(waiting_trials(*found, (0.75, 0.2)))
    assert len(promoted) == 3, "one of four is the best of them"
    assert sorted(promote_all(waiting_trials(*found), exhausted=True)[0]) == ["0", "1", "2", "3", "4"]


def test_workers_beside_each_other_do_not_train_the_same_corner() -> None:
    """A running trial counts with the score that is expected of it, so that its like is worth less."""
    made = Made(Plain(), 4, workers=1)
    made.run(30)
    made.offered, made.sampler.seed = list(range(60, 120)), lambda number: 1
    first, second = (made.study.ask(made.sampler.space).params["plan"] for _ in range(2))
    distance = np.abs(made.kept[60:120] - made.kept[first]).sum(axis=1)
    assert second != first
    assert second not in 60 + np.argsort(distance)[:3]


def test_equal_searches_take_equal_steps() -> None:
    logs = []
    for _ in range(2):
        made = Made(Screening(0.1), 3, workers=1)
        made.run(60)
        logs.append(made.log)
    assert logs[0] == logs[1]


def test_what_is_told_again_gives_the_same_state() -> None:
    """A search that is resumed tells a new state all that is on disk."""
    made = Made(Asha(1 / 3), 4, workers=1)
    made.run(90)
    old, new = made.state, FidelityState(3)
    for trial in sorted(old.candidates, key=int):
        for rung, score in sorted(old.scores.get(trial, {}).items()):
            new.begin(trial, rung, None if trial in new.candidates else old.candidates[trial])
            new.tell(trial, rung, score)
    arrived = [(rung, cost) for trial, rung, cost in made.log if rung in old.scores.get(trial, {})]
    assert new.spent == pytest.approx([sum(cost for r, cost in arrived if r == rung) for rung in range(3)])
    assert sorted(new.waiting()) == sorted([*old.waiting(), *(t for t in old.running if t in old.scores)])
