"""A pruning operation is one module: one that is made up here works in plans, models, exports and searches.

It trims the vocabulary: the last rows of the embedding table go, which no text of the tests needs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from optuna.distributions import BaseDistribution, IntDistribution
from torch import nn

from effir_dist.core import config as c
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig
from effir_dist.export.model_folder import write_folder
from effir_dist.importance.ranking import Importance
from effir_dist.models import operations
from effir_dist.models.encoder import load_encoder, prune_encoder
from effir_dist.models.facts import plan_facts, plan_values
from effir_dist.models.families.base import ModelDict
from effir_dist.models.families.registry import BACKBONES
from effir_dist.models.operations.base import Operation, Sizes
from effir_dist.models.operations.drop import Drop
from effir_dist.models.operations.narrow import Narrow
from effir_dist.models.operations.space_part import FixedValue, Known, SpacePart
from effir_dist.models.operations.truncate import Truncate
from effir_dist.models.operations.values import Range, Values, parse_range
from effir_dist.models.pruning import PruningPlan, count_parameters, make_plan, moving_share
from effir_dist.runs.pareto import plan_text
from effir_dist.search import checks, dry_run
from effir_dist.search.strategy import space as spaces
from effir_dist.search.strategy import space_file
from tests.driven import drive, make_run
from tests.exports import texts
from tests.tiny import FAMILY_NAMES

MINILM = BACKBONES["minilm"].config
IMPORTANCE = Importance(*[(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)] * 3)
NEURONS = {"activation": np.random.default_rng(0).random((6, 1536)).astype(np.float32)}


@dataclass(frozen=True)
class TrimPart(SpacePart):
    """`vocabulary: {low: 20000, high: 30522}`, in tokens."""

    tokens: Range | None = None

    keys: ClassVar[tuple[str, ...]] = ("vocabulary",)
    fixed_keys: ClassVar[tuple[str, ...]] = ("vocabulary",)

    @classmethod
    def parse(cls, tree: Mapping[str, Any], source: str) -> TrimPart:
        return cls(parse_range(f"{source}: vocabulary", tree["vocabulary"])) if tree else cls()

    def to_dict(self) -> dict[str, Any]:
        return {"vocabulary": self.tokens.to_dict()} if self.tokens else {}

    def distributions(self, blocks: int) -> dict[str, BaseDistribution]:
        return {"vocabulary": IntDistribution(int(self.tokens.low), int(self.tokens.high))} if self.tokens else {}

    def operations(self, suggested: Mapping[str, Any], sizes: Sizes, known: Known) -> Sequence[Operation]:
        tokens = suggested.get("vocabulary", sizes.config["vocab_size"])
        return [Trim(tokens)] if tokens < sizes.config["vocab_size"] else []

    def fixed(self, values: Mapping[str, FixedValue], sizes: Sizes, known: Known) -> Sequence[Operation]:
        return self.operations(values, sizes, known)

    def unpruned(self, distributions: Mapping[str, Any]) -> dict[str, Any]:
        return {"vocabulary": distributions["vocabulary"].high} if self.tokens else {}

    def smallest(self, blocks: int, parameters: Mapping[str, Values]) -> dict[str, Any]:
        return {"vocabulary": int(self.tokens.low)} if self.tokens else {}

    def describe(self, blocks: int) -> list[str]:
        return [f"vocabulary: {tree}" for tree in self.to_dict().values()]


@dataclass(frozen=True)
class Trim(Operation):
    """Keep the first rows of the embedding table."""

    tokens: int

    kind: ClassVar[str] = "trim"
    order: ClassVar[int] = 5
    space: ClassVar[type[SpacePart]] = TrimPart

    def check(self, sizes: Sizes) -> None:
        if not 0 < self.tokens <= sizes.config["vocab_size"]:
            raise InputError(f"the plan keeps {self.tokens} tokens; expected up to {sizes.config['vocab_size']}")

    def left(self, sizes: Sizes) -> Sizes:
        return dataclasses.replace(sizes, config={**sizes.config, "vocab_size": self.tokens})

    def apply(self, model: nn.Module, config: ModelDict, neurons: np.ndarray | None) -> None:
        table: Any = model.get_input_embeddings()  # type: ignore[operator]
        table.weight = nn.Parameter(table.weight.detach()[: self.tokens].clone())
        table.num_embeddings = self.tokens

    def describe(self, sizes: Sizes) -> str:
        return f"{self.tokens} tokens"

    def to_json(self) -> dict[str, Any]:
        return {"tokens": self.tokens}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Trim:
        return cls(int(tree["tokens"]))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in for a module in effir_dist/models/operations."""
    monkeypatch.setitem(operations.OPERATIONS, Trim.kind, Trim)


def test_every_module_of_the_folder_is_known_and_ordered() -> None:
    assert operations.in_order() == [Trim, Drop, Narrow, Truncate]


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_it_prunes_counts_saves_exports_and_loads(name: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModel

    encoder, other = (load_encoder(str(checkpoints[name])) for _ in range(2))
    scores = np.random.default_rng(0).random((4, 48))
    usual = make_plan(encoder.model_config, [2], [1], 0.6, scores, "magnitude")
    plan = usual.with_operations([Truncate(12), Trim(280)])
    prune_encoder(encoder, plan, scores)
    prune_encoder(other, usual.with_operations([Truncate(12)]), scores)
    assert sum(p.numel() for p in encoder.parameters()) == count_parameters(encoder.model_config, plan)
    assert count_parameters(encoder.model_config, plan) == count_parameters(encoder.model_config, usual) - 20 * 32
    expected = other.encode(texts(20))
    np.testing.assert_array_equal(encoder.encode(texts(20)), expected)

    encoder.save(tmp_path / "saved")
    (tmp_path / "exported").mkdir()
    write_folder(encoder, tmp_path / "exported", "float32", {})
    for folder in ("saved", "exported"):
        loaded = load_encoder(str(tmp_path / folder))
        assert loaded.plan == plan
        np.testing.assert_array_equal(loaded.encode(texts(20)), expected)
    assert json.loads((tmp_path / "exported/config.json").read_text())["vocab_size"] == 280
    if name == "bert":
        import effir_dist.auto  # noqa: F401

        plain = AutoModel.from_pretrained(tmp_path / "exported")
        assert plain.get_input_embeddings().weight.shape == (280, 32)


def test_it_stands_in_plans_as_any_other() -> None:
    plan = PruningPlan(dropped_mlp=(0, 3), operations=[Trim(20000), Truncate(128)])
    assert PruningPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert plan == PruningPlan((3, 0), operations=[Truncate(128), Trim(20000)])
    assert len({plan, PruningPlan((0, 3), operations=[Truncate(128)])}) == 2
    assert plan.describe(MINILM) == "20000 tokens, -2 MLP, 128 dimensions"
    facts, values = plan_facts(MINILM, plan), plan_values(MINILM, plan)
    assert (facts.dropped_mlp, facts.dimension, facts.other_operations) == ((0, 3), 128, ("20000 tokens",))
    assert values["parameters"] == count_parameters(MINILM, PruningPlan((0, 3))) - 10522 * 384
    assert moving_share(MINILM, plan) == moving_share(MINILM, PruningPlan((0, 3))), "no token is multiplied with rows"
    with pytest.raises(InputError, match="keeps 40000 tokens; expected up to 30522"):
        PruningPlan(operations=[Trim(40000)]).check(MINILM)


def test_a_space_varies_it_and_a_search_tries_it(tmp_path: Path) -> None:
    text = "{drop_mlp: {max: 2}, vocabulary: {low: 20000, high: 30522}, train.seed: [0, 1]}"
    space = space_file.parse_space(yaml.safe_load(text), "x")
    assert space_file.parse_space(yaml.safe_load(yaml.safe_dump(space_file.to_dict(space))), "x") == space
    names = ["vocabulary", *(f"drop_mlp.{i}" for i in range(6)), "train.seed"]
    assert list(spaces.distributions(space, 6)) == names
    config = c.replace(RunConfig(), {"search.trials": 8, "search.constraints": ["parameters <= 0.8"]})
    checks.check(space, config, MINILM)
    assert "  vocabulary: {'low': 20000.0, 'high': 30522.0}" in dry_run.text(space, config, MINILM, "m").splitlines()

    run = make_run(tmp_path / "run", {"search.trials": 12}, space_file.to_dict(space))
    drive(run)
    plans = [record.spec.plan for record in run.results()]
    assert plans[0] == PruningPlan(), "the search starts from the unpruned model"
    said = [[str(o.tokens) + " tokens" for o in plan.operations if isinstance(o, Trim)] for plan in plans]
    assert [[*record.facts.other_operations] for record in run.results()] == said, "its words are in the records"
    trimmed = [o.tokens for plan in plans for o in plan.operations if isinstance(o, Trim)]
    assert len(trimmed) > 3
    assert all(20000 <= tokens < 30522 for tokens in trimmed)


def test_fixed_plans_name_it() -> None:
    space = space_file.parse_space({"plans": {"full": {}, "few": {"vocabulary": 25000, "drop_mlp": 0.5}}}, "x")
    points = spaces.starting_points(space, RunConfig(), 6, IMPORTANCE)
    plans = [spaces.plan_of(point, space, MINILM, IMPORTANCE, NEURONS, RunConfig()) for point in points]
    assert plans == [PruningPlan(), PruningPlan((0, 1, 2), operations=[Trim(25000)], keep_norms=True)]
    with pytest.raises(InputError, match=r"plans.few.vocabulary must be a number, got 'all'"):
        space_file.parse_space({"plans": {"few": {"vocabulary": "all"}}}, "x")
    with pytest.raises(InputError, match=r"unknown key 'vocabluary'; did you mean 'vocabulary'"):
        space_file.parse_space({"vocabluary": {"low": 1, "high": 2}}, "x")


def test_the_usual_operations_describe_themselves_as_plots_do() -> None:
    wide = tuple((block, 768) for block in range(2, 6))
    plans = [PruningPlan(), PruningPlan((0, 1)), PruningPlan((1,), (0, 3)), PruningPlan(widths=wide)]
    for plan in plans:
        facts = plan_facts(MINILM, plan)
        gone = len(facts.dropped_mlp), len(facts.dropped_attention)
        assert plan.describe(MINILM) == plan_text(gone[0], facts.width_ratio, gone[1])
