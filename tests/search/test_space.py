"""Search spaces: every shipped one loads, what is wrong in one is named, and suggestions become plans."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml

from effir_dist.core import config as c
from effir_dist.core.errors import InputError
from effir_dist.core.model_settings import LIMITS
from effir_dist.core.settings import DataConfig, RunConfig
from effir_dist.importance.ranking import Importance
from effir_dist.models.families.registry import BACKBONES
from effir_dist.models.operations.drop import DropPart, dropped
from effir_dist.models.pruning import PruningPlan
from effir_dist.search.strategy import space as spaces
from effir_dist.search.strategy import space_file

MINILM = BACKBONES["minilm"].config
IMPORTANCE = Importance(
    mlp=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6), attention=(0.6, 0.5, 0.4, 0.3, 0.2, 0.1), block=(6, 5, 4, 1, 2, 3)
)
NEURONS = {"activation": np.random.default_rng(0).random((6, 1536)).astype(np.float32)}


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_every_backbone_has_a_space_that_fits_it(backbone: str) -> None:
    row = BACKBONES[backbone]
    space = space_file.read_space(space_file.default_file(backbone, row.config["model_type"]))
    config = c.replace(RunConfig(), space.settings)
    blocks = row.config["num_hidden_layers"]
    drops = next(part for part in space.parts if isinstance(part, DropPart))
    assert 0 < drops.limit("mlp", blocks) < blocks
    importance = Importance(*[tuple(range(blocks))] * 3)
    starts = spaces.starting_points(space, config, blocks, importance)
    assert len(starts) >= 5  # six blocks, of which bert.yaml drops three at most
    for name, distribution in spaces.distributions(space, blocks).items():
        for point in starts:
            assert distribution._contains(distribution.to_internal_repr(point[name])), (name, point[name])


def test_every_shipped_file_is_some_backbones() -> None:
    used = {space_file.default_file(name, row.config["model_type"]) for name, row in BACKBONES.items()}
    assert used | {space_file.folder() / "effir-paper.yaml"} == set(space_file.folder().glob("*.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drop_mpl: {max: 3}", "unknown key 'drop_mpl'; did you mean 'drop_mlp'"),
        ("mlp: {max: 3}", "unknown key 'mlp'"),
        ("drop_mlp: 3", "drop_mlp must be {max: N}"),
        ("drop_mlp: {max: 2.5}", "whole number of layers or a share below 1, got 2.5"),
        ("width_ratio: {low: 0, high: 1}", "must lie above 0 and up to 1"),
        ("width_ratio: {low: 0.5, high: 1, groups: 0}", "groups must be a whole number above 0"),
        ("layers: sets", "layers must be one of subset, top_k, top_k_flips"),
        ("layers: top_k_flips", "`layers` says how those of drop_mlp"),
        ("width_ratio: {low: 0.5}", "must be {low: A, high: B}"),
        ("train.learning_rate: {low: 1, high: 0.1}", "low <= high"),
        ("train.learning_rate: {low: 0, high: 1, log: true}", "got {'low': 0"),
        ("train.zero_stage: [1, 7]", "train.zero_stage must be one of"),
        ("train.batch_size: {low: a, high: 3}", "must hold finite numbers"),
        ("data.max_documents: [1, 2]", "holds for a whole run and cannot vary"),
        ("settings: {train.stepz: 3}", "unknown setting 'train.stepz'"),
        ("settings: 3", "must map settings to values"),
        ("built_in_settings: {data.max_document: 3}", "built_in_settings: unknown setting 'data.max_document'"),
        ("built_in_settings: {data.max_held_out_queries: 3}", "data.max_held_out_queries is of other data too"),
        ("plans: [8M]", "must map names to plans"),
        ("plans: {a: {drop_mpl: 1}}", "plans.a: unknown key 'drop_mpl'; did you mean 'drop_mlp'?"),
        ("plans: {a: {width_ratio: 0}}", "plans.a.width_ratio must lie above 0"),
        ("plans: {a: {drop_mlp: -1}}", "plans.a.drop_mlp must be"),
        ("train.learning_rate: {low: 1.0e-5, high: .inf}", "train.learning_rate must hold finite numbers"),
        ("train.learning_rate: {low: .nan, high: 1}", "train.learning_rate must hold finite numbers"),
        ("width_ratio: {low: 0.5, high: 1, step: .inf}", "width_ratio must hold finite numbers"),
        ("train.learning_rate: [1.0e-4, .inf]", "train.learning_rate must be a finite number, got inf"),
        ("train.lora_rank: [.inf]", "train.lora_rank must be of type int, got inf"),
        ("drop_mlp: {max: .nan}", "drop_mlp must be {max: N}"),
        ("plans: {a: {drop_mlp: .inf}}", "plans.a.drop_mlp must be"),
        ("plans: {a: {drop_mlp: [0, first]}}", "plans.a.drop_mlp must be a count, a share below 1 or a list of blocks"),
        ("{plans: {a: {}}, drop_mlp: {max: 1}}", "settings may vary as lists only"),
    ],
)
def test_a_bad_space_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        space_file.parse_space(yaml.safe_load(text), "my.yaml")
    assert message in str(error.value)


def test_a_space_survives_a_runs_config_file() -> None:
    text = """
    drop_mlp: {max: 0.5}
    drop_attention: {max: 2}
    width_ratio: {low: 0.4, high: 1.0, step: 0.1}
    train.learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}
    train.batch_size: {low: 8, high: 64, step: 8}
    prune.ranking: [activation, magnitude]
    settings: {train.steps: 4}
    built_in_settings: {data.max_queries: 30}
    """
    space = space_file.parse_space(yaml.safe_load(text), "x")
    again = yaml.safe_load(yaml.safe_dump(space_file.to_dict(space)))
    assert space_file.parse_space(again, "x") == space
    assert list(spaces.distributions(space, 6)) == [
        *(f"drop_mlp.{i}" for i in range(6)),
        *(f"drop_attention.{i}" for i in range(6)),
        "width_ratio",
        "train.learning_rate",
        "train.batch_size",
        "prune.ranking",
    ]


@pytest.mark.parametrize("text", ["drop_mlp: {max: 3}", "plans: {mine: {drop_mlp: [0, 2], width_ratio: 0.3}}"])
def test_a_dropped_sub_layer_keeps_its_norm_where_that_is_behind_it_unless_told_otherwise(text: str) -> None:
    space = space_file.parse_space(yaml.safe_load(text), "x")
    point = {"plan": "mine"} if space.plans else {"drop_mlp.0": True, "drop_mlp.2": True}
    off = c.replace(RunConfig(), {"prune.keep_norms": False})
    keys = {}
    for name, width in (("minilm", 1536), ("smollm2", 1536)):
        model = BACKBONES[name].config
        blocks = model["num_hidden_layers"]
        importance = Importance(*[tuple(range(blocks))] * 3)
        neurons = {"activation": np.random.default_rng(0).random((blocks, width)).astype(np.float32)}
        plans = [spaces.plan_of(point, space, model, importance, neurons, each) for each in (RunConfig(), off)]
        assert {plan.dropped_mlp for plan in plans} == {(0, 2)}
        assert [plan.keep_norms for plan in plans] == [name == "minilm", False]
        keys[name] = {plan.key() for plan in plans}
    assert len(keys["minilm"]) == 2, "two models"
    assert len(keys["smollm2"]) == 1, "one model"


@pytest.mark.parametrize(
    ("data", "cut"),
    [
        ({}, True),
        ({"paths": ("pydocs", "mine")}, False),
        ({"paths": ("mine",)}, False),
        ({"train_paths": ("mine",)}, False),
        ({"train_paths": ("pydocs",), "paths": ("mine",)}, False),
        ({"held_out": ("mine",)}, True),  # held-out data has limits of its own, which such settings may not hold
    ],
)
def test_cuts_for_the_built_in_data_hold_for_no_other(data: dict[str, Any], cut: bool) -> None:
    space = space_file.read_space(space_file.folder() / "minilm.yaml")
    found = c.replace(RunConfig(), space_file.settings_on(space, DataConfig(**data)))
    limits = {name: getattr(found.data, name) for name in LIMITS}
    assert any(limits.values()) is cut
    assert (limits["max_documents"], limits["max_test_documents"]) == ((1000, 1000) if cut else (0, 0))
    assert limits["max_held_out_documents"] == 0
    assert found.train.steps == 30


def test_beyond_the_maximum_the_most_important_layers_stay() -> None:
    space = space_file.parse_space({"drop_mlp": {"max": 2}}, "x")
    suggested = {f"drop_mlp.{i}": i in (1, 3, 4, 5) for i in range(6)}
    plan = spaces.plan_of(suggested, space, MINILM, IMPORTANCE, NEURONS, RunConfig())
    assert plan.dropped_mlp == (1, 3)


def test_a_search_starts_from_the_unpruned_model_then_widths_then_the_order_of_importance() -> None:
    space = space_file.parse_space({"drop_mlp": {"max": 4}, "width_ratio": {"low": 0.4, "high": 1.0, "step": 0.1}}, "x")
    starts = spaces.starting_points(space, RunConfig(), 6, IMPORTANCE)
    plans = [spaces.plan_of(point, space, MINILM, IMPORTANCE, NEURONS, RunConfig()) for point in starts]
    assert [plan.dropped_mlp for plan in plans] == [(), (), (), (0, 1, 2, 3), (0, 1, 2)]
    assert [point["width_ratio"] for point in starts] == [1.0, 0.8, 0.5, 1.0, 0.7]


def test_fixed_plans_by_share_count_and_name_of_blocks() -> None:
    text = """
    plans:
      full: {}
      half: {drop_mlp: 0.5, width_ratio: 0.7}
      two blocks: {drop_block: 2}
      ends: {drop_mlp: [0, 5], drop_attention: 1}
    train.seed: [0, 1]
    """
    space = space_file.parse_space(yaml.safe_load(text), "x")
    assert space_file.parse_space(yaml.safe_load(yaml.safe_dump(space_file.to_dict(space))), "x") == space
    points = spaces.starting_points(space, RunConfig(), 6, IMPORTANCE)
    assert [(p["plan"], p["train.seed"]) for p in points[:3]] == [("full", 0), ("full", 1), ("half", 0)]
    plans = [spaces.plan_of(p, space, MINILM, IMPORTANCE, NEURONS, RunConfig()) for p in points[::2]]
    assert [plan.dropped_mlp for plan in plans] == [(), (0, 1, 2), (3, 4), (0, 5)]
    assert [plan.dropped_attention for plan in plans] == [(), (), (3, 4), (5,)]
    assert sum(width for _, width in plans[1].widths) == round(0.7 * 3 * 1536)


PAPER = {
    # EffiR, parameter counts of Mistral-7B without LM head, in B
    "full": 7.1, "8M": 5.7, "16M": 4.3, "20M": 3.6, "24M": 2.9, "16M -30 %": 3.4,
    "8A": 6.8, "16A": 6.4, "8B": 5.4, "16B": 3.6, "16M8A": 4.0,
}  # fmt: skip


def test_the_papers_recipe_has_the_papers_sizes() -> None:
    from effir_dist.search.dry_run import rows

    config = BACKBONES["mistral-7b"].config
    space = space_file.read_space(space_file.folder() / "effir-paper.yaml")
    found = {row.plan: round(row.parameters / 1e9, 1) for row in rows(space, RunConfig(), config)}
    assert found == PAPER


def test_an_mlp_left_without_a_neuron_is_named() -> None:
    space = space_file.parse_space({"drop_mlp": {"max": 2}, "width_ratio": {"low": 0.1, "high": 1.0}}, "x")
    scores = np.repeat(np.arange(6.0)[:, None], 1536, axis=1)
    suggested = {"drop_mlp.3": True, "width_ratio": 0.5}
    plan = spaces.plan_of(suggested, space, MINILM, IMPORTANCE, {"activation": scores}, RunConfig())
    assert plan.dropped_mlp == (0, 1, 3)
    assert spaces.emptied(suggested, space, MINILM, IMPORTANCE, plan) == [0, 1]
    assert spaces.emptied({}, space, MINILM, IMPORTANCE, PruningPlan()) == []


def test_the_dimension_is_a_part_of_the_plan_whether_the_run_or_the_space_names_it() -> None:
    varied = space_file.parse_space({"model.dimension": [384, 128]}, "x")
    for asked, space, point in ((128, varied, {"model.dimension": 128}), (128, spaces.Space(), {}), (384, varied, {})):
        config = c.replace(RunConfig(), {"model.dimension": asked})
        plan = spaces.plan_of(point, space, MINILM, IMPORTANCE, NEURONS, config)
        assert plan.dimension == (128 if asked == 128 else 0), "all of the model's are no truncation"


def test_layers_are_a_subset_the_top_k_or_the_top_k_with_flips() -> None:
    both = {"drop_mlp": 2, "drop_mlp.1": True, "drop_mlp.4": True}
    assert dropped({"drop_mlp.1": True, "drop_mlp.4": True}, "mlp", 4, IMPORTANCE) == [1, 4]
    assert dropped({"drop_mlp": 2}, "mlp", 4, IMPORTANCE) == [0, 1]
    assert dropped(both, "mlp", 4, IMPORTANCE) == [0, 4]
    assert dropped({**both, "drop_mlp": 4}, "mlp", 2, IMPORTANCE) == [0, 2]


@pytest.mark.parametrize(
    ("layers", "names"),
    [("subset", 6), ("top_k", 1), ("top_k_flips", 7)],
)
def test_a_space_with_layers_and_groups_reads_back_and_starts_by_importance(layers: str, names: int) -> None:
    text = f"{{drop_mlp: {{max: 4}}, layers: {layers}, width_ratio: {{low: 0.25, high: 1.0, step: 0.25, groups: 3}}}}"
    space = space_file.parse_space(yaml.safe_load(text), "here")
    assert space_file.parse_space(space_file.to_dict(space), "again") == space
    found = spaces.distributions(space, 6)
    assert [name for name in found if name.startswith("width")] == [f"width_ratio.{i}" for i in range(3)]
    assert len([name for name in found if name.startswith("drop")]) == names
    plans = [
        spaces.plan_of(point, space, MINILM, IMPORTANCE, NEURONS, RunConfig())
        for point in spaces.starting_points(space, RunConfig(), 6, IMPORTANCE)
    ]
    assert [plan.dropped_mlp for plan in plans] == [tuple(range(k)) for k in (0, 0, 0, 4, 3)]
    assert [bool(plan.widths) for plan in plans] == [False, True, True, False, True]
    one = spaces.plan_of({"width_ratio.1": 0.5}, space, MINILM, IMPORTANCE, NEURONS, RunConfig())
    assert {block for block, _ in one.widths} == {2, 3}
