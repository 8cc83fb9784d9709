"""Linear layers on a CPU by oneDNN with their weights in the order that it multiplies in, for one encoding.

torch's own products read the weights as they lie. Reordered, they are multiplied 3 to 5 % faster in bfloat16 on a Zen 4
core and 12 to 20 % in float32, and a product may end with an activation and another factor, so that a gated MLP writes
its F numbers a token twice in place of four times: docs/experiments.md has the measurements.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

LEAST_TOKENS = 2048
"""Of an encoding that wins the reordering back: it took what is won on some 1,000 tokens."""
MOST_BYTES = 2 * 2**30
"""Of weights that are held twice for it."""
GATED = {"gate_proj", "up_proj", "down_proj", "act_fn"}
"""Parts of transformers' gated MLPs: down_proj(act_fn(gate_proj(x)) * up_proj(x))."""
ACTIVATIONS = {"SiLU": ("swish", ""), "SiLUActivation": ("swish", ""), "GELUTanh": ("gelu", "tanh")}
"""torch's and transformers' classes -> oneDNN's activation and its algorithm. Others are computed as before."""


@contextlib.contextmanager
def linear_layers(backbone: nn.Module, tokens: int) -> Iterator[None]:
    """Within the block the linear layers of a model on a CPU compute with reordered copies of their weights; gradients
    are not computed. A model that is too large, or has too few `tokens` to encode, is left as it is."""
    chosen = [module for module in backbone.modules() if type(module) is nn.Linear]
    size = sum(module.weight.nbytes for module in chosen)
    worth = tokens >= LEAST_TOKENS and size <= MOST_BYTES and all(map(_possible, chosen))
    changed: list[nn.Module] = []
    try:
        for layer in chosen if worth else ():
            _take(layer, _Linear(layer), changed)
        for module in backbone.modules() if worth else ():
            if _is_gated(module):
                _take(module, _gated(module), changed)
        yield
    finally:
        for taken in changed:
            del taken.forward


def _possible(module: nn.Linear) -> bool:
    """Whether oneDNN is there, and multiplies in the dtype of the weights."""
    weight = module.weight
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available() or 0 in weight.shape:
        return False
    half = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32 or bool(half)


def _take(module: nn.Module, forward: Callable[..., Tensor], changed: list[nn.Module]) -> None:
    """Another forward pass for a module that has its class's."""
    if "forward" not in vars(module):
        module.forward = forward
        changed.append(module)


class _Linear:
    """The forward pass of a linear layer."""

    def __init__(self, module: nn.Linear) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach())
        self.bias = None if module.bias is None else module.bias.detach()

    def __call__(self, input: Tensor, activation: tuple[str, str] = ("none", "")) -> Tensor:
        """[.., inputs] -> [.., outputs], through one of oneDNN's activations."""
        name, algorithm = activation
        found: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, name, [], algorithm)
        return found

    def times(self, input: Tensor, factor: Tensor) -> Tensor:
        """The same, times a factor [.., outputs]."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(input, factor, self.weight, self.bias, "mul")
        return found


def _is_gated(module: nn.Module) -> bool:
    """Whether it is a gated MLP whose linear layers are all reordered."""
    parts = dict(module.named_children())
    layers = [part for name, part in parts.items() if name != "act_fn"]
    own = all(isinstance(vars(layer).get("forward"), _Linear) for layer in layers)
    return set(parts) == GATED and own and type(parts["act_fn"]).__name__ in ACTIVATIONS


def _gated(mlp: Any) -> Callable[[Tensor], Tensor]:
    """The forward pass of a gated MLP, with the activation in the one product and the factor in the other."""
    gate, up, down = mlp.gate_proj.forward, mlp.up_proj.forward, mlp.down_proj.forward
    activation = ACTIVATIONS[type(mlp.act_fn).__name__]

    def forward(x: Tensor) -> Tensor:
        found: Tensor = down(up.times(x, gate(x, activation)))
        return found

    return forward
