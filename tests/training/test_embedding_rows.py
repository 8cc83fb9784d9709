"""Gradients of embedded tokens' rows against torch's own, of the whole table."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effir_dist.core.settings import TrainConfig
from effir_dist.training import embedding_rows
from effir_dist.training.single_process import SingleProcess


class Scaled(nn.Embedding):
    """As Gemma's: it does more with what is looked up."""

    def forward(self, input: Tensor) -> Tensor:
        return 3 * super().forward(input)


class Model(nn.Module):
    """Looks tokens up, twice, beside a weight that is no embedding and one that no gradient reaches."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.tokens, self.line = kind(20, 6, padding_idx=1), nn.Linear(6, 6)
        self.positions, self.idle = nn.Embedding(4, 6), nn.Linear(2, 2)

    def forward(self, ids: Tensor) -> Tensor:
        found = self.tokens(ids) + self.tokens(ids.flip(0)) + self.positions(torch.arange(ids.shape[-1]))
        return self.line(found).square().sum(-1)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_rows, "FEW", 10)


@pytest.mark.parametrize("kind", [nn.Embedding, Scaled])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_is_that_of_whole_tables(kind: Any, dtype: torch.dtype) -> None:
    """Over steps of two losses each: tokens that repeat, the padding token, and rows of one step alone."""
    torch.manual_seed(0)
    model = Model(kind).to(dtype)
    plain = copy.deepcopy(model).float()
    config = TrainConfig(learning_rate=1e-2, weight_decay=0.1, max_grad_norm=0.5)
    engine = SingleProcess(model, config)
    adamw = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.1)
    for losses in ([[2, 3, 3, 1], [5, 2, 6, 1]], [[7, 7, 8, 1], [9, 1, 1, 1]], [[2, 9, 4, 4], [1, 1, 1, 1]]):
        for ids in map(torch.tensor, losses):
            engine.backward(model(ids).float().sum())
            plain(ids).sum().backward()
        found, expected = engine.masters[model.tokens.weight].grad, plain.tokens.weight.grad
        assert (found - expected).norm() < (1e-5 if dtype == torch.float32 else 0.03) * expected.norm()
        assert torch.equal(found == 0, expected == 0)
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        adamw.step()
        adamw.zero_grad()
        engine.step()
    assert type(model.positions) is nn.Embedding
    assert isinstance(model.tokens, kind)
    assert all(p.grad is None for p in model.parameters())
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    for (name, found), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.float(), expected, **tolerance, msg=lambda m, n=name: f"{n}: {m}")
        if dtype == torch.bfloat16:
            assert torch.equal(found, engine.masters[found].to(dtype))


def test_no_table_of_zeros_is_made_for_a_look_up() -> None:
    model = Model(nn.Embedding).to(torch.bfloat16)
    engine = SingleProcess(model, TrainConfig())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        engine.backward(model(torch.tensor([2, 3])).float().sum())
    called = {event.key for event in seen.key_averages()}
    assert "aten::index_add_" in called
    assert sum(event.count for event in seen.key_averages() if event.key == "aten::embedding_dense_backward") == 1
    assert engine.masters[model.tokens.weight].grad.dtype == torch.float32
