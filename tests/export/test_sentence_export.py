"""An export gives back all that its base's sentence-transformers folder declared, with the weights as they are now."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effir_dist.export.model_card import _behind
from effir_dist.export.model_folder import write_folder
from effir_dist.models import pretrained
from effir_dist.models.encoder import Encoder, build_encoder, load_encoder, make_settings, prune_encoder
from effir_dist.models.operations.truncate import Truncate
from effir_dist.models.pruning import PruningPlan
from effir_dist.models.sentence_folder import read_folder
from tests import needs
from tests.exports import MIXED, UNPRUNED, cosines, plans, texts
from tests.sentence_folders import KINDS, made, rewritten

needs.module("sentence_transformers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind -> its folder."""
    root = tmp_path_factory.mktemp("folders")
    return {kind: made(root / str(number), kind) for number, kind in enumerate(KINDS)}


def trained(folder: Path, plan: str = MIXED) -> Encoder:
    """A model of a trial of the folder: pruned, and every weight moved, those of Dense layers too."""
    encoder, neurons = load_encoder(str(folder)), np.random.default_rng(0).random((4, 48))
    prune_encoder(encoder, plans(dict(encoder.model_config), neurons)[plan], neurons)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return encoder


def exported(encoder: Encoder, folder: Path) -> Any:
    """The SentenceTransformer of the trial's export to `folder`, by way of the trial's own folder."""
    from sentence_transformers import SentenceTransformer

    import effir_dist.auto  # noqa: F401

    encoder.save(folder.with_name("trial"))
    folder.mkdir()
    write_folder(load_encoder(str(folder.with_name("trial")), "stored"), folder, "float32", {})
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def check_equal(encoder: Encoder, model: Any) -> None:
    """Its queries and documents are the encoder's; where nothing normalises them in length too."""
    wanted = [*texts(24), "Some CAPITALS", "word " * 60]
    for kind, encode in (("query", model.encode_query), ("document", model.encode_document)):
        ours, found = encoder.encode(wanted, kind), encode(wanted)
        assert ours.shape == found.shape
        np.testing.assert_allclose(cosines(ours, found), 1, atol=1e-6)
        if not encoder.settings.unit_length:
            np.testing.assert_allclose(found, ours, atol=5e-5)


BOTH = [(kind, MIXED) for kind in KINDS] + [(kind, UNPRUNED) for kind in ("two dense", "last token", "max")]


@pytest.mark.parametrize(("kind", "plan"), BOTH)
def test_all_that_the_folder_declared_is_given_back(
    folders: dict[str, Path], kind: str, plan: str, tmp_path: Path
) -> None:
    encoder = trained(folders[kind], plan)
    model = exported(encoder, tmp_path / "out")
    check_equal(encoder, model)
    declared, given = encoder.declared, read_folder(tmp_path / "out")
    assert declared is not None
    assert given is not None
    assert replace(given, dense_folders=()) == replace(declared, dense_folders=())
    assert [type(module).__name__ for module in model] == [
        module["type"].rpartition(".")[2] for module in json.loads((folders[kind] / "modules.json").read_text())
    ]
    again = load_encoder(str(tmp_path / "out"))
    assert (again.settings, again.declared, again.plan) == (encoder.settings, declared, encoder.plan)
    np.testing.assert_allclose(again.encode(texts(9), "query"), encoder.encode(texts(9), "query"), atol=1e-5)


def test_it_is_a_folder_like_any_other_without_our_own_file(folders: dict[str, Path], tmp_path: Path) -> None:
    """A plain export is a sentence-transformers folder, that a search may start from."""
    encoder = trained(folders["dense, dot"], UNPRUNED)
    exported(encoder, tmp_path / "out")
    (tmp_path / "out" / "plan.json").unlink()
    again = load_encoder(str(tmp_path / "out"))
    assert again.settings == encoder.settings
    np.testing.assert_allclose(again.encode(texts(9)), encoder.encode(texts(9)), atol=1e-5)


def test_texts_are_still_turned_to_lower_case(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["mean"], tmp_path / "lower"))
    rewritten(folder, "sentence_bert_config.json", do_lower_case=True, query_length=9)
    encoder = trained(folder)
    assert (encoder.encode(["ABC"]) == encoder.encode(["abc"])).all()
    model = exported(encoder, tmp_path / "out")
    check_equal(encoder, model)
    assert json.loads((tmp_path / "out/sentence_bert_config.json").read_text()) == {
        "max_seq_length": 48, "do_lower_case": True, "query_length": 9,
    }  # fmt: skip


def test_settings_that_went_over_the_folders_are_exported(folders: dict[str, Path], tmp_path: Path) -> None:
    encoder = trained(folders["passage"])
    encoder.settings = replace(encoder.settings, query_prompt="ask: ", pooling="cls", normalize=False, similarity="dot")
    model = exported(encoder, tmp_path / "out")
    check_equal(encoder, model)
    assert model.prompts == {"query": "ask: ", "document": "", "passage": "passage: "}
    assert model.similarity_fn_name == "dot"


@pytest.mark.parametrize("kind", ["truncated dense", "dense, dot"])
def test_a_plan_cuts_what_the_dense_layers_give(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    encoder = trained(folders[kind], UNPRUNED)
    prune_encoder(encoder, PruningPlan(operations=[Truncate(5)]), None)
    model = exported(encoder, tmp_path / "out")
    check_equal(encoder, model)
    assert model.encode(["a"]).shape == (1, 5)
    np.testing.assert_allclose(
        load_encoder(str(tmp_path / "out")).encode(texts(5)), encoder.encode(texts(5)), atol=1e-5
    )


def test_the_card_says_how_embeddings_are_made(folders: dict[str, Path]) -> None:
    said = {kind: _behind(load_encoder(str(folders[kind]))) for kind in KINDS}
    assert said["two dense"] == ["mean pooling", "Dense layers to 64 and 24 dimensions", "l2 normalisation"]
    assert said["max without the prompt's"][0] == "max pooling without the prompt"
    assert said["not normalised"] == ["mean pooling"]
    assert said["truncated"] == ["mean pooling", "the first 12 numbers", "l2 normalisation"]


def test_a_bare_checkpoint_is_exported_as_ever(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    source = pretrained.find(str(checkpoints["llama"]))
    base = pretrained.load_base(source, "float32")
    encoder = build_encoder(base, make_settings(pretrained.ModelConfig(), source), "float32")
    model = exported(encoder, tmp_path / "out")
    check_equal(encoder, model)
    assert "declared" not in json.loads((tmp_path / "out/plan.json").read_text())
    assert model.tokenizer("x")["input_ids"][-1] == encoder.tokenizer.eos_token_id


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["weighted_mean", "max", "cls"])
def test_onnx_has_poolings_dense_layers_and_what_is_not_normalised(
    folders: dict[str, Path], pooling: str, tmp_path: Path
) -> None:
    from effir_dist.export.onnx_model import OnnxEncoder, write_int8, write_onnx

    for name in ("onnx", "onnxscript", "onnxruntime"):
        needs.module(name)
    encoder = trained(folders["dense, dot"])
    changed = {"pooling": pooling, "include_prompt": False, "query_prompt": "find: "}
    encoder.settings = replace(encoder.settings, **changed)
    model = write_onnx(encoder, tmp_path / "onnx")
    for kind in ("query", "document"):
        expected = encoder.encode(texts(30), kind)
        for batch_tokens in (1, 400):
            found = OnnxEncoder(model, encoder).encode(texts(30), kind, batch_tokens=batch_tokens)
            np.testing.assert_allclose(found, expected, atol=5e-5)
    int8 = OnnxEncoder(write_int8(model), encoder).encode(texts(30))
    assert int8.shape == (30, 16)
    assert cosines(int8, expected).min() > 0.9
    lengths, exact = np.linalg.norm(int8, axis=1), np.linalg.norm(expected, axis=1)
    assert abs(exact - 1).max() > 0.1, "these are not normalised"
    np.testing.assert_allclose(lengths, exact, rtol=0.1)
