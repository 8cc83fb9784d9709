"""What a block computes beside its linear layers, in fewer passes over memory: attention, and norms by mean square.

Modules are known by their code, not by their names: whatever computes exactly what Llama's norm does is taken for it.
Any other stays as it is. Nothing here keeps anything of a model's weights.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from effir_dist.models import attention, tiled


@contextlib.contextmanager
def fast_blocks(backbone: Any) -> Iterator[None]:
    """Within the block a model on a CPU computes the same faster: in evaluation mode, without gradients, and texts that
    are padded on the right or packed (the attention of packed texts is `packed.attention`'s, to be entered as well)."""
    changed = []
    on_cpu = next(backbone.parameters()).device.type == "cpu"
    try:
        for module in backbone.modules() if on_cpu else ():
            kind: Any = type(module)
            make = _known().get(_code(kind))
            if make and "forward" not in vars(module):
                module.forward = make(module)
                changed.append(module)
        with attention.for_encoding(backbone):
            yield
    finally:
        for module in changed:
            del module.forward


@functools.cache
def _known() -> dict[Any, Callable[[Any], Callable[..., Any]]]:
    """Code of a class's forward pass -> what makes another for a module of it."""
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention
    from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

    return {
        _code(LlamaRMSNorm): _rounded_norm,
        _code(Olmo2RMSNorm): lambda norm: _exact_norm(norm, norm.variance_epsilon, 0.0),
        _code(Gemma2RMSNorm): lambda norm: _exact_norm(norm, norm.eps, 1.0),
        _code(MPNetSelfAttention): _biased_attention,
    }


@functools.cache
def _code(kind: Any) -> Any:
    """What a class computes: equal for classes whose methods are equal but for the names of variables."""
    codes = [inspect.unwrap(method).__code__ for name in ("forward", "_norm") if (method := vars(kind).get(name))]
    return tuple((code.co_code, code.co_names, code.co_consts) for code in codes)


def _root_mean_square(states: Tensor, epsilon: float) -> Tensor:
    """[.., D] -> [.., 1] float32: 1 / sqrt(mean of squares + epsilon)."""
    norm = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=torch.float32)
    return norm.square_().div_(states.shape[-1]).add_(epsilon).rsqrt_()


def _scaled(states: Tensor, epsilon: float) -> Tensor:
    """[.., D] -> the same of mean square 1, in float32."""
    exact = states.float()
    scale = _root_mean_square(exact, epsilon)
    return exact * scale if exact is states else exact.mul_(scale)


def _rounded_norm(norm: Any) -> Callable[[Tensor], Tensor]:
    """Llama's: rounded to the states' dtype before it is multiplied by the weight."""

    def forward(states: Tensor) -> Tensor:
        found = _scaled(states, norm.variance_epsilon).to(states.dtype)
        return found.mul_(norm.weight) if norm.weight.dtype == states.dtype else norm.weight * found

    return forward


def _exact_norm(norm: Any, epsilon: float, offset: float) -> Callable[[Tensor], Tensor]:
    """OLMo 2's and Gemma's: multiplied in float32 by the weight (plus 1), then rounded."""

    def forward(states: Tensor) -> Tensor:
        return _scaled(states, epsilon).mul_(norm.weight.float() + offset).to(states.dtype)

    return forward


def _biased_attention(module: Any) -> Callable[..., Any]:
    """MPNet's: to the scores it adds position_bias [B, H, T, T], of equal texts, and attention_mask [B, 1, T, T], of
    equal rows: 0, or the lowest number for padding."""
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
