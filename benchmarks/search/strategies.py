"""The strategies that `replay` compares. Each is one small class with `ask` and `tell` (`world.Strategy`)."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import IntDistribution

from benchmarks.search import plans
from benchmarks.search.plans import GROUPS, RATIOS, Point, point
from benchmarks.search.world import Table
from effir_dist.search.strategy.fidelity import Candidate, FidelityState
from effir_dist.search.strategy.guided import LOW_FIDELITY, POOL, GuidedSampler, Screened
from effir_dist.search.strategy.schedulers import Asha, Propose, Scheduler, Screening


class InOrder:
    """Full trainings in a given order."""

    def __init__(self, plans: list[int], top: int) -> None:
        self.left, self.top = list(reversed(plans)), top

    def ask(self) -> tuple[int, int] | None:
        return (self.left.pop(), self.top) if self.left else None

    def tell(self, plan: int, rung: int, score: float) -> None:
        pass


def everything(table: Table, seed: int) -> InOrder:
    """Random search without repeats."""
    return InOrder(np.random.default_rng(seed).permutation(len(table.points)).tolist(), table.rungs - 1)


def recipe(table: Table, _seed: int) -> InOrder:
    """The paper's: drop so many, the least important first, and narrow the rest by one ratio."""
    index = table.index()
    return InOrder([index[p] for p in plans.recipe(table.order) if p in index], table.rungs - 1)


def starts(table: Table) -> list[Point]:
    """What a search of the product begins with: none dropped, drops by importance, the paper's proportions."""
    blocks, order = table.blocks, table.order
    plain = [point(order[:k], [1.0] * GROUPS, blocks) for k in range(blocks)]
    return [*plain, point(order[: blocks // 2], [0.75] * GROUPS, blocks)]


class Encoding:
    """How suggested values mean a plan: which layers, and widths `global` or per `group`."""

    def __init__(self, layers: str, widths: str, table: Table) -> None:
        self.layers, self.groups, self.table = layers, GROUPS if widths == "group" else 1, table

    def distributions(self) -> dict[str, Any]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        blocks = range(self.table.blocks)
        low, step = min(RATIOS), RATIOS[0] - RATIOS[1]
        found: dict[str, Any] = {f"width{g}": FloatDistribution(low, 1.0, step=step) for g in range(self.groups)}
        if self.layers != "set":
            found["count"] = IntDistribution(0, len(blocks))
        if self.layers in ("set", "flips"):
            found |= {f"bit{b}": CategoricalDistribution([False, True]) for b in blocks}
        if self.layers == "priorities":
            found |= {f"priority{b}": FloatDistribution(0.0, 1.0) for b in blocks}
        return found

    def point(self, values: dict[str, Any]) -> Point:
        ratios = [round(values[f"width{g}"], 6) for g in range(self.groups)] * (GROUPS // self.groups)
        return point(self._dropped(values), ratios, self.table.blocks)

    def _dropped(self, values: dict[str, Any]) -> list[int]:
        blocks = range(self.table.blocks)
        bits = {b for b in blocks if values.get(f"bit{b}")}
        if self.layers == "set":
            return sorted(bits)
        order = self.table.order
        if self.layers == "priorities":
            order = sorted(blocks, key=lambda b: values[f"priority{b}"])
        return sorted(set(order[: values["count"]]) ^ bits)

    def values(self, wanted: Point) -> dict[str, Any] | None:
        """Values that mean a point, for those of `starts`."""
        ratios = wanted.ratios[: self.groups]
        found: dict[str, Any] = {f"width{g}": ratio for g, ratio in enumerate(ratios)}
        blocks, order = range(self.table.blocks), self.table.order
        found["count"] = len(wanted.dropped)
        found |= {f"bit{b}": self.layers == "set" and b in wanted.dropped for b in blocks}
        found |= {f"priority{b}": order.index(b) / len(order) for b in blocks}
        found = {name: found[name] for name in self.distributions()}
        return found if self.point(found) == wanted else None


class Optuna:
    """Full trainings of what a sampler of Optuna suggests; a repeat costs nothing and is told as failed."""

    REPEATS = 24

    def __init__(self, table: Table, seed: int, sampler: str, encoding: Encoding) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.optuna, self.sampler, self.seed = optuna, sampler, seed
        self.encoding, self.index, self.top = encoding, table.index(), table.rungs - 1
        self.distributions = encoding.distributions()
        self.study = optuna.create_study(directions=["minimize", "maximize"])
        self.starts = [v for p in starts(table) if (v := encoding.values(p)) is not None]
        self.begun, self.sizes, self.asked = len(self.starts), table.sizes, 0
        self.running: dict[int, Any] = {}
        self.seen: set[int] = set()

    def _make(self, attempt: int) -> Any:
        seed = (self.seed * 1_000_003 + self.asked * 101 + attempt) % 2**31
        samplers = self.optuna.samplers
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if attempt >= self.REPEATS:
                return samplers.RandomSampler(seed=seed)
            if self.sampler == "nsga2":
                return samplers.NSGAIISampler(seed=seed, population_size=max(8, self.begun))
            if self.sampler == "gp":
                return samplers.GPSampler(seed=seed, n_startup_trials=self.begun, deterministic_objective=False)
            return samplers.TPESampler(seed=seed, n_startup_trials=self.begun, multivariate=True, constant_liar=True)

    def ask(self) -> tuple[int, int] | None:
        self.asked += 1
        for attempt in range(self.REPEATS + 200):
            if self.starts:
                self.study.enqueue_trial(self.starts.pop(0))
            self.study.sampler = self._make(attempt)
            trial = self.study.ask(self.distributions)
            plan = self.index.get(self.encoding.point(trial.params))
            if plan is not None and plan not in self.seen:
                self.seen.add(plan)
                self.running[plan] = trial
                return plan, self.top
            self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
        return None

    def tell(self, plan: int, rung: int, score: float) -> None:
        self.study.tell(self.running.pop(plan), [float(self.sizes[plan]), score])


class Rungs:
    """The product's sampler, in a study of Optuna whose one param is the row of a table, and one of its schedulers.
    With ASHA plans are drawn at random."""

    def __init__(self, table: Table, seed: int, scheduler: Scheduler, guided: bool) -> None:
        self.scheduler, self.guided = scheduler, guided
        self.state = FidelityState(table.rungs)
        self.rng = np.random.default_rng(seed)
        index = table.index()
        self.starts = [index[p] for p in starts(table) if p in index]
        self.left = dict.fromkeys(self.rng.permutation(len(table.points)).tolist())
        scoring = np.stack([table.scoring[:, 1]] * (table.rungs - 1) + [table.scoring[:, 0]], 1)
        self.candidates = [
            Candidate((float(size),), tuple(kept**0.25), tuple(training), tuple(scored))
            for size, kept, training, scored in zip(table.sizes, table.kept, table.work, scoring, strict=True)
        ]
        self.sampler = self._sampler(seed)
        self.study = optuna.create_study(sampler=self.sampler, directions=["minimize", "maximize"])
        self.asked: dict[int, optuna.Trial] = {}

    def _sampler(self, seed: int) -> GuidedSampler:
        rows = self.candidates
        return GuidedSampler(
            seed=seed,
            costs=lambda point: rows[point["row"]].shares,
            features=lambda point: rows[point["row"]].features,
            expense=lambda point: rows[point["row"]].training[-1] + rows[point["row"]].scoring[-1],
            points=lambda *_: ({"row": row} for row in itertools.islice(self.left, POOL if self.guided else 1)),
            space={"row": IntDistribution(0, len(rows) - 1)},
            worst_costs=[1.0],
            worst_quality=0.0,
        )

    def score(self, state: FidelityState, trials: Sequence[str]) -> np.ndarray:
        """Of rows that were screened, for the scheduler."""
        known = [Screened({"row": int(t)}, state.scores[t][0], expense=state.cost(t, state.top)) for t in trials]
        return self.sampler.worth(self.study, known)

    def ask(self) -> tuple[int, int] | None:
        action = Propose(0) if self.starts else self.scheduler.next(self.state, self, not self.left)
        if action is None:
            return None
        if isinstance(action, Propose):
            plan = self._new()
            self.state.begin(str(plan), action.rung, self.candidates[plan])
            return plan, action.rung
        self._run(int(action.trial), {LOW_FIDELITY: self.state.scores[action.trial][0]})
        self.state.begin(action.trial, action.rung)
        return int(action.trial), action.rung

    def _new(self) -> int:
        plan = self._run(self.starts.pop(0) if self.starts else None)
        del self.left[plan]
        return plan

    def _run(self, plan: int | None, known: dict[str, float] | None = None) -> int:
        """A row runs; None: one that the sampler takes."""
        if plan is not None:
            self.study.enqueue_trial({"row": plan}, user_attrs=known)
        asked = self.study.ask(self.sampler.space)
        self.asked[asked.params["row"]] = asked
        return asked.params["row"]

    def tell(self, plan: int, rung: int, score: float) -> None:
        self.state.tell(str(plan), rung, score)
        asked = self.asked.pop(plan)
        if rung < self.state.top:
            self.study.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(asked, [self.candidates[plan].shares[0], score])


Make = Callable[[Table, int], Any]


def _optuna(sampler: str, layers: str, widths: str) -> Make:
    return lambda table, seed: Optuna(table, seed, sampler, Encoding(layers, widths, table))


def _guided(budget: float) -> Make:
    return lambda table, seed: Rungs(table, seed, Screening(budget), True)


def _asha(fraction: float) -> Make:
    return lambda table, seed: Rungs(table, seed, Asha(fraction), False)


STRATEGIES: dict[str, Make] = {
    "random": everything,
    "recipe": recipe,
    **{
        f"tpe {layers} {widths}": _optuna("tpe", layers, widths)
        for layers, widths in itertools.product(("set", "prefix", "flips", "priorities"), ("global", "group"))
    },
    "nsga2 set group": _optuna("nsga2", "set", "group"),
    "gp set group": _optuna("gp", "set", "group"),
    **{f"random asha 1/{k}": _asha(1 / k) for k in (2, 3, 4)},
    "guided": _guided(0.1),
    "guided 1/40 screened": _guided(0.025),
    "guided 1/4 screened": _guided(0.25),
}
