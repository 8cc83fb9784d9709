"""Fused kernels of `liger-kernel` on a GPU, where it is installed: norms, rotary positions and gated activations.

Its own patches expect every norm and every MLP of a model; these take what a pruned model has, module by module.
Forward and backward passes are its autograd functions, and compute what transformers' code does.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from effir_dist.models.families import known_blocks


@dataclass(frozen=True)
class Kernels:
    """What is taken of liger-kernel (0.5 to 0.8): the `apply` of its autograd functions."""

    norm: Callable[..., Tensor]
    """(states, weight, epsilon, offset, casting mode, whether the gradient is written over) -> states"""
    rotate: Callable[..., tuple[Tensor, Tensor]]
    """(queries, keys, cos, sin) -> both, turned in place"""
    silu_times: Callable[[Tensor, Tensor], Tensor]
    """(gate, up) -> silu(gate) * up"""


def installed() -> Kernels | None:
    """liger-kernel's; None where it is not installed."""
    if importlib.util.find_spec("liger_kernel") is None:
        return None
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction
    from liger_kernel.ops.rope import LigerRopeFunction
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    return Kernels(LigerRMSNormFunction.apply, LigerRopeFunction.apply, LigerSiLUMulFunction.apply)


@contextlib.contextmanager
def fused_blocks(backbone: Any) -> Iterator[None]:
    """Within the block a model on a GPU computes by liger-kernel what that has, to encode or to train; not where its
    blocks are compiled, which fuses by itself. Without liger-kernel, or on a CPU, all stays as it is."""
    kernels = installed() if next(backbone.parameters()).is_cuda else None
    with fused(backbone, kernels) if kernels else contextlib.nullcontext():
        yield


def fused(backbone: nn.Module, kernels: Kernels) -> contextlib.AbstractContextManager[None]:
    """Within the block the modules that are known compute by `kernels`."""
    return known_blocks.replaced(backbone, lambda module: _forward_of(module, kernels))


def _forward_of(module: Any, kernels: Kernels) -> Callable[..., Any] | None:
    if norm := known_blocks.norm_of(module):
        options = (norm.epsilon, norm.offset, norm.casting_mode, False)
        return lambda states: kernels.norm(states, module.weight, *options)
    if known_blocks.is_gated_mlp(module):
        return lambda states: module.down_proj(kernels.silu_times(module.gate_proj(states), module.up_proj(states)))
    return known_blocks.with_rotation(module, lambda q, k, cos, sin, **_: kernels.rotate(q, k, cos, sin))
