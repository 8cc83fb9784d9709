"""Attention of packed texts in float32 on a CPU, with its backward pass: what training in packed texts takes there.

torch's kernel is called on texts of one length at a time. Queries that share a key are a batch of their own, so that
keys and values are never repeated; nothing is padded, and no mask is made but for sliding windows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from effir_dist.models.kernels.tiled import unseen

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    scale: float | None,
    causal: bool,
    window: int | None,
) -> Tensor:
    """[N, H, d], [N, K, d] twice -> [N, H, d]: texts of `lengths` tokens, one after the other, see themselves alone.

    window: tokens at which a text's window ends; None where there is none.
    """
    found: Tensor = _Attention.apply(query, key, value, lengths, scale, causal, window)
    return found


def runs(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(Texts, tokens of each) where texts of one length follow each other."""
    for length, group in itertools.groupby(lengths):
        yield len(list(group)), length


def _mask(length: int, window: int | None, causal: bool) -> Tensor | None:
    """[T, T] float32 to add to scores; None where the kernel needs none."""
    if window is None or window >= length:
        return None
    return torch.zeros(length, length).masked_fill(unseen(length, length, 0, causal, window), -torch.inf)


def parts(rows: Tensor, heads: int, shapes: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
    """[N, heads * n, d] -> of each run a view [n, B, heads, T, d]."""
    grouped = rows.unflatten(1, (heads, -1))
    for part, (texts, length) in zip(grouped.split([b * t for b, t in shapes]), shapes, strict=True):
        yield part.unflatten(0, (texts, length)).permute(3, 0, 2, 1, 4)


def _exact(part: Tensor) -> Tensor:
    """[n, B, K, T, d] -> [n, B * K, T, d] float32."""
    wide = part if part.dtype == torch.float32 else torch.empty(part.shape, dtype=torch.float32).copy_(part)
    return wide.flatten(1, 2)


class _Attention(torch.autograd.Function):
    """What it saves of queries, keys and values is in their own dtype."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lengths: Sequence[int],
        scale: float | None,
        causal: bool,
        window: int | None,
    ) -> Tensor:
        heads, shapes = key.shape[1], list(runs(lengths))
        share = query.shape[1] // heads
        out = torch.empty(query.shape, dtype=query.dtype)
        kept = []
        together = zip(*(parts(rows, heads, shapes) for rows in (query, key, value, out)), shapes, strict=True)
        for *inputs, place, (_, length) in together:
            q, k, v = map(_exact, inputs)
            mask = _mask(length, window, causal)
            options = {"is_causal": causal and mask is None, "attn_mask": mask, "scale": scale}
            found, logsumexp = _forward(q, k.expand(share, -1, -1, -1), v.expand(share, -1, -1, -1), 0.0, **options)
            place.copy_(found.view(place.shape))
            kept += [found, logsumexp]
        ctx.save_for_backward(query, key, value, *kept)
        ctx.options = (shapes, scale, causal, window)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        shapes, scale, causal, window = ctx.options
        heads, share = key.shape[1], query.shape[1] // key.shape[1]
        results = [torch.empty(rows.shape, dtype=rows.dtype) for rows in (query, key, value)]
        rows = (gradients[0], query, key, value, *results)
        together = zip(*(parts(each, heads, shapes) for each in rows), kept[::2], kept[1::2], shapes, strict=True)
        for *inputs, of_query, of_key, of_value, found, logsumexp, (_, length) in together:
            gradient, q, k, v = map(_exact, inputs)
            mask = _mask(length, window, causal)
            options = {"attn_mask": mask, "scale": scale}
            k, v = (each.expand(share, -1, -1, -1) for each in (k, v))
            at = _backward(gradient, q, k, v, found, logsumexp, 0.0, causal and mask is None, **options)
            of_query.copy_(at[0].view(of_query.shape))
            for place, each in ((of_key, at[1]), (of_value, at[2])):
                place.copy_((each.sum(0) if share > 1 else each).view(place.shape))
        return *results, None, None, None, None
