"""Exact search, each way that it is done, against a plain matrix product and a stable sort."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from effir_dist.evaluate import exact
from effir_dist.evaluate.exact import exact_search, search_by_faiss, search_by_product
from effir_dist.models.kernels.processor import Processor

WAYS = pytest.mark.parametrize("search", [search_by_faiss, search_by_product])
Search = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def vectors(rows: int, size: int = 16, seed: int = 0) -> np.ndarray:
    """[rows, size] float32 of length 1."""
    drawn = np.random.default_rng(seed).standard_normal((rows, size)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def whole_numbers(rows: int, size: int = 4, seed: int = 0) -> np.ndarray:
    """[rows, size] float32 whose products are exact and often equal."""
    return np.random.default_rng(seed).integers(-1, 2, (rows, size)).astype(np.float32)


def reference(queries: np.ndarray, documents: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All products, a stable sort."""
    product = queries @ documents.T.astype(np.float32)
    order = np.argsort(-product, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(product, order, 1), order


@WAYS
@pytest.mark.parametrize("documents", [1, 331])
@pytest.mark.parametrize("block_rows", [1, 10, 1000])
@pytest.mark.parametrize("queries", [3, 33])
def test_search_equals_a_matrix_product(
    search: Search, documents: int, block_rows: int, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "BLOCK_BYTES", block_rows * 16 * 4)
    asked, passages = vectors(queries, seed=1), vectors(documents, seed=2)
    scores, indices = search(asked, passages, 20)
    expected = reference(asked, passages, 20)
    assert (indices.dtype, scores.dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_allclose(scores, expected[0], atol=1e-6)


@WAYS
@pytest.mark.parametrize("block_rows", [3, 50, 1000])
def test_of_equal_scores_the_earlier_document_comes_first(
    search: Search, block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "BLOCK_BYTES", block_rows * 4 * 4)
    queries, documents = whole_numbers(20, seed=1), whole_numbers(400, seed=2)
    scores, indices = search(queries, documents, 15)
    expected = reference(queries, documents, 15)
    assert (expected[0][:, 14] == expected[0][:, 13]).mean() > 0.5, "a test of ties needs ties"
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_array_equal(scores, expected[0])


@WAYS
def test_half_precision_on_disk_is_searched_a_block_at_a_time(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "BLOCK_BYTES", 64 * 32 * 4)
    queries, documents = vectors(5, 32, seed=1), vectors(1000, 32, seed=2).astype(np.float16)
    np.save(tmp_path / "vectors.npy", documents)
    stored, seen = np.load(tmp_path / "vectors.npy", mmap_mode="r"), []
    walk = exact._blocks
    monkeypatch.setattr(exact, "_blocks", lambda *given: (seen.append(b[1].nbytes) or b for b in walk(*given)))
    scores, indices = search(queries, stored, 10)
    expected = reference(queries, documents, 10)
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_allclose(scores, expected[0], atol=1e-6)
    assert len(seen) == 16
    assert max(seen) <= 64 * 32 * 2


@WAYS
def test_many_queries_meet_few_documents_at_a_time(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "PRODUCT_BYTES", 50 * 7 * 4)
    queries, documents = vectors(50, seed=1), vectors(60, seed=2)
    np.testing.assert_array_equal(search(queries, documents, 5)[1], reference(queries, documents, 5)[1])


def test_exact_search_takes_any_float_and_layout() -> None:
    queries, passages = vectors(5), vectors(50, seed=3)
    expected = exact_search(queries, passages, 4)
    got = exact_search(queries.astype(np.float64), np.asfortranarray(passages), 4)
    np.testing.assert_array_equal(got[1], expected[1])


def test_without_faiss_the_search_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, passages = vectors(5), vectors(50, seed=3)
    expected = exact_search(queries, passages, 4)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "faiss" else find(name))
    monkeypatch.setattr(exact, "search_by_faiss", None)
    np.testing.assert_array_equal(exact_search(queries, passages, 4)[1], expected[1])


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (Processor(avx512=True), "search_by_product"),
        (Processor(avx512=True, amd=True), "search_by_faiss"),
        (Processor(), "search_by_faiss"),
    ],
)
def test_the_way_that_is_faster_on_the_processor_is_taken(
    processor: Processor, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    taken: list[str] = []
    for way in ("search_by_product", "search_by_faiss"):
        monkeypatch.setattr(exact, way, lambda *_, way=way: taken.append(way))
    exact_search(vectors(8), vectors(50), 4, processor)
    exact_search(vectors(7), vectors(50), 4, processor)  # so few are compared by faiss everywhere
    assert taken == [expected, "search_by_faiss"]
