"""Texts one after the other without padding: [1, N] ids, and an attention that keeps each text to itself.

transformers calls the attention that a model's config names; ours is `effir_packed`, which reads where texts begin and
end from the keyword argument `packing` of the model's forward pass. transformers' models hand such arguments down.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from effir_dist.models.kernels import biased_attention, exact_attention
from effir_dist.models.kernels.attention import best, reach, replaceable, taken
from effir_dist.models.kernels.tiled import Seen

try:
    from torch.nn.attention import varlen
except ImportError:  # torch before 2.10
    varlen = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from effir_dist.models.tokens import Tokens

NAME, TRAINING = "effir_packed", "effir_packed_training"
varlen_attn: Any = None if varlen is None else varlen.varlen_attn
OPTIONS = frozenset(() if varlen_attn is None else inspect.signature(varlen_attn).parameters)
"""Of torch's attention: 2.10 has no `window_size`, and 2.13 wants `enable_gqa` said where 2.11 knows no such word."""


@dataclass(frozen=True)
class Packing:
    """Where the texts of a batch are; B texts of N tokens together."""

    offsets: Tensor
    """[B + 1] int32, on the model's device: text i is offsets[i] to offsets[i + 1]"""
    longest: int
    lengths: tuple[int, ...]
    """[B]; empty on a GPU, whose attention reads `offsets` (and whose compiled code should not depend on them)."""
    prompts: Tensor | None = None
    """[B] int64: tokens that each text begins with which pooling leaves out; None where it counts all."""


@dataclass(frozen=True)
class Batch:
    """What goes through the model at once."""

    ids: Tensor
    """[1, N]"""
    positions: Tensor
    """[1, N], from 0 in each text"""
    packing: Packing

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """With every tensor replaced."""
        prompts = None if self.packing.prompts is None else function(self.packing.prompts)
        packing = replace(self.packing, offsets=function(self.packing.offsets), prompts=prompts)
        return Batch(function(self.ids), function(self.positions), packing)


def pack(tokens: Tokens, indices: np.ndarray, device: torch.device) -> Batch:
    """The texts at `indices`, one after the other; copied to a GPU without waiting for it. Empty texts are an error."""
    rows = [tokens[int(i)] for i in indices]
    if not all(map(len, rows)):
        raise ValueError("a text without tokens cannot be packed")
    prompts = np.full(len(rows), tokens.prompt) if tokens.prompt else None
    return pack_rows(rows, device, prompts).map(lambda tensor: _to(tensor, device))


def pack_rows(rows: list[np.ndarray], device: torch.device, prompts: np.ndarray | None = None) -> Batch:
    """Tokens [T] of each text one after the other, for a device, in main memory. prompts [B]: as in `Packing`."""
    lengths = np.array([len(row) for row in rows])
    offsets = np.concatenate([[0], lengths.cumsum()])
    ids, positions = np.concatenate(rows), np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    known = () if device.type == "cuda" else tuple(lengths.tolist())
    left_out = None if prompts is None else torch.from_numpy(prompts.astype(np.int64))
    packing = Packing(torch.from_numpy(offsets.astype(np.int32)), int(lengths.max()), known, left_out)
    both = torch.from_numpy(np.stack([ids, positions]).astype(np.int64))
    return Batch(both[:1], both[1:], packing)


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def possible(backbone: Any) -> bool:
    """Whether torch has an attention without padding for a model on a GPU: in half precision, of options we know."""
    first, config = next(backbone.parameters()), backbone.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    half = first.dtype in (torch.bfloat16, torch.float16)
    if not (first.is_cuda and half and "window_size" in OPTIONS and head % 8 == 0 and head <= 256):
        return False
    if not replaceable(backbone):
        return False
    return torch.cuda.get_device_capability(first.device) >= (8, 0)


def trainable(backbone: Any) -> bool:
    """Whether a model can train on texts without padding: on a GPU as `possible` says, on a CPU in any dtype."""
    if next(backbone.parameters()).device.type == "cpu":
        return replaceable(backbone) or biased_attention.known(backbone)
    return possible(backbone)


def attention(backbone: Any) -> AbstractContextManager[None]:
    """Within the block the model takes packed batches, and no others."""
    return taken(backbone, NAME, _attend)


def for_training(backbone: Any) -> AbstractContextManager[None]:
    """The same with a backward pass: on a CPU attention is computed in float32, as in `attention.for_training`, but for
    one with a bias."""
    if not replaceable(backbone):
        return biased_attention.taken(backbone)
    return taken(backbone, TRAINING, functools.partial(_attend, trains=True))


def pool(pooling: str, hidden: Tensor, batch: Batch) -> Tensor:
    """[1, N, D] -> [B, D] float32: one of `families.base.POOLINGS` of each text, without its prompt where that is left
    out."""
    packing, states = batch.packing, hidden[0]
    if pooling == "last":
        return states[packing.offsets[1:] - 1].float()
    if pooling == "cls":
        first = packing.offsets[:-1]
        return states[first if packing.prompts is None else _within(first + packing.prompts, packing)].float()
    if pooling == "mean" and packing.prompts is None:
        return _reduce(states.float(), "mean", packing)
    return _pool_counted(pooling, states.float(), batch)


def _pool_counted(pooling: str, states: Tensor, batch: Batch) -> Tensor:
    """`mean`, `weighted_mean` or `max` of the tokens [N, D] behind each text's prompt."""
    packing, positions = batch.packing, batch.positions[0]
    counted = torch.ones_like(positions, dtype=torch.bool)
    if packing.prompts is not None:
        lengths = packing.offsets.diff()
        counted = positions >= packing.prompts.repeat_interleave(lengths, output_size=len(positions))
    if pooling == "max":
        return _reduce(states.masked_fill(~counted[:, None], -torch.inf), "max", packing).nan_to_num(neginf=0.0)
    weights = (counted * (positions + 1 if pooling == "weighted_mean" else 1)).float()[:, None]
    return _reduce(states * weights, "sum", packing) / _reduce(weights, "sum", packing).clamp(min=1e-9)


def _reduce(states: Tensor, by: str, packing: Packing) -> Tensor:
    """[N, D] -> [B, D]"""
    # "unsafe" leaves out a check of the offsets that waits for the GPU.
    return torch.segment_reduce(states, by, offsets=packing.offsets.long(), axis=0, unsafe=True)


def _within(places: Tensor, packing: Packing) -> Tensor:
    """Places of tokens; the first of a text that has none behind its prompt."""
    return torch.where(places < packing.offsets[1:], places, packing.offsets[:-1])


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    packing: Packing | None = None,
    trains: bool = False,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [1, H, N, d], key and value [1, K, N, d] -> [1, N, H, d]."""
    assert packing is not None
    causal, window = reach(module, sliding_window, is_causal)
    attend = _flash if query.is_cuda else (_exact if trains else _one_by_one)
    q, k, v = query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)
    return attend(q, k, v, packing, scaling, causal, window)[None], None


def _flash(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float | None, causal: bool, window: int | None
) -> Tensor:
    """[N, H, d], [N, K, d] twice -> [N, H, d], by FlashAttention."""
    left, right = (-1, -1) if window is None else (window - 1, window - 1)
    sizes = (packing.offsets, packing.offsets, packing.longest, packing.longest)
    grouped = {"enable_gqa": True} if "enable_gqa" in OPTIONS else {}
    window_size = (left, 0 if causal else right)
    found: Tensor = varlen_attn(query, key, value, *sizes, scale=scale, window_size=window_size, **grouped)
    return found


def _exact(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float | None, causal: bool, window: int | None
) -> Tensor:
    """The same in float32, for a backward pass on a CPU."""
    return exact_attention.attend(query, key, value, packing.lengths, scale, causal, window)


def _one_by_one(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float | None, causal: bool, window: int | None
) -> Tensor:
    """The same on a CPU: texts of one length that follow each other go together."""
    out, start = torch.empty_like(query), 0
    for length, group in itertools.groupby(packing.lengths):
        end = start + length * len(list(group))
        q, k, v = (x[start:end].unflatten(0, (-1, length)).transpose(1, 2) for x in (query, key, value))
        seen = Seen(causal, window if window and window < length else None)
        found = best(q, k, v, query.shape[-1] ** -0.5 if scale is None else scale, seen)
        out[start:end] = found.flatten(0, 1)
        start = end
    return out
