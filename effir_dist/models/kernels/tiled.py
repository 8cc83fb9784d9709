"""Attention on a CPU by batched matrix products, in tiles of scores that stay in the cache.

torch's own kernel reaches a quarter of a CPU's bfloat16 matrix rate, and of a causal text of up to 512 tokens it
computes all pairs. Here heads that share a key are rows of one product (nothing is repeated), tiles of pairs that no
token sees are left out, and the softmax computes in float32. Letters: B texts, H heads, K key heads, T tokens, d head
size; a tile is [B, H, rows, keys].
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from effir_dist.models.kernels.processor import Processor, this_processor

TILE = 2**20
"""Scores of a tile: 2 MiB in bfloat16."""
LEAST_ROWS, MOST_ROWS = 16, 64
LONG = 128
"""Tokens from which a causal text has enough tiles that are left out."""


@dataclass(frozen=True)
class Seen:
    """Which tokens see which, and what is done to their scores."""

    causal: bool
    window: int | None = None
    """Tokens with |i - j| < window see each other; None where all do."""
    padding: Tensor | None = None
    """[B, T] bool: which keys are padding, on the right; None without any."""
    bias: Tensor | None = None
    """[B or 1, H, T, T], added to the scores."""
    softcap: float | None = None
    """Scores s become softcap * tanh(s / softcap), before anything is added."""

    @property
    def plain(self) -> bool:
        """Whether torch's own attention can do it."""
        return self.bias is None and self.softcap is None


def pays(query: Tensor, seen: Seen, processor: Processor | None = None) -> bool:
    """Whether tiles beat torch's kernel, for queries [B, H, T, d] of a CPU: `python -m benchmarks --only pruned`.

    With AMX the kernel's products are as fast as these, so that only what is left out counts.
    """
    machine = processor or this_processor()
    if seen.causal and query.shape[2] >= LONG:
        return True
    return query.dtype == torch.bfloat16 and not machine.amx and (seen.causal or query.shape[3] >= 64)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, seen: Seen) -> Tensor:
    """[B, H, T, d], [B, K, T, d] twice -> [B, T, H, d]."""
    batch, heads, length, size = query.shape
    out = query.new_empty(batch, length, heads, size)
    grouped = query.unflatten(1, (key.shape[1], -1))
    keys, values = key.flatten(0, 1).transpose(1, 2), value.flatten(0, 1)
    hidden = None if seen.causal or seen.padding is None else _lowest(seen.padding, query.dtype)
    step = _rows(batch * heads * length)
    for start in range(0, length, step):
        height = min(length, start + step) - start
        first, last = _span(start, start + height, length, seen)
        rows = grouped.narrow(3, start, height).reshape(len(values), -1, size)
        scores = torch.baddbmm(rows.new_empty(()), rows, keys.narrow(2, first, last - first), beta=0, alpha=scale)
        _finish(scores.view(batch, heads, height, last - first), start, first, hidden, seen)
        found = torch.bmm(torch.softmax(scores, -1), values.narrow(1, first, last - first))
        out.narrow(1, start, height).copy_(found.view(batch, heads, height, size).transpose(1, 2))
    return out


def _rows(scores_of_a_row: int) -> int:
    """Rows of a tile: a power of two."""
    return max(LEAST_ROWS, min(MOST_ROWS, 2 ** int(math.log2(max(1, TILE // scores_of_a_row)))))


def _span(start: int, end: int, length: int, seen: Seen) -> tuple[int, int]:
    """The keys that rows `start` to `end` see."""
    last = end if seen.causal else length
    if seen.window is None:
        return 0, last
    return max(0, start - seen.window + 1), min(last, end + seen.window - 1)


def _finish(scores: Tensor, start: int, first: int, hidden: Tensor | None, seen: Seen) -> None:
    """Cap a tile and add to it, in place. hidden [B, T]: what padding adds to a key's scores."""
    rows, last = scores.shape[2], first + scores.shape[3]
    if seen.softcap is not None:
        scores.div_(seen.softcap).tanh_().mul_(seen.softcap)
    if seen.bias is not None:
        scores += seen.bias[:, :, start : start + rows, first:last]
    if hidden is not None:
        scores += hidden[:, None, None, first:last]
    if seen.window is not None:
        scores += _lowest(unseen(rows, last - first, start - first, seen.causal, seen.window), scores.dtype)
    elif seen.causal:  # a row sees all keys before the tile's first row
        scores[..., start:] += _triangle(rows, scores.dtype)


@functools.lru_cache(maxsize=64)
def _triangle(rows: int, dtype: torch.dtype) -> Tensor:
    """[rows, rows]: what hides the keys behind a row."""
    return _lowest(unseen(rows, rows, 0, True, None), dtype)


def unseen(rows: int, keys: int, behind: int, causal: bool, window: int | None) -> Tensor:
    """[rows, keys] bool: which keys a row does not see, where the first row is `behind` the first key."""
    distance = torch.arange(behind, behind + rows)[:, None] - torch.arange(keys)
    unseen = distance < 0 if causal else torch.zeros_like(distance, dtype=torch.bool)
    return unseen if window is None else unseen | (distance.abs() >= window)


def mask_of(seen: Seen, length: int) -> Tensor | None:
    """[B or 1, 1, T or 1, T] bool: which keys a token sees, for torch's kernel; None where causality says all."""
    found = None if seen.causal or seen.padding is None else ~seen.padding[:, None, None]
    if seen.window is None:
        return found
    inside = ~unseen(length, length, 0, seen.causal, seen.window)[None, None]
    return inside if found is None else inside & found


def _lowest(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """0, or where `hidden` a number that leaves nothing of a weight; several of them and a score are still finite."""
    return torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min / 8)
