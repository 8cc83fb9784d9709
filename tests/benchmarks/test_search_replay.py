"""The replay on the tables in reports/search: its accounting, every strategy, and what the default is worth."""

from __future__ import annotations

import pytest

from benchmarks.search import plans, world
from benchmarks.search.replay import quantile
from benchmarks.search.strategies import STRATEGIES, Encoding, starts
from tests import ROOT

TABLES = ROOT / "reports" / "search"


@pytest.fixture(scope="module")
def table() -> world.Table:
    """MedQuAD, on which nothing is tuned."""
    return world.load(TABLES / "medquad")


def test_a_table_is_normalised_by_the_unpruned_model(table: world.Table) -> None:
    whole = table.index()[starts(table)[0]]
    assert table.sizes[whole] == table.scores[whole, -1] == table.test[whole] == 1
    assert table.work[whole, -1] + table.scoring[whole, 0] == pytest.approx(1)
    assert (table.sizes <= 1).all()
    assert len(table.points) == len(set(table.points))


def test_a_plan_that_goes_on_pays_the_rest_and_each_scoring(table: world.Table) -> None:
    searched = world.World(table, small=True)
    steps = [searched.cost(3, 0, -1), searched.cost(3, 1, 0), searched.cost(3, 2, 1)]
    small, whole = table.scoring[3, 1], table.scoring[3, 0]
    assert steps == pytest.approx([small, table.work[3, 1] + small, table.work[3, 2] - table.work[3, 1] + whole])
    assert world.World(table).cost(3, 2, -1) == pytest.approx(table.work[3, 2] + whole)


@pytest.mark.parametrize("name", ["pydocs", "medquad"])
def test_the_recipe_is_compared_by_its_own_outcomes(name: str) -> None:
    found = world.load(TABLES / name)
    assert set(plans.recipe(found.order)) <= found.index().keys()


@pytest.mark.parametrize("name", [name for name in STRATEGIES if not name.startswith("gp")])
def test_every_strategy_searches(name: str, table: world.Table) -> None:
    curve = world.World(table, 2, small=True).run(STRATEGIES[name](table, 0), 6.0)
    assert curve.evaluations[-1] >= 2
    assert curve.hypervolume == sorted(curve.hypervolume)
    assert curve.cost == sorted(curve.cost)


@pytest.mark.parametrize("layers", ["set", "prefix", "flips", "priorities"])
def test_an_encoding_can_say_where_a_search_starts(layers: str, table: world.Table) -> None:
    encoding = Encoding(layers, "group", table)
    for start in starts(table):
        values = encoding.values(start)
        assert values is not None
        assert values.keys() == encoding.distributions().keys()
        assert encoding.point(values) == start


def test_the_default_takes_a_third_of_what_random_search_takes(table: world.Table) -> None:
    searched, best = world.World(table, small=True), table.best()

    def cost(name: str, budget: float) -> float:
        found = [searched.run(STRATEGIES[name](table, seed), budget) for seed in range(9)]
        return quantile([curve.needs(0.99 * best) for curve in found], 0.5)

    assert cost("guided", 12) < cost("random", 200) / 3
