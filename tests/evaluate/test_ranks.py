"""Evaluation on several ranks, each with its own part of the corpus, against one rank with all of it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch.distributed as dist

from effir_dist.data.sets import load_collection
from effir_dist.evaluate import evaluation, ranks
from effir_dist.evaluate.exact import exact_search, merged
from effir_dist.models.encoder import load_encoder
from tests.ranks import run_ranks
from tests.tiny import write_collection

RANKS = 3


def whole_numbers(rows: int, seed: int) -> np.ndarray:
    """[rows, 4] float32 whose products are exact and often equal."""
    return np.random.default_rng(seed).integers(-1, 2, (rows, 4)).astype(np.float32)


def test_the_best_of_parts_are_the_best_of_the_whole() -> None:
    queries, documents = whole_numbers(20, 1), whole_numbers(400, 2)
    expected = exact_search(queries, documents, 15)
    assert (expected[0][:, 14] == expected[0][:, 13]).mean() > 0.5, "a test of ties needs ties"
    for count in (1, 2, 7, 150):
        parts = []
        for rows in ranks.shares(np.random.default_rng(3).integers(1, 30, 400), count):
            similarities, indices = exact_search(queries, documents[rows], 15)
            parts.append((similarities, rows[indices]))
        found = merged(parts, 15)
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_array_equal(found[0], expected[0])


def test_shares_are_all_texts_once_and_equal_work() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 1000)
    found = ranks.shares(lengths, 7)
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(1000))
    assert all((np.diff(rows) > 0).all() for rows in found)
    work = [lengths[rows].sum() for rows in found]
    assert max(work) - min(work) <= 300


def _searched(rank: int, documents: np.ndarray, bad: int | None) -> object:
    rows = ranks.shares(np.arange(len(documents)), RANKS)[rank]
    own = documents[rows]
    if bad == rank:
        own[0, 0] = np.nan
    try:
        return ranks.search_own(whole_numbers(9, 1), own, rows, 10)
    except FloatingPointError as error:
        return str(error)


def _rank(rank: int, folder: Path, model: Path, data: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    encoded: list[int] = []
    encode = ranks.encode_own

    def counted(*given: object) -> np.ndarray:
        vectors = encode(*given)  # type: ignore[arg-type]
        encoded.append(len(vectors))
        return vectors

    ranks.encode_own = counted
    scores = evaluation.evaluate(load_encoder(str(model)), load_collection(str(data), "dev"), 512)
    found = [_searched(rank, whole_numbers(50, 2), bad) for bad in (None, 1)]
    few = _searched(rank, whole_numbers(2, 2), None)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps((scores, encoded, found, few)))
    dist.destroy_process_group()


def test_three_ranks_search_their_own_parts_like_one(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    data = write_collection(tmp_path / "set", documents=61, queries=21)
    expected = evaluation.evaluate(load_encoder(str(checkpoints["bert"])), load_collection(str(data), "dev"), 512)
    run_ranks(_rank, tmp_path, checkpoints["bert"], data, ranks=RANKS)
    results = [pickle.loads((tmp_path / f"{rank}.pickle").read_bytes()) for rank in range(RANKS)]
    assert [encoded for _, encoded, _, _ in results] == [[3, 21], [2, 20], [2, 20]]
    exact = exact_search(whole_numbers(9, 1), whole_numbers(50, 2), 10)
    for scores, _, (found, failed), few in results:
        assert scores.per_query == expected.per_query
        assert scores.encoded["documents"][0] == 61
        for query, ranked in expected.ranked.items():
            assert [d for d, _ in scores.ranked[query]] == [d for d, _ in ranked]
            np.testing.assert_allclose(*([s for _, s in each] for each in (scores.ranked[query], ranked)), atol=1e-6)
        of_two = exact_search(whole_numbers(9, 1), whole_numbers(2, 2), 10)
        for own, whole in zip((*found, *few), (*exact, *of_two), strict=True):
            np.testing.assert_array_equal(own, whole)
        assert "document vectors hold values that are not finite" in failed  # on the ranks that have good ones, too
