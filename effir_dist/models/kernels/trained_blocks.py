"""Norms and rotary positions of a model that trains: each one step of the backward pass, which keeps what it needs.

transformers' code leaves a dozen steps of a norm, and for each half of a rotation a tensor of zeros to add to. On a GPU
liger-kernel's do the same where it is installed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from effir_dist.models.families.known_blocks import Norm, norm_of, replaced, with_rotation
from effir_dist.models.kernels.fused_blocks import fused_blocks


@contextlib.contextmanager
def trained_blocks(backbone: Any) -> Iterator[None]:
    """Within the block a model trains by the steps below on a CPU, and by `fused_blocks` on a GPU. Modules that are not
    known stay as they are."""
    on_cpu = next(backbone.parameters()).device.type == "cpu"
    with replaced(backbone, _forward_of) if on_cpu else fused_blocks(backbone):
        yield


def _forward_of(module: Any) -> Callable[..., Any] | None:
    if norm := norm_of(module):
        return lambda states: _Normalise.apply(states, module.weight, norm)
    return with_rotation(module, lambda q, k, cos, sin, **_: (_turned(q, cos, sin), _turned(k, cos, sin)))


def _turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    found: Tensor = _Turn.apply(states, cos.unsqueeze(1), sin.unsqueeze(1))
    return found


class _Normalise(torch.autograd.Function):
    """x -> r x (weight + offset), r = 1 / sqrt(mean(x^2) + epsilon), in float32; keeps x and r."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, norm: Norm) -> Tensor:
        exact = states.float()
        length = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
        scale = length.square_().div_(states.shape[-1]).add_(norm.epsilon).rsqrt_()
        ctx.save_for_backward(states, weight, scale)
        ctx.norm = norm
        unit = exact * scale
        if norm.rounded:
            return unit.to(states.dtype) * weight
        return unit.mul_(weight.float() + norm.offset).to(states.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """u = r x, g = gradient (weight + offset): r (g - u mean(g u)) for x, and sum(gradient u) for the weight."""
        states, weight, scale = ctx.saved_tensors
        factor, unit = weight.float() + ctx.norm.offset, states.float() * scale
        gradient = gradients[0].to(torch.float32, copy=True)
        both = gradient * unit
        shared = (both @ factor).div_(len(factor)).unsqueeze(-1)
        of_weight = both.flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        of_states = gradient.mul_(factor).addcmul_(unit, shared, value=-1).mul_(scale)
        return of_states.to(states.dtype), of_weight, None


class _Turn(torch.autograd.Function):
    """Rotary positions [B, H, T, d]: (a, b) -> (a cos - b sin, b cos + a sin); of the states nothing is kept."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(states * cos, states * sin, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turn(gradients[0] * cos, gradients[0] * sin, -1), None, None


def _turn(straight: Tensor, crossed: Tensor, way: int) -> Tensor:
    """(a, b), (c, e) -> (a - e, b + c), in place; way -1: (a + e, b - c)."""
    half = straight.shape[-1] // 2
    straight[..., :half].sub_(crossed[..., half:], alpha=way)
    straight[..., half:].add_(crossed[..., :half], alpha=way)
    return straight
