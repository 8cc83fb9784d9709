"""Another attention within a model: how one is taken, and attention in float32 for training in bfloat16 on a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from effir_dist.models.families.registry import family

NAME = "effir_float32"


@contextlib.contextmanager
def taken(
    backbone: Any, name: str, attend: Callable[..., Any], mask: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Within the block the model attends by `attend`, a function of transformers' attention interface.

    name: that no attention of transformers has. mask: makes what `attend` gets as attention_mask (transformers' mask
    interface); None where it takes none.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(name, attend)
    if mask:
        AttentionMaskInterface.register(name, mask)
    before = backbone.config._attn_implementation
    backbone.set_attn_implementation(name)
    try:
        yield
    finally:
        backbone.set_attn_implementation(before)


def replaceable(backbone: Any) -> bool:
    """Whether our own attentions compute what the model's does: all options that its family declares are known."""
    return family({"model_type": backbone.config.model_type}).attention_implementation == "sdpa"


@contextlib.contextmanager
def for_training(backbone: Any) -> Iterator[None]:
    """Within the block a model in bfloat16 on a CPU computes its attention in float32; others are as they were.

    torch's backward pass of attention is slower in bfloat16 than in float32 there, and all else is faster: a step gains
    1.2 to 1.8 times (`python -m benchmarks.dtype`).
    """
    from transformers.masking_utils import sdpa_mask

    first = next(backbone.parameters())
    slow = first.device.type == "cpu" and first.dtype == torch.bfloat16 and replaceable(backbone)
    with taken(backbone, NAME, _attend, sdpa_mask) if slow else contextlib.nullcontext():
        yield


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [B, H, T, d], key and value [B, K, T, d] -> [B, T, H, d]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    q, k, v = query.float(), key.float(), value.float()
    mask = attention_mask if attention_mask is None or attention_mask.dtype == torch.bool else attention_mask.float()
    found = sdpa_attention_forward(module, q, k, v, mask, **options)[0]
    return found.to(query.dtype), None
