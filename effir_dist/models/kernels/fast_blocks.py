"""What a block computes beside its linear layers, in fewer passes over a CPU's memory: attention, and norms.

Nothing here keeps anything of a model's weights. Modules that are not known stay as they are (known_blocks.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from effir_dist.models.families.known_blocks import Norm, is_biased_attention, norm_of, replaced
from effir_dist.models.kernels import attention, tiled


@contextlib.contextmanager
def fast_blocks(backbone: Any) -> Iterator[None]:
    """Within the block a model on a CPU computes the same faster: in evaluation mode, without gradients, and texts that
    are padded on the right or packed (the attention of packed texts is `packed.attention`'s, to be entered as well)."""
    on_cpu = next(backbone.parameters()).device.type == "cpu"
    with (
        replaced(backbone, _forward_of) if on_cpu else contextlib.nullcontext(),
        attention.for_encoding(backbone),
    ):
        yield


def _forward_of(module: Any) -> Callable[..., Any] | None:
    if norm := norm_of(module):
        return _normalising(module, norm)
    return _attending(module) if is_biased_attention(module) else None


def _root_mean_square(states: Tensor, epsilon: float) -> Tensor:
    """[.., D] -> [.., 1] float32: 1 / sqrt(mean of squares + epsilon)."""
    norm = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=torch.float32)
    return norm.square_().div_(states.shape[-1]).add_(epsilon).rsqrt_()


def _scaled(states: Tensor, epsilon: float) -> Tensor:
    """[.., D] -> the same of mean square 1, in float32."""
    exact = states.float()
    scale = _root_mean_square(exact, epsilon)
    return exact * scale if exact is states else exact.mul_(scale)


def _normalising(module: Any, norm: Norm) -> Callable[[Tensor], Tensor]:
    """The forward pass of a norm. The weight is read at each call: a training may have gone on."""

    def exact(states: Tensor) -> Tensor:
        return _scaled(states, norm.epsilon).mul_(module.weight.float() + norm.offset).to(states.dtype)

    def rounded(states: Tensor) -> Tensor:
        found = _scaled(states, norm.epsilon).to(states.dtype)
        return found.mul_(module.weight) if module.weight.dtype == states.dtype else module.weight * found

    return rounded if norm.rounded else exact


def _attending(module: Any) -> Callable[..., Any]:
    """An attention with a bias. To the scores it adds position_bias [B, H, T, T], of equal texts, and attention_mask
    [B, 1, T, T], of equal rows: 0, or the lowest number for padding."""
    heads, size = module.num_attention_heads, module.attention_head_size

    def forward(
        states: Tensor, attention_mask: Tensor | None = None, position_bias: Tensor | None = None, **_: Any
    ) -> tuple[Tensor]:
        layers = (module.q, module.k, module.v)
        q, k, v = (layer(states).unflatten(-1, (heads, size)).transpose(1, 2) for layer in layers)
        padding = None if attention_mask is None else attention_mask[:, 0, 0] < 0
        seen = tiled.Seen(False, None, padding, None if position_bias is None else position_bias[:1])
        return (module.o(attention.best(q, k, v, size**-0.5, seen).flatten(2)),)

    return forward
