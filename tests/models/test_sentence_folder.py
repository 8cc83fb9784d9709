"""Folders of sentence-transformers are taken as they are: embeddings equal its own, and what cannot be kept is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effir_dist.core.errors import InputError
from effir_dist.core.settings import ModelConfig
from effir_dist.models import pretrained
from effir_dist.models.encoder import Encoder, load_encoder, make_settings, pad
from effir_dist.models.encoding import encode_packed
from effir_dist.models.kernels import packed
from effir_dist.models.operations.base import Sizes
from effir_dist.models.sentence_folder import SentenceFolder, read_folder
from tests import needs
from tests.exports import cosines, texts
from tests.sentence_folders import KINDS, made, rewritten

needs.module("sentence_transformers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind -> its folder."""
    root = tmp_path_factory.mktemp("folders")
    return {kind: made(root / str(number), kind) for number, kind in enumerate(KINDS)}


def theirs(folder: Path) -> Any:
    """The SentenceTransformer in a folder, in float32."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"})


def check_equal(encoder: Encoder, model: Any) -> None:
    """Queries and documents have the same direction, and where nothing normalises them the same length."""
    # Of an empty text a decoder's tokenizer leaves nothing to embed.
    wanted = [*texts(20), "a", "word " * 60, *([""] if encoder.tokenizer("")["input_ids"] else [])]
    for kind, encode in (("query", model.encode_query), ("document", model.encode_document)):
        ours, expected = encoder.encode(wanted, kind), encode(wanted)
        assert ours.shape == expected.shape
        np.testing.assert_allclose(cosines(ours, expected), 1, atol=1e-6)
        if not encoder.settings.normalize and encoder.settings.similarity == "dot":
            np.testing.assert_allclose(ours, expected, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_those_of_sentence_transformers(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    model, encoder = theirs(folders[kind]), load_encoder(str(folders[kind]))
    check_equal(encoder, model)
    assert encoder.settings.similarity == model.similarity_fn_name
    encoder.save(tmp_path / "trial")
    saved = load_encoder(str(tmp_path / "trial"))
    np.testing.assert_allclose(saved.encode(texts(9), "query"), encoder.encode(texts(9), "query"), atol=1e-6)
    assert saved.settings == encoder.settings
    assert saved.plan == encoder.plan


@pytest.mark.parametrize("pooling", ["mean", "last", "cls", "max", "weighted_mean"])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_packed_texts_are_pooled_as_padded_ones(folders: dict[str, Path], pooling: str, include_prompt: bool) -> None:
    encoder = load_encoder(str(folders["last token"]))
    encoder.settings = replace(encoder.settings, pooling=pooling, include_prompt=include_prompt)
    tokens = encoder.tokenize([*texts(9), ""], "query")
    assert (tokens.prompt > 0) == (not include_prompt)
    indices = np.arange(len(tokens))
    with torch.inference_mode():
        padded = encoder(*pad(tokens, indices, encoder.pad_id, encoder.device))
        with packed.attention(encoder.backbone):
            found = encode_packed(encoder, packed.pack(tokens, indices, encoder.device))
    np.testing.assert_allclose(found, padded, atol=2e-6)


def test_settings_go_over_what_the_folder_says(folders: dict[str, Path]) -> None:
    source = pretrained.find(str(folders["truncated"]))
    own = make_settings(ModelConfig(), source)
    assert (own.max_query_length, own.max_document_length, own.dimension, own.pooling) == (48, 48, 12, "mean")
    given = ModelConfig(pooling="cls", query_prompt="q: ", max_query_length=20, dimension=6)
    changed = make_settings(given, source)
    assert changed == replace(own, pooling="cls", query_prompt="q: ", max_query_length=20, dimension=6)


def test_parameters_and_dimension_count_the_dense_layers(folders: dict[str, Path]) -> None:
    encoder = load_encoder(str(folders["two dense"]))
    assert Sizes.of(encoder.model_config).parameters() == sum(p.numel() for p in encoder.parameters())
    assert encoder.dimension == Sizes.of(encoder.model_config).dimension == 24
    assert len(encoder.head) == 2
    assert Sizes.of(pretrained.find(str(folders["truncated dense"])).config).dimension == 8


def old_forms(folder: Path) -> None:
    """What versions 2 to 5 wrote: names of modules, flags of poolings, lengths beside the Transformer."""
    modules = json.loads((folder / "modules.json").read_text())
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rpartition('.')[2]}"
    (folder / "modules.json").write_text(json.dumps(modules))
    flags = {f"pooling_mode_{mode}": mode == "cls_token" for mode in ("cls_token", "mean_tokens", "max_tokens")}
    shutil.rmtree(folder / "1_Pooling")
    (folder / "1_Pooling").mkdir()
    rewritten(folder, "1_Pooling/config.json", word_embedding_dimension=32, **flags)
    (folder / "sentence_bert_config.json").unlink()
    rewritten(folder, "sentence_bert_config.json", max_seq_length=20, do_lower_case=True)
    rewritten(folder, "tokenizer_config.json", model_max_length=512)
    (folder / "config_sentence_transformers.json").unlink()
    if (folder / "2_Normalize/config.json").is_file():
        (folder / "2_Normalize/config.json").unlink()


def test_the_forms_of_earlier_versions_are_read(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["mean"], tmp_path / "old"))
    old_forms(folder)
    declared = read_folder(folder)
    lengths = {"max_query_length": 20, "max_document_length": 20}
    assert declared == SentenceFolder("cls", **lengths, normalize=True, do_lower_case=True)
    model = theirs(folder)
    wanted = ["Some Words IN capitals", "and not " * 20]
    encoder = load_encoder(str(folder))
    np.testing.assert_allclose(cosines(encoder.encode(wanted), model.encode_document(wanted)), 1, atol=1e-6)
    encoder.save(tmp_path / "trial")
    np.testing.assert_array_equal(load_encoder(str(tmp_path / "trial")).encode(wanted), encoder.encode(wanted))


def test_the_transformer_may_have_a_folder_of_its_own(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["two dense"], tmp_path / "apart"))
    (folder / "0_Transformer").mkdir()
    for file in [f for f in folder.iterdir() if f.is_file() and f.name not in ("modules.json", "README.md")]:
        file.rename(folder / "0_Transformer" / file.name)
    with_module(folder, 0, path="0_Transformer")
    check_equal(load_encoder(str(folder)), theirs(folder))


def test_a_chat_template_of_an_earlier_versions_folder_is_not_applied(folders: dict[str, Path], tmp_path: Path) -> None:
    """As Qwen3-Embedding was published: its tokenizer has a chat template, its folder no `modality_config`."""
    folder = shutil.copytree(folders["left-padded decoder's last"], tmp_path / "st")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48, "do_lower_case": False}))
    template = "{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
    rewritten(folder, "tokenizer_config.json", chat_template=template)
    check_equal(load_encoder(str(folder)), theirs(folder))


def test_lengths_of_queries_and_documents_may_differ(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["mean"], tmp_path / "lengths"))
    rewritten(folder, "sentence_bert_config.json", query_length=9)
    encoder = load_encoder(str(folder))
    assert (encoder.settings.max_query_length, encoder.settings.max_document_length) == (9, 48)
    check_equal(encoder, theirs(folder))


def with_module(folder: Path, index: int, **values: Any) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[index : index + 1] = [modules[index] | values] if values else []
    (folder / "modules.json").write_text(json.dumps(modules))


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a chat template": (
        lambda f: rewritten(f, "sentence_bert_config.json", modality_config={"text": {}, "message": {}}),
        "sets modality_config.message, which cannot be kept",
    ),
    "another module": (
        lambda f: with_module(f, 2, type="sentence_transformers.models.LayerNorm"),
        "module 'sentence_transformers.models.LayerNorm', which cannot be kept",
    ),
    "own code": (lambda f: with_module(f, 0, type="custom.Transformer"), "module 'custom.Transformer'"),
    "a place outside": (lambda f: with_module(f, 1, path="../1_Pooling"), r"names the folder '\.\./1_Pooling'"),
    "no pooling": (lambda f: with_module(f, 1), "has Transformer, Dense, Dense, Normalize; expected"),
    "two poolings": (
        lambda f: rewritten(f, "1_Pooling/config.json", pooling_mode=["cls", "mean"]),
        "the module Pooling in .* pools by cls and mean",
    ),
    "another pooling": (
        lambda f: rewritten(f, "1_Pooling/config.json", pooling_mode="mean_sqrt_len_tokens"),
        "pools by mean_sqrt_len_tokens",
    ),
    "residual": (
        lambda f: rewritten(f, "2_Dense/config.json", use_residual=True),
        "the module Dense in .* has use_residual",
    ),
    "activation": (
        lambda f: rewritten(f, "2_Dense/config.json", activation_function="my.Own"),
        "the module Dense in .* has the activation 'my.Own'",
    ),
    "no activation": (
        lambda f: rewritten(f, "2_Dense/config.json", activation_function="torch.nn.functional.gelu"),
        "activation 'torch.nn.functional.gelu'; expected a module of torch",
    ),
    "dense of tokens": (
        lambda f: rewritten(f, "2_Dense/config.json", module_input_name="token_embeddings"),
        "the module Dense in .* has module_input_name 'token_embeddings'",
    ),
    "no weights": (lambda f: (f / "3_Dense/model.safetensors").unlink(), "3_Dense holds no model.safetensors"),
    "other weights": (
        lambda f: shutil.copy(f / "2_Dense/model.safetensors", f / "3_Dense/model.safetensors"),
        "the weights in .*3_Dense do not fit",
    ),
    "expansion": (
        lambda f: rewritten(f, "sentence_bert_config.json", query_expansion={"length": 32}),
        "the module Transformer in .* sets query_expansion",
    ),
    "options": (
        lambda f: rewritten(f, "sentence_bert_config.json", config_args={"is_decoder": True}),
        "the module Transformer in .* sets is_decoder",
    ),
    "similarity": (
        lambda f: rewritten(f, "config_sentence_transformers.json", similarity_fn_name="euclidean"),
        "compares by 'euclidean'",
    ),
    "another kind": (
        lambda f: rewritten(f, "config_sentence_transformers.json", model_type="SparseEncoder"),
        "is a SparseEncoder",
    ),
    "cut after": (
        lambda f: rewritten(f, "config_sentence_transformers.json", truncate_dim=8, similarity_fn_name="dot"),
        "the module Normalize in .* stands before truncate_dim",
    ),
    "no list": (lambda f: (f / "modules.json").write_text("{}"), "modules.json must hold a JSON list"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_kept_is_refused_with_its_name(folders: dict[str, Path], tmp_path: Path, what: str) -> None:
    change, message = REFUSED[what]
    folder = Path(shutil.copytree(folders["two dense"], tmp_path / "changed"))
    change(folder)
    with pytest.raises(InputError, match=message):
        load_encoder(str(folder))
