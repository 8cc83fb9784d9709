"""Truncated embeddings: cut, then normalised, and so in training, scoring, the saved model and every export."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from effir_dist.core import config as c
from effir_dist.core.errors import InputError
from effir_dist.core.settings import ModelConfig, RunConfig
from effir_dist.export.command import export
from effir_dist.models.encoder import Encoder, load_encoder, make_settings, prune_encoder
from effir_dist.models.facts import plan_facts, plan_values
from effir_dist.models.operations.truncate import Truncate
from effir_dist.models.pretrained import Source
from effir_dist.models.pruning import PruningPlan
from effir_dist.runs.records import TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.training.losses import truncated
from tests import needs
from tests.exports import EQUAL, MIXED, cosines, texts, write_run


def cut(vectors: np.ndarray, dimension: int) -> np.ndarray:
    kept = vectors[:, :dimension]
    return kept / np.linalg.norm(kept, axis=1, keepdims=True)


def with_dimension(encoder: Encoder, dimension: int) -> Encoder:
    encoder.settings = dataclasses.replace(encoder.settings, dimension=dimension)
    return encoder


def without_norms(plan: PruningPlan) -> PruningPlan:
    """The same drops, as versions without `prune.keep_norms` made them."""
    operations = [{k: v for k, v in each.items() if k != "keep_norms"} for each in plan.to_dict()["operations"]]
    return PruningPlan.from_dict({"operations": operations})


@pytest.fixture(scope="module", params=["bert", "qwen3"])
def run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, checkpoints: dict, collection: Path
) -> Run:
    """A finished run, whose models keep 12 of 32 dimensions."""
    made = write_run(tmp_path_factory.mktemp("cut") / "run", checkpoints[request.param], collection)
    for trial in (MIXED, EQUAL):
        folder = made.trial_folder(trial)
        tree = json.loads((folder / "effir.json").read_text())
        tree["encoder"]["dimension"] = 12
        (folder / "effir.json").write_text(json.dumps(tree))
    return made


def test_vectors_are_cut_and_then_normalised(run: Run) -> None:
    encoder = load_encoder(str(run.trial_folder(MIXED)))
    found = encoder.encode(texts(40))
    whole = with_dimension(encoder, 0).encode(texts(40))
    assert (found.shape, whole.shape) == ((40, 12), (40, 32))
    np.testing.assert_allclose(found, cut(whole, 12), atol=1e-5)
    assert with_dimension(encoder, 12).encode([]).shape == (0, 12)


@pytest.mark.parametrize("trial", [MIXED, EQUAL])
def test_an_export_gives_the_same_vectors_in_sentence_transformers(run: Run, trial: str, tmp_path: Path) -> None:
    sentence_transformers = needs.module("sentence_transformers")
    import effir_dist.auto  # noqa: F401

    export(run, run.result(trial), tmp_path / "out")
    expected = load_encoder(str(run.trial_folder(trial))).encode(texts(30))
    model = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu", local_files_only=True)
    found = model.encode_document(texts(30))
    assert found.shape == (30, 12)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert cosines(expected, found).min() > 0.9999
    ours = load_encoder(str(tmp_path / "out")).encode(texts(30))
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    card = (tmp_path / "out/README.md").read_text()
    assert "the first 12 numbers, l2 normalisation. They have 12 dimensions" in card


def test_a_model_that_is_not_cut_is_exported_as_ever(checkpoints: dict, collection: Path, tmp_path: Path) -> None:
    made = write_run(tmp_path / "run", checkpoints["bert"], collection)
    export(made, made.result(EQUAL), tmp_path / "out")
    modules = json.loads((tmp_path / "out/modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]


def test_the_dimension_of_settings_and_records() -> None:
    source = Source("tiny", "", {"model_type": "bert", "hidden_size": 32, "max_position_embeddings": 64})
    assert make_settings(ModelConfig(dimension=12), source).dimension == 12
    assert make_settings(ModelConfig(dimension=32), source).dimension == 0, "all are kept"
    with pytest.raises(InputError, match="model.dimension must be 0"):
        c.replace(RunConfig(), {"model.dimension": -1})


def test_index_bytes_follow_the_dimension_and_the_cut_model_is_no_unpruned_one() -> None:
    from effir_dist.models.families.registry import BACKBONES
    from effir_dist.runs.objectives import is_unpruned

    model = BACKBONES["minilm"].config
    full, short = (plan_values(model, plan) for plan in (PruningPlan(), PruningPlan(operations=[Truncate(128)])))
    assert (full["index_bytes"], short["index_bytes"], short["full_index_bytes"]) == (1536, 512, 1536)
    assert (is_unpruned(full), is_unpruned(short)) == (True, False)
    assert plan_facts(model, PruningPlan(operations=[Truncate(128)])).dimension == 128


def test_the_dimension_of_an_older_plan_is_that_of_its_setting() -> None:
    from effir_dist.models.families.registry import BACKBONES

    model, plan = BACKBONES["minilm"].config, PruningPlan()
    varied, fixed = TrialSpec(0, {"model.dimension": 128}, {}, plan), TrialSpec(0, {}, {}, plan)
    assert varied.values(model) == plan_values(model, PruningPlan(operations=[Truncate(128)]))
    assert (varied.facts(model, 256).dimension, fixed.facts(model, 256).dimension) == (128, 256)


def test_a_truncated_plan_cuts_saves_and_loads(checkpoints: dict, tmp_path: Path) -> None:
    encoder = load_encoder(str(checkpoints["bert"]))
    whole = encoder.encode(texts(20))
    plan = PruningPlan(operations=[Truncate(12)])
    prune_encoder(encoder, plan, None).save(tmp_path)
    loaded = load_encoder(str(tmp_path))
    assert (loaded.plan, loaded.settings.dimension) == (plan, 12)
    np.testing.assert_allclose(loaded.encode(texts(20)), cut(whole, 12), atol=1e-5)
    assert prune_encoder(encoder, plan, None).settings == loaded.settings, "again is no change"


def test_a_model_of_format_1_has_its_dimension_in_its_plan(run: Run, tmp_path: Path) -> None:
    """Format 1 kept it beside the plan, and dropped the norms behind what it dropped."""
    trial = tmp_path / "trial"
    plan = without_norms(load_encoder(str(run.trial_folder(MIXED))).plan)
    encoder = prune_encoder(load_encoder(run.config["model"]["path"]), plan, np.random.default_rng(0).random((4, 48)))
    with_dimension(encoder, 12).save(trial)
    tree = json.loads((trial / "effir.json").read_text())
    old = {"dropped_mlp": [*plan.dropped_mlp], "dropped_attention": [*plan.dropped_attention], "ranking": "magnitude"}
    old["widths"] = {str(block): width for block, width in plan.widths}
    (trial / "effir.json").write_text(json.dumps({**tree, "format": 1, "plan": old}))
    assert load_encoder(str(trial)).plan == plan
    assert plan.dimension == 12


def test_a_teachers_vectors_are_cut_to_their_students() -> None:
    teacher, student = torch.nn.functional.normalize(torch.randn(5, 8), dim=1), torch.randn(5, 3)
    np.testing.assert_allclose(truncated(teacher, student), cut(teacher.numpy(), 3), atol=1e-6)
    assert truncated(teacher, torch.randn(5, 8)) is teacher
