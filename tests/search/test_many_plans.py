"""What is said of hundreds of plans at once equals what each plan says: sizes, costs, features, keys, constraints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from effir_dist.core import config as c
from effir_dist.core.settings import RunConfig
from effir_dist.importance.ranking import Importance
from effir_dist.models.families.base import ModelDict, block_count, mlp_width
from effir_dist.models.families.registry import BACKBONES
from effir_dist.models.operations import drop
from effir_dist.models.operations.neuron_order import NeuronOrder
from effir_dist.models.operations.space_part import SpacePart
from effir_dist.search.strategy import space_file
from effir_dist.search.strategy.guided.drawing import Drawing
from effir_dist.search.strategy.guided.pool import columns_of
from effir_dist.search.strategy.problem import Problem

WORK = {"train": 0.85, "score": 0.15, "low": 0.05}
WIDTHS = {"low": 0.1, "high": 1.0, "step": 0.1}
BOTH = {"drop_mlp": {"max": 0.7}, "drop_attention": {"max": 0.5}, "width_ratio": {**WIDTHS, "groups": 3}}
TRAINED = {"train.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}, "train.batch_size": {"low": 8, "high": 32}}
SWITCHES = {
    "train.lora_rank": [0, 8],
    "train.lora_alpha": [16, 32],
    "train.order": ["prune_then_tune", "tune_then_prune"],
}
SPACES: dict[str, dict[str, Any]] = {
    "sets": {**BOTH, "drop_block": {"max": 2}},
    "first k": {**BOTH, "layers": "top_k", "drop_block": {"max": 2}},
    "flips": {**BOTH, "layers": "top_k_flips", **TRAINED},
    "emptied": {"drop_mlp": {"max": 0.9}, "width_ratio": {"low": 0.001, "high": 0.1}},
    "settings": {"drop_mlp": {"max": 1}, **SWITCHES},
    "of the plan": {**BOTH, "prune.ranking": ["activation", "random"], "prune.width_multiple": [1, 64, 100]},
    "cut": {"model.dimension": [0, 100, 64], "width_ratio": WIDTHS},
}


def problem_of(model: ModelDict, space: dict[str, Any], settings: dict[str, Any] | None = None) -> Problem:
    rng, blocks, width = np.random.default_rng(0), block_count(model), mlp_width(model)
    importance = Importance(*(tuple(row) for row in rng.random((3, blocks)).tolist()))
    neurons = {name: rng.random((blocks, width)).astype(np.float32) for name in ("activation", "random")}
    config = c.replace(RunConfig(), settings or {})
    return Problem(config, space_file.parse_space(space, "x"), model, importance, neurons, WORK, (0.0,))


def drawn(problem: Problem, count: int = 60) -> Any:
    """Half of them changed from the starting points, so that some are equal."""
    parts, blocks = problem.space.parts, block_count(problem.model_config)
    switches = [each for part in parts for each in part.switches(blocks, problem.importance)]
    rng = np.random.default_rng(1)
    return Drawing(problem.distributions, switches, problem.starts[0]).draw(count, problem.starts, rng)


def check_equal(problem: Problem, columns: Any) -> None:
    pool = problem.many.pool(columns)
    specs = [problem.spec(0, pool.point(i)) for i in range(len(pool))]
    for i, spec in enumerate(specs):
        slow, fast = problem.candidate(spec), pool.candidate(i)
        for name in vars(slow):
            assert getattr(fast, name) == pytest.approx(getattr(slow, name), rel=1e-12, abs=1e-12), name
        assert pool.feasible[i] == problem.feasible(spec)
    for i, j in np.ndindex(len(specs), len(specs)):
        assert (pool.keys[i] == pool.keys[j]) == (specs[i].key == specs[j].key)


@pytest.mark.parametrize(
    ("space", "keep_norms"), [*((name, True) for name in SPACES), ("sets", False), ("emptied", False)]
)
def test_many_plans_at_once_are_what_each_of_them_is(space: str, keep_norms: bool) -> None:
    settings = {"search.constraints": ["parameters <= 0.8"], "prune.keep_norms": keep_norms}
    problem = problem_of(BACKBONES["minilm"].config, SPACES[space], settings)
    columns = drawn(problem)
    check_equal(problem, columns)
    assert 1 < len(set(problem.many.pool(columns).keys)) <= 60


@pytest.mark.parametrize("name", sorted({row.config["model_type"]: name for name, row in BACKBONES.items()}.values()))
def test_every_familys_formulas_take_arrays(name: str) -> None:
    problem = problem_of({**BACKBONES[name].config, "intermediate_size": 96}, BOTH)
    pool = problem.many.pool(drawn(problem, 12))
    for i in range(len(pool)):
        spec = problem.spec(0, pool.point(i))
        assert pool.candidate(i).shares == pytest.approx(problem.candidate(spec).shares, rel=1e-12)


def test_an_operation_without_a_fast_way_is_asked_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(BACKBONES["minilm"].config, SPACES["sets"])
    columns = drawn(problem, 20)
    fast = problem.many.pool(columns)
    monkeypatch.setattr(drop.DropPart, "left", SpacePart.left)
    check_equal(problem, columns)
    slow = problem.many.pool(columns)
    assert slow.features == pytest.approx(fast.features)
    assert isinstance(slow.keys[0], str)


@pytest.mark.parametrize("space", ["settings", "flips", "of the plan", "cut"])
def test_known_and_infeasible_plans_are_left_out_and_each_stands_once(space: str) -> None:
    problem = problem_of(BACKBONES["minilm"].config, SPACES[space], {"search.constraints": ["parameters <= 0.99"]})
    columns = drawn(problem, 200)
    new = problem.many.new(columns)
    specs = [problem.spec(0, new.point(i)) for i in range(len(new))]
    assert len({spec.key for spec in specs}) == len(specs)
    assert all(map(problem.feasible, specs))
    for spec in specs[::2]:
        problem.know(spec)
    left = problem.many.new(columns)
    assert [left.point(i) for i in range(len(left))] == [new.point(i) for i in range(1, len(new), 2)]


def test_neurons_kept_of_many_are_those_of_each() -> None:
    rng = np.random.default_rng(2)
    scores = rng.integers(0, 50, (7, 3000)).astype(np.float32)  # with ties
    order, staying = NeuronOrder(scores), rng.random((80, 7)) < 0.6
    staying[:, 3] = True
    ratios = np.append(rng.random(76), [0.0, 1.0, 1e-9, 0.5])
    for row, ratio, kept in zip(staying, ratios, order.kept_of_many(staying, ratios), strict=True):
        assert kept[row].tolist() == order.kept(np.flatnonzero(row).tolist(), float(ratio)).tolist()
        assert not kept[~row].any()


@pytest.mark.parametrize("layers", ["subset", "top_k", "top_k_flips"])
def test_drawn_plans_drop_from_few_to_many_and_follow_from_their_seed(layers: str) -> None:
    model = {**BACKBONES["smollm2"].config, "num_hidden_layers": 32}
    space = {"drop_mlp": {"max": 32}, "layers": layers, "width_ratio": {**WIDTHS, "groups": 4}}
    problem = problem_of(model, space)
    switches = [each for part in problem.space.parts for each in part.switches(32, problem.importance)]
    columns, again = (
        Drawing(problem.distributions, switches, problem.starts[0]).draw(400, [], np.random.default_rng(3))
        for _ in "12"
    )
    assert all((columns[name] == again[name]).all() for name in problem.distributions)
    pool = problem.many.pool(columns)
    counts = [len(problem.spec(0, pool.point(i)).plan.dropped_mlp) for i in range(len(pool))]
    assert np.histogram(counts, bins=[0, 8, 16, 24, 33])[0].min() > 30
    for name, distribution in problem.distributions.items():
        for i in range(0, 400, 7):
            assert distribution._contains(distribution.to_internal_repr(pool.point(i)[name])), name


def test_plans_near_others_are_small_changes_of_them() -> None:
    problem = problem_of(BACKBONES["smollm2"].config, SPACES["sets"])
    switches = [each for part in problem.space.parts for each in part.switches(30, problem.importance)]
    drawing, rng = Drawing(problem.distributions, switches, problem.starts[0]), np.random.default_rng(4)
    best = columns_of(problem.starts[2:3], [*problem.distributions])
    near = problem.many.pool(drawing.near(best, 100, rng))
    changed = [sum(near.point(i)[name] != best[name][0] for name in problem.distributions) for i in range(len(near))]
    assert 0 < np.median(changed) <= 6
    assert len(set(near.keys)) > 40
