"""Modules of transformers' blocks that ours may compute in another way, known by their code and not by their names.

What computes exactly as Llama's norm does is taken for one, whatever its family; any other module is left as it is.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

Forward = Callable[..., Any]


@dataclass(frozen=True)
class Norm:
    """A norm by mean square: x / sqrt(mean(x^2) + epsilon) * (weight + offset), computed in float32."""

    epsilon: float
    offset: float
    rounded: bool
    """Whether it is rounded to the states' dtype before it is multiplied by the weight."""

    @property
    def casting_mode(self) -> str:
        """How liger-kernel calls that."""
        return "llama" if self.rounded else "gemma"


@contextlib.contextmanager
def replaced(backbone: nn.Module, make: Callable[[Any], Forward | None]) -> Iterator[None]:
    """Within the block every module for which `make` has another forward pass computes by that."""
    changed: list[Any] = []
    try:
        for module in backbone.modules():
            forward = None if "forward" in vars(module) else make(module)
            if forward is not None:
                module.forward = forward
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward


def norm_of(module: Any) -> Norm | None:
    """The norm that a module is; None where it is none that is known."""
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

    if _same(module, LlamaRMSNorm):
        return Norm(module.variance_epsilon, 0.0, rounded=True)
    if _same(module, Olmo2RMSNorm):
        return Norm(module.variance_epsilon, 0.0, rounded=False)
    return Norm(module.eps, 1.0, rounded=False) if _same(module, Gemma2RMSNorm) else None


def is_gated_mlp(module: Any) -> bool:
    """Whether it is down_proj(silu(gate_proj(x)) * up_proj(x))."""
    from torch import nn
    from transformers.activations import SiLUActivation
    from transformers.models.llama.modeling_llama import LlamaMLP

    return _same(module, LlamaMLP) and isinstance(module.act_fn, (nn.SiLU, SiLUActivation))


def is_biased_attention(module: Any) -> bool:
    """Whether it is MPNet's attention."""
    from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

    return _same(module, MPNetSelfAttention)


def with_rotation(module: Any, rotate: Callable[..., Any]) -> Forward | None:
    """The forward pass of an attention that turns queries and keys as Llama's does, by `rotate` instead; None of any
    other module. rotate(q, k, cos, sin) is transformers' `apply_rotary_pos_emb`."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    name, forward = apply_rotary_pos_emb.__name__, inspect.unwrap(type(module).forward)
    its = getattr(sys.modules[type(module).__module__], name, None)
    if name not in forward.__code__.co_names or its is None or _body(its) != _body(apply_rotary_pos_emb):
        return None
    scope = {**forward.__globals__, name: rotate}
    copy = types.FunctionType(forward.__code__, scope, forward.__name__, forward.__defaults__, forward.__closure__)
    copy.__kwdefaults__ = forward.__kwdefaults__
    return types.MethodType(copy, module)


def _same(module: Any, kind: type) -> bool:
    """Whether a module's class has the methods of `kind`, but for the names of variables."""
    own: Any = type(module)
    return bool(_code(own) == _code(kind))


@functools.cache
def _code(kind: Any) -> Any:
    return tuple(_body(method) for name in ("forward", "_norm") if (method := vars(kind).get(name)))


def _body(function: Any) -> Any:
    code = inspect.unwrap(function).__code__
    return code.co_code, code.co_names, code.co_consts
