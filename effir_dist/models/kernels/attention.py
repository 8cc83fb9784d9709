"""Another attention within a model: how one is taken, and which is the fastest on a CPU to encode and to train."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from effir_dist.models.families.base import KNOWN_OPTIONS
from effir_dist.models.families.registry import family
from effir_dist.models.kernels import tiled

NAME = "effir_float32"
FAST = "effir_fast"
OPTIONS = KNOWN_OPTIONS | {"softcap"}
"""Options of an attention that `for_encoding` computes."""


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


@contextlib.contextmanager
def for_encoding(backbone: Any) -> Iterator[None]:
    """Within the block a model on a CPU attends in the fastest way there; without gradients or dropout, and for texts
    that are padded on the right. A model whose attention has options that ours does not know is left as it is."""
    from transformers.masking_utils import flash_attention_mask

    known = set(family({"model_type": backbone.config.model_type}).attention_options) <= OPTIONS
    fits = known and next(backbone.parameters()).device.type == "cpu"
    with taken(backbone, FAST, _attend_fast, flash_attention_mask) if fits else contextlib.nullcontext():
        yield


def _attend_fast(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface, as `_attend`; attention_mask [B, T]: which are tokens, None where all are."""
    causal, window = reach(module, sliding_window, is_causal)
    window = None if window is None or window >= query.shape[2] else window
    padding = None if attention_mask is None else ~attention_mask.bool()
    seen = tiled.Seen(causal, window, padding, softcap=softcap)
    return best(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling, seen), None


def best(query: Tensor, key: Tensor, value: Tensor, scale: float, seen: tiled.Seen) -> Tensor:
    """[B, H, T, d], [B, K, T, d] twice -> [B, T, H, d], by tiles or by torch's kernel, whichever is the faster.

    Where gradients are wanted it is torch's, which does not keep the weights of all pairs for them.
    """
    if not seen.plain or (not torch.is_grad_enabled() and tiled.pays(query, seen)):
        return tiled.attend(query, key, value, scale, seen)
    mask = tiled.mask_of(seen, query.shape[2])
    options: dict[str, Any] = {"attn_mask": mask, "is_causal": seen.causal and mask is None, "scale": scale}
    grouped = query.shape[1] != key.shape[1]
    return nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=grouped, **options).transpose(1, 2)


def reach(module: Any, window: int | None, is_causal: bool | None) -> tuple[bool, int | None]:
    """Whether a token sees those before it alone, and the tokens at which its window ends: of what transformers hands
    to an attention. Where the config's key makes a decoder see both sides (`is_causal` is then handed down),
    transformers' masks count the window's end in."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    return causal, window if window is None or is_causal is not False else int(module.config.sliding_window) + 1


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [B, H, T, d], key and value [B, K, T, d] -> [B, T, H, d]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    q, k, v = query.float(), key.float(), value.float()
    mask = attention_mask if attention_mask is None or attention_mask.dtype == torch.bool else attention_mask.float()
    found = sdpa_attention_forward(module, q, k, v, mask, **options)[0]
    return found.to(query.dtype), None
