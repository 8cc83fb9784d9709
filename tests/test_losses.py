"""InfoNCE against a slow explicit reference, whole and split over two ranks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.functional import normalize

from effir_dist.losses import info_nce, not_negatives

TEMPERATURE = 0.1


def embeddings(batch: int = 6, negatives: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(batch, 8, generator=generator, dtype=torch.float32)
    passages = torch.randn(batch * (1 + negatives), 8, generator=generator, dtype=torch.float32)
    return normalize(queries, dim=-1), normalize(passages, dim=-1)


def slow_info_nce(queries: Tensor, passages: Tensor, excluded: Tensor | None = None) -> float:
    group = len(passages) // len(queries)
    losses = []
    for i, query in enumerate(queries.tolist()):
        weights = {}
        for j, passage in enumerate(passages.tolist()):
            if excluded is None or not excluded[i, j]:
                weights[j] = math.exp(sum(a * b for a, b in zip(query, passage, strict=True)) / TEMPERATURE)
        losses.append(-math.log(weights[i * group] / sum(weights.values())))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("negatives", [0, 1, 3])
def test_equals_the_formula(negatives: int) -> None:
    queries, passages = embeddings(negatives=negatives)
    assert info_nce(queries, passages, TEMPERATURE).item() == pytest.approx(slow_info_nce(queries, passages), rel=1e-5)


def test_excluded_passages_do_not_count() -> None:
    queries, passages = embeddings()
    excluded = torch.rand(6, 18, generator=torch.Generator().manual_seed(1)) < 0.5
    excluded[torch.arange(6), torch.arange(6) * 3] = False
    loss = info_nce(queries, passages, TEMPERATURE, excluded).item()
    assert loss == pytest.approx(slow_info_nce(queries, passages, excluded), rel=1e-5)
    assert loss < info_nce(queries, passages, TEMPERATURE).item()


def test_bfloat16_is_scored_in_float32() -> None:
    queries, passages = (rows.bfloat16() for rows in embeddings())
    assert info_nce(queries, passages, 0.01) == info_nce(queries.float(), passages.float(), 0.01)


@pytest.mark.parametrize("count", [5, 7, 0])
def test_shapes_that_do_not_fit(count: int) -> None:
    with pytest.raises(ValueError, match=r"passages must be \[6 \* \(1 \+ N\), D\]"):
        info_nce(torch.ones(6, 4), torch.ones(count, 4), TEMPERATURE)


def test_an_answer_is_no_negative_and_a_passage_counts_once() -> None:
    passages = torch.tensor([7, 8, 7, 9])
    excluded = not_negatives(passages, [{7}, {9, 8}], torch.tensor([0, 3]))
    assert excluded.tolist() == [[False, False, True, False], [False, True, True, False]]


def test_a_repeated_positive_is_scored_where_it_stands() -> None:
    """Two queries share passage 5: each has it at its own column only, and others see its first place."""
    excluded = not_negatives(torch.tensor([5, 5, 6]), [{5}, {5}, {6}], torch.tensor([0, 1, 2]))
    assert excluded.tolist() == [[False, True, False], [True, False, False], [False, True, False]]


def _rank(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    queries, passages = (rows.chunk(2)[rank].clone().requires_grad_() for rows in embeddings())
    excluded = (torch.arange(18) % 3 == 2).repeat(3, 1)
    loss = info_nce(queries, passages, TEMPERATURE, excluded)
    loss.backward()
    torch.save((loss.detach(), queries.grad, passages.grad), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_are_one_rank_with_the_whole_batch(tmp_path: Path) -> None:
    mp.spawn(_rank, (tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    queries, passages = (rows.requires_grad_() for rows in embeddings())
    loss = info_nce(queries, passages, TEMPERATURE, (torch.arange(18) % 3 == 2).repeat(6, 1))
    loss.backward()
    torch.testing.assert_close((first[0] + second[0]) / 2, loss.detach())
    # DeepSpeed takes the mean over ranks, hence the halves
    torch.testing.assert_close(torch.cat([first[1], second[1]]) / 2, queries.grad)
    torch.testing.assert_close(torch.cat([first[2], second[2]]) / 2, passages.grad)
