"""InfoNCE against a slow explicit reference, whole and split over two ranks."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize

from effir_dist.core.settings import DataConfig, TrainConfig
from effir_dist.data.pairs import training_pairs
from effir_dist.models.encoder import load_encoder
from effir_dist.training.batches import batches, distinct, examples_of
from effir_dist.training.collate import Collator
from effir_dist.training.losses import Targets, gather, info_nce, not_negatives, retrieval_loss
from tests.data.test_data import make
from tests.ranks import run_ranks

TEMPERATURE = 0.1


def embeddings(batch: int = 6, negatives: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(batch, 8, generator=generator, dtype=torch.float32)
    passages = torch.randn(batch * (1 + negatives), 8, generator=generator, dtype=torch.float32)
    return normalize(queries, dim=-1), normalize(passages, dim=-1)


def loss_of(
    queries: Tensor, passages: Tensor, temperature: float, excluded: Tensor | None = None, rank: int = 0
) -> Tensor:
    group = len(passages) // max(1, len(queries))
    targets = (torch.arange(len(queries)) + rank * len(queries)) * group
    return info_nce(queries @ gather(passages).T / temperature, targets, excluded)


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
    assert loss_of(queries, passages, TEMPERATURE).item() == pytest.approx(slow_info_nce(queries, passages), rel=1e-5)


def test_excluded_passages_do_not_count() -> None:
    queries, passages = embeddings()
    excluded = torch.rand(6, 18, generator=torch.Generator().manual_seed(1)) < 0.5
    excluded[torch.arange(6), torch.arange(6) * 3] = False
    loss = loss_of(queries, passages, TEMPERATURE, excluded).item()
    assert loss == pytest.approx(slow_info_nce(queries, passages, excluded), rel=1e-5)
    assert loss < loss_of(queries, passages, TEMPERATURE).item()


def test_bfloat16_is_scored_in_float32() -> None:
    queries, passages = (rows.bfloat16() for rows in embeddings())
    targets = targets_of(np.arange(18), [set() for _ in range(6)], list(range(0, 18, 3)))
    config = TrainConfig(temperature=0.01)
    loss = retrieval_loss(queries, passages, targets, config)
    assert loss == loss_of(queries.float(), passages.float(), 0.01)


def targets_of(passages: np.ndarray, answers: list[set[int]], positives: list[int]) -> Targets:
    repeated, excluded = (torch.from_numpy(found) for found in not_negatives(passages, answers))
    columns = torch.tensor(positives)
    return Targets(columns, repeated, excluded, columns[:, None])


def test_an_answer_is_no_negative_and_a_passage_counts_once() -> None:
    excluded = targets_of(np.array([7, 8, 7, 9]), [{7}, {9, 8}], [0, 3]).mask()
    assert excluded.tolist() == [[False, False, True, False], [False, True, True, False]]


def test_a_repeated_positive_is_scored_where_it_stands() -> None:
    """Two queries share passage 5: each has it at its own column only, and others see its first place."""
    excluded = targets_of(np.array([5, 5, 6]), [{5}, {5}, {6}], [0, 1, 2]).mask()
    assert excluded.tolist() == [[False, True, False], [True, False, False], [False, True, False]]


def test_what_is_excluded_is_what_a_loop_over_all_pairs_finds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        passages = rng.integers(12, size=15)
        answers = [set(rng.integers(15, size=rng.integers(4)).tolist()) for _ in range(5)]
        positives = rng.integers(15, size=5).tolist()
        expected = [
            [
                column != positive and (passage in found or passage in passages[:column].tolist())
                for column, passage in enumerate(passages.tolist())
            ]
            for found, positive in zip(answers, positives, strict=True)
        ]
        assert targets_of(passages, answers, positives).mask().tolist() == expected


def test_answers_whose_pairs_are_not_sampled_are_no_negatives(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Twenty queries with forty answers each among eighty documents, and a tenth of their pairs."""
    rng = np.random.default_rng(0)
    rows = [(f"q{q}", f"d{d}", 1) for q in range(20) for d in rng.choice(80, 40, replace=False)]
    folder = make(tmp_path / "set", 80, 30, {"train": rows, "dev": [("q25", "d1", 1)], "test": [("q26", "d2", 1)]})
    pairs = training_pairs(DataConfig(paths=(str(folder),), max_train_pairs=80), 0)
    encoder, config = load_encoder(str(checkpoints["llama"])), TrainConfig(batch_size=40)
    examples = examples_of(encoder, pairs, config, None)
    relevant = {(f"query {q[1:]}", f"T{d[1:]} x{d[1:]}") for q, d, _ in rows}
    texts = distinct(pairs, hard_negatives=False)
    for batch in itertools.islice(batches(examples, config), 4):
        (targets,) = Collator(encoder, examples, config).collate(batch).targets
        queries, passages = (
            [texts[kind][i] for i in of.ravel()] for kind, of in enumerate((batch.queries, batch.passages))
        )
        answers = torch.tensor([[(query, passage) in relevant for passage in passages] for query in queries])
        assert answers.float().mean() > 0.4
        assert (targets.mask() | ~answers).sum() == answers.numel() - len(queries), "all but the own positives"


def _rank(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    queries, passages = (rows.chunk(2)[rank].clone().requires_grad_() for rows in embeddings())
    excluded = (torch.arange(18) % 3 == 2).repeat(3, 1)
    loss = loss_of(queries, passages, TEMPERATURE, excluded, rank)
    loss.backward()
    torch.save((loss.detach(), queries.grad, passages.grad), folder / f"{rank}.pt")
    dist.barrier()  # a rank whose partner is gone may abort in gloo's own thread
    dist.destroy_process_group()


def test_two_ranks_are_one_rank_with_the_whole_batch(tmp_path: Path) -> None:
    run_ranks(_rank, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    queries, passages = (rows.requires_grad_() for rows in embeddings())
    loss = loss_of(queries, passages, TEMPERATURE, (torch.arange(18) % 3 == 2).repeat(6, 1))
    loss.backward()
    torch.testing.assert_close((first[0] + second[0]) / 2, loss.detach())
    # DeepSpeed takes the mean over ranks, hence the halves
    torch.testing.assert_close(torch.cat([first[1], second[1]]) / 2, queries.grad)
    torch.testing.assert_close(torch.cat([first[2], second[2]]) / 2, passages.grad)
