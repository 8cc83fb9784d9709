"""Attention of packed texts on a CPU, forward and backward, against torch's own, one text after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from effir_dist.models.kernels import exact_attention

LENGTHS = (1, 3, 3, 9, 4, 4, 4, 1)


def plainly(query: Tensor, key: Tensor, value: Tensor, causal: bool, window: int | None) -> Tensor:
    """[N, H, d], text by text, with a mask of all that a token sees."""
    found = []
    for q, k, v in zip(*(rows.transpose(0, 1).split(LENGTHS, 1) for rows in (query, key, value)), strict=True):
        place = torch.arange(q.shape[1])
        ahead = place[None, :] - place[:, None]
        mask = (ahead.abs() < (window or 100)) & ((ahead <= 0) | (not causal))
        found.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3, enable_gqa=True))
    return torch.cat(found, 1).transpose(0, 1)


@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_texts_attend_as_each_alone(
    heads: tuple[int, int], causal: bool, window: int | None, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    sizes = (heads[0], heads[1], heads[1])
    rows = [torch.randn(sum(LENGTHS), h, 8, dtype=dtype).requires_grad_() for h in sizes]
    gradient = torch.randn(sum(LENGTHS), heads[0], 8)
    exact = [row.detach().float().requires_grad_() for row in rows]
    expected = plainly(*exact, causal, window)
    found = exact_attention.attend(*rows, LENGTHS, 0.3, causal, window)
    assert found.dtype == dtype
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2**-6, "atol": 2**-6}
    torch.testing.assert_close(found.float(), expected, **tolerance)
    expected_at = torch.autograd.grad(expected, exact, gradient)
    found_at = torch.autograd.grad(found, rows, gradient.to(dtype))
    for one, other in zip(found_at, expected_at, strict=True):
        torch.testing.assert_close(one.float(), other, **tolerance)
