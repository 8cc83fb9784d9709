"""From the hidden states of a text's tokens to one vector, for padded texts; packed.py does it without padding."""

from __future__ import annotations

import torch
from torch import Tensor

POOLED, SEEN = 1, 2
"""Values of an attention mask, beside 0 for padding: tokens that are pooled, and those of a prompt that only attention
sees."""


def pool(pooling: str, hidden: Tensor, mask: Tensor) -> Tensor:
    """[B, T, D], [B, T] -> [B, D] float32, of the tokens whose mask is POOLED."""
    return _POOLINGS[pooling](hidden, (mask == POOLED).long())


def _weighted(hidden: Tensor, weights: Tensor) -> Tensor:
    weights = weights.unsqueeze(-1).float()
    return (hidden.float() * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _weighted_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Token n of a text counts n times; padding is on the right."""
    return _weighted(hidden, mask * torch.arange(1, mask.shape[1] + 1, device=mask.device))


def _max(hidden: Tensor, mask: Tensor) -> Tensor:
    """The largest value of each number."""
    return hidden.float().masked_fill(mask.unsqueeze(-1) == 0, -torch.inf).amax(1).nan_to_num(neginf=0.0)


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    """The last token, whichever side the padding is on."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (positions * mask).argmax(1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last].float()


def _cls(hidden: Tensor, mask: Tensor) -> Tensor:
    """The first token."""
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), mask.argmax(1)].float()


_POOLINGS = {"mean": _weighted, "weighted_mean": _weighted_mean, "max": _max, "last": _last, "cls": _cls}
