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
from effir_dist.models.encoder import Encoder, load_encoder, make_settings
from effir_dist.models.facts import plan_facts
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
    assert "32 dimensions, of which the first 12 are kept" in card


def test_a_model_that_is_not_cut_is_exported_as_ever(checkpoints: dict, collection: Path, tmp_path: Path) -> None:
    made = write_run(tmp_path / "run", checkpoints["bert"], collection)
    export(made, made.result(EQUAL), tmp_path / "out")
    modules = json.loads((tmp_path / "out/modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]


def test_the_dimension_of_settings_and_records() -> None:
    config = {"model_type": "bert", "hidden_size": 32, "max_position_embeddings": 64}
    assert make_settings(ModelConfig(dimension=12), config).dimension == 12
    assert make_settings(ModelConfig(dimension=32), config).dimension == 0, "all are kept"
    with pytest.raises(InputError, match="model.dimension must be 0"):
        c.replace(RunConfig(), {"model.dimension": -1})


def test_index_bytes_follow_the_dimension_and_the_cut_model_is_no_unpruned_one() -> None:
    from effir_dist.models.families.backbones import BACKBONES
    from effir_dist.models.pruning import PruningPlan
    from effir_dist.runs.pareto import is_whole

    model = BACKBONES["minilm"].config
    plan = PruningPlan().to_dict()
    whole, short = (plan_facts(model, {"plan": plan, "suggested": s}) for s in ({}, {"model.dimension": 128}))
    assert (whole["index_bytes"], short["index_bytes"], short["full_index_bytes"]) == (1536, 512, 1536)
    assert (is_whole(whole), is_whole(short)) == (True, False)
    assert plan_facts(model, {"plan": plan, "suggested": {}}, 256)["dimension"] == 256


def test_a_teachers_vectors_are_cut_to_their_students() -> None:
    teacher, student = torch.nn.functional.normalize(torch.randn(5, 8), dim=1), torch.randn(5, 3)
    np.testing.assert_allclose(truncated(teacher, student), cut(teacher.numpy(), 3), atol=1e-6)
    assert truncated(teacher, torch.randn(5, 8)) is teacher
