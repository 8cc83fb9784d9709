"""Retrievers whose embeddings are compared by inner product, as they come: never normalised, never out of range."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from effir_dist.data.sets import load_collection
from effir_dist.evaluate import evaluation
from effir_dist.evaluate.evaluation import evaluate, evaluate_texts
from effir_dist.evaluate.exact import exact_search
from effir_dist.evaluate.shards import TextFile, Vectors, encode_corpus
from effir_dist.models.encoder import Encoder, load_encoder
from tests import needs
from tests.sentence_folders import made

MOST = float(np.finfo(np.float16).max)


@pytest.fixture
def encoder(checkpoints: dict[str, Path]) -> Encoder:
    """Its vectors differ in length, and hold numbers that float16 cannot."""
    made = load_encoder(str(checkpoints["llama"]))
    made.settings = dataclasses.replace(made.settings, similarity="dot", normalize=False)
    norm = made.backbone.get_submodule("norm")
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0, 2 * MOST, 32))
    return made


def test_embeddings_are_as_they_come_and_cut_as_they_come(encoder: Encoder) -> None:
    texts = ["alpha", "beta gamma"]
    whole = encoder.encode(texts)
    lengths = np.linalg.norm(whole, axis=1)
    assert lengths.min() > MOST
    unit = dataclasses.replace(encoder.settings, similarity="cosine")
    encoder.settings = dataclasses.replace(encoder.settings, dimension=12)
    np.testing.assert_array_equal(encoder.encode(texts), whole[:, :12])
    encoder.settings = unit
    np.testing.assert_allclose(encoder.encode(texts), whole / lengths[:, None], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("most", [0, 2**32])
def test_the_ranking_is_that_of_plain_inner_products(
    encoder: Encoder, collection: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory and in files."""
    monkeypatch.setattr(evaluation, "ON_DISK_BYTES", most)
    read = load_collection(str(collection), "test")
    queries, documents = encoder.encode(list(read.queries), "query"), encoder.encode(list(read.documents))
    order = np.argsort(-(queries.astype(float) @ documents.T.astype(float)), axis=1)
    best = {q: read.document_ids[row[0]] for q, row in zip(read.query_ids, order, strict=True)}
    found = evaluate(encoder, read)
    assert {q: ranked[0][0] for q, ranked in found.ranked.items()} == best
    assert evaluate_texts(encoder, read, 0).metrics == found.metrics
    unit = documents / np.linalg.norm(documents, axis=1, keepdims=True)
    assert (np.argsort(-(queries @ unit.T), axis=1)[:, :5] != order[:, :5]).any(), "cosines rank otherwise"


def test_shards_hold_every_number(encoder: Encoder, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"text {n} " * (1 + n % 4) for n in range(9)))
    encode_corpus(encoder, TextFile.open(texts), tmp_path / "out", encoder.encode, 4, {}, print)
    found = Vectors(tmp_path / "out")
    expected = encoder.encode([line.strip() for line in texts.read_text().splitlines()])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:], expected, rtol=1e-4)
    queries = expected[:3]
    similarities, indices = exact_search(queries, found, 3)  # type: ignore[arg-type]
    products = queries.astype(float) @ expected.T.astype(float)
    np.testing.assert_array_equal(indices, np.argsort(-products, axis=1)[:, :3])
    np.testing.assert_allclose(similarities, -np.sort(-products, axis=1)[:, :3], rtol=1e-4)


def test_other_models_of_sentence_transformers_are_not_normalised_either(tmp_path: Path) -> None:
    from effir_dist.models.sentence_models import SentenceModel

    needs.module("sentence_transformers")
    folder = made(tmp_path, "not normalised")
    found = SentenceModel(str(folder)).encode(["alpha", "beta gamma"])
    np.testing.assert_allclose(found, load_encoder(str(folder)).encode(["alpha", "beta gamma"]), atol=1e-5)
    assert (np.linalg.norm(found, axis=1) > 1.1).all()


def test_mteb_is_told_and_gets_inner_products(encoder: Encoder, checkpoints: dict[str, Path]) -> None:
    from effir_dist.mteb_model import MtebEncoder

    needs.module("mteb")
    model = MtebEncoder(str(checkpoints["llama"]))
    model.encoder = encoder
    vectors = model.encode([{"text": ["alpha", "beta gamma"]}])
    np.testing.assert_allclose(model.similarity(vectors, vectors).numpy(), vectors @ vectors.T, rtol=1e-5)
    assert model.mteb_model_meta.similarity_fn_name == "dot"
