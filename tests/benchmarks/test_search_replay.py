"""The replay: an emulator that answers for any plan, the product's costs, every strategy, and going on after a stop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from benchmarks.search import emulator, live, outcomes, plans, replay, strategies, summary
from benchmarks.search.emulator import Emulator
from benchmarks.search.encodings import LAYERS, WIDTHS, Encoding, point_of
from benchmarks.search.plans import Point, point
from benchmarks.search.reference import best_known
from benchmarks.search.regressions import candidates
from benchmarks.search.strategies import BEST, COMPARED, STRATEGIES
from benchmarks.search.world import Job, World, front_of
from effir_dist.core.config import replace
from effir_dist.core.settings import RunConfig
from effir_dist.models.pruning import PruningPlan, count_parameters, moving_share
from effir_dist.runs.pareto import hypervolume
from effir_dist.search.strategy import space as spaces
from effir_dist.search.strategy.guided import sampler as guided
from effir_dist.search.strategy.problem import Problem
from tests import ROOT
from tests.benchmarks import made_tables


@pytest.fixture(autouse=True, scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two regressions instead of nine, and a pool of 20 plans for each proposal instead of 200: those take the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(emulator, "candidates", lambda sums: {n: candidates(sums)[n] for n in ("ridge", "gp")})
        patch.setattr(guided, "POOL", 20)
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A made-up model of six blocks."""
    table = outcomes.load(made_tables.make(tmp_path_factory.mktemp("tables") / "small", 6, 90))
    return World(table, Emulator(table))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A made-up model of thirty blocks: 2^30 sets of MLPs."""
    table = outcomes.load(made_tables.make(tmp_path_factory.mktemp("tables") / "deep", 30, 106))
    return World(table, Emulator(table))


def drawn(world: World, count: int) -> list[Point]:
    """Plans that are no rows of the table."""
    rng, blocks = np.random.default_rng(7), world.table.blocks
    found = []
    while len(found) < count:
        gone = rng.choice(blocks, rng.integers(1, blocks * 3 // 4), replace=False).tolist()
        each = point(gone, rng.choice([0.3, 0.5, 0.7, 1.0], world.table.groups).tolist(), blocks)
        if world.table.plan(each) not in world.table.rows:
            found.append(each)
    return found


@pytest.mark.parametrize("which", ["small", "deep"])
def test_the_emulator_knows_plans_that_the_table_lacks(which: str, request: pytest.FixtureRequest) -> None:
    world: World = request.getfixturevalue(which)
    new = [world.table.plan(each) for each in drawn(world, 60)]
    known = np.array([made_tables.quality(plan, world.table.blocks, True) for plan in new])
    worth = world.emulator.worth(new)
    assert np.sqrt(np.mean((worth - known) ** 2)) < 0.35 * known.std()
    assert spearmanr(worth, known)[0] > 0.9
    for error in world.emulator.errors:
        assert error.rmse < 0.7 * error.deviation or not error.chosen


def test_what_a_strategy_is_told_is_as_noisy_as_the_table_and_the_same_for_all(small: World) -> None:
    new = drawn(small, 200)
    plans_ = [small.table.plan(each) for each in new]
    again = Emulator(small.table)
    told = np.array([small.told(Job(each, True)) for each in new])
    assert (again.told(plans_[::-1], "ndcg_10")[::-1] == told).all()
    noise = (told - small.emulator.worth(plans_)).std()
    assert 0.5 * made_tables.NOISE < noise < 2.5 * made_tables.NOISE


def test_a_row_of_the_table_is_told_as_measured_and_its_luck_is_worth_nothing(small: World) -> None:
    table = small.table
    trained = [each for each in table.points if "ndcg_10" in table.rows[table.plan(each)]]
    for each in trained[:20]:
        row = table.rows[table.plan(each)]
        assert small.told(Job(each, True)) == row["ndcg_10"]
        assert small.told(Job(each, False)) == row["small_0"]
    luck = np.array([table.rows[p]["ndcg_10"] - made_tables.quality(p, 6, True) for p in map(table.plan, trained)])
    left = small.emulator.worth([table.plan(each) for each in trained]) - np.array(
        [made_tables.quality(table.plan(each), 6, True) for each in trained]
    )
    assert abs(np.corrcoef(luck, left)[0, 1]) < 0.5


@pytest.mark.parametrize("name", ["pydocs", "medquad"])
def test_sizes_and_shares_by_formula_are_those_in_the_tables(name: str) -> None:
    folder = ROOT / "reports" / "search" / name
    table, lines = outcomes.load(folder), pd.read_csv(folder / "table.csv").set_index("key")
    for each in table.points[::40]:
        shape, line = table.shape(table.plan(each)), lines.loc[each.key]
        assert shape.size == pytest.approx(line["parameters_fraction"], abs=1e-7)
        assert shape.moving == pytest.approx(line["moving_share"], abs=1e-7)


def test_costs_are_the_products(deep: World) -> None:
    table = deep.table
    space = Encoding("set", "group").space(table)
    neurons = {plans.RANKING: table.neurons}
    work = {"train": 900.0, "score": 100.0, "low": 40.0}
    problem = Problem(
        replace(RunConfig(), {"prune.keep_norms": table.keep_norms}),
        space,
        table.model_config,
        table.importance,
        neurons,
        work,
        (0.0,),
    )
    values = problem.starts[2]
    each = point_of(space, values, table)
    candidate = problem.candidate(problem.spec(0, values))
    assert deep.cost(Job(each, False)) == pytest.approx(candidate.training[0] + candidate.scoring[0])
    assert deep.cost(Job(each, True)) == pytest.approx(candidate.training[1] + candidate.scoring[1])
    assert deep.expected(each)[0] == pytest.approx(candidate.shares[0])
    plan = table.plan(each)
    assert table.shape(plan).size == count_parameters(table.model_config, plan) / count_parameters(table.model_config)
    assert table.shape(plan).moving == moving_share(table.model_config, plan)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("layers", LAYERS)
def test_a_point_of_any_encoding_is_the_plan_that_the_product_makes(layers: str, widths: str, deep: World) -> None:
    table, rng = deep.table, np.random.default_rng(0)
    space = Encoding(layers, widths).space(table)
    neurons = {plans.RANKING: table.neurons}
    config = replace(RunConfig(), {"prune.ranking": plans.RANKING, "prune.keep_norms": table.keep_norms})
    problem = Problem(config, space, table.model_config, table.importance, neurons, {"train": 1, "score": 1, "low": 1})
    assert problem.spec(0, problem.starts[0]).plan == PruningPlan()
    prefix = {point_of(space, start, table).dropped for start in problem.starts}
    order = table.importance.drop_order()
    assert all(set(gone) == set(order[: len(gone)]) for gone in prefix)
    for _ in range(5):
        found = spaces.distributions(space, table.blocks)
        values = {name: strategies._value(each, rng) for name, each in found.items()}
        assert table.plan(point_of(space, values, table)) == problem.spec(1, values).plan


def test_a_strategy_may_propose_what_no_row_is_and_it_counts(deep: World) -> None:
    class Once:
        """Proposes plans that the table lacks."""

        def __init__(self) -> None:
            self.left, self.heard = drawn(deep, 3), list[float]()

        def ask(self) -> Job | None:
            return Job(self.left.pop(), True) if self.left else None

        def tell(self, job: Job, score: float) -> None:
            self.heard.append(score)

    strategy, asked = Once(), drawn(deep, 3)
    curve = deep.run(strategy, 100.0)
    assert len(strategy.heard) == curve.trained == 3
    assert curve.cost[-1] == pytest.approx(sum(deep.cost(Job(each, True)) for each in asked))
    assert curve.hypervolume[-1] == pytest.approx(hypervolume([deep.expected(each) for each in asked]))


@pytest.mark.parametrize("name", [name for name in COMPARED if not name.startswith("gp")])
def test_every_strategy_searches_thirty_blocks(name: str, deep: World) -> None:
    curve = deep.run(STRATEGIES[name](deep, 0), 4.0, 3)
    assert curve.trained >= 3
    assert curve.hypervolume == sorted(curve.hypervolume)
    assert curve.cost == sorted(curve.cost)
    assert (curve.screened > 3) == name.endswith("screened")
    again = deep.run(STRATEGIES[name](deep, 0), 4.0, 3)
    assert again == curve


def test_each_encoding_that_is_compared_is_one() -> None:
    assert set(COMPARED) <= STRATEGIES.keys()
    assert set(BEST) == {"tpe", "nsga2", "gp"}


def test_the_best_known_is_above_the_tables_rows_and_random_plans(deep: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.search.reference.GENERATIONS", 12)
    best = best_known(deep)
    assert best.hypervolume > hypervolume([deep.expected(each) for each in deep.table.points])
    assert any(each.attentions for each in best.front), "the space drops them, so the best known does"
    assert best.hypervolume > hypervolume([deep.expected(each) for each in drawn(deep, 100)])
    assert best.hypervolume == pytest.approx(hypervolume(front_of([deep.expected(each) for each in best.front])))


def runs_of(folder: Path) -> list[tuple[object, ...]]:
    frame = summary.read(folder / "runs.csv").drop(columns="seconds")
    return sorted(map(tuple, frame.fillna(-1).itertuples(index=False)))


def test_a_replay_that_was_cut_off_goes_on_to_what_an_uninterrupted_one_gives(tmp_path: Path) -> None:
    folder = made_tables.make(tmp_path / "tables" / "small", 6, 60)
    only = ["recipe", "guided set group screened"]
    common = [str(folder), "--budget", "2", "--workers", "1", "2", "--processes", "1", "--only", *only]
    replay.main([*common, "--out", str(tmp_path / "whole"), "--seeds", "2"])
    replay.main([*common, "--out", str(tmp_path / "again"), "--seeds", "1"])
    again = tmp_path / "again" / "runs.csv"
    with again.open("a") as file:
        file.write("small,abc")  # a line that was cut off
    replay.main([*common, "--out", str(tmp_path / "again"), "--seeds", "2"])
    assert runs_of(tmp_path / "again") == runs_of(tmp_path / "whole")
    results = pd.read_csv(tmp_path / "again" / "results.csv")
    assert set(results["strategy"]) == set(only)
    assert (results["seeds"] == 2).all()
    assert (tmp_path / "again" / "search.png").is_file()
    errors = pd.read_csv(tmp_path / "again" / "emulators.csv")
    assert errors.groupby("column")["chosen"].sum().tolist() == [1] * 4


def test_a_front_is_trained_for_real_once_beside_what_was_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = made_tables.make(tmp_path / "tables" / "real", 6, 140), tmp_path / "live.csv"
    trained = list[str]()

    def row(_: object, each: Point, *more: object) -> dict[str, str]:
        trained.append(each.key)
        score = f"{made_tables.quality(outcomes.load(folder).plan(each), 6, True):.6f}"
        return {"ndcg_0": "0.1", "ndcg_10": score, "test_10": score}

    monkeypatch.setattr("benchmarks.search.work.load", lambda *_: None)
    monkeypatch.setattr("benchmarks.search.work.row", row)
    common = [str(folder), "--strategy", "random set group", "--cost", "8", "--out", str(out), "--stops", "10"]
    live.main([*common, "--most", "2"])
    assert len(trained) == 2
    live.main(common)
    lines = pd.read_csv(out)
    assert lines["key"].tolist() == trained
    assert lines["key"].is_unique
    assert len(lines) > 2
    assert (lines["worth"] - lines["ndcg"]).abs().mean() < 0.02


def test_quantiles_know_what_was_not_reached() -> None:
    assert summary.quantile([3.0, float("inf"), 1.0], 0.5) == 3.0
    assert summary.quantile([float("inf"), float("inf"), 1.0], 0.5) == float("inf")
