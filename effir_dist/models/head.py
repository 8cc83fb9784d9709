"""Dense layers between pooling and normalisation: their modules, and their weights in sentence-transformers folders."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from effir_dist.core.errors import InputError
from effir_dist.models.families.base import Dense

PREFIX = "effir_head."
"""How the names of their tensors begin beside a backbone's."""


class DenseLayer(nn.Module):
    """A linear layer and its activation. Names of tensors are those of sentence-transformers."""

    def __init__(self, layer: Dense) -> None:
        super().__init__()
        self.linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias)
        self.activation = _activation(layer.activation_function)

    def forward(self, pooled: Tensor) -> Tensor:
        """[B, in_features] -> [B, out_features]"""
        found: Tensor = self.activation(self.linear(pooled.to(self.linear.weight.dtype)))
        return found


def build_head(layers: Sequence[Dense]) -> nn.Sequential:
    """The layers with random weights. Raises InputError for an activation that is no module of torch."""
    return nn.Sequential(*map(DenseLayer, layers))


def _activation(name: str) -> nn.Module:
    module, _, cls = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), cls)
        activation = found() if isinstance(found, type) and issubclass(found, nn.Module) else None
    except (ImportError, AttributeError, TypeError, ValueError):
        activation = None
    if activation is None:
        raise InputError(f"the module Dense has the activation {name!r}; expected a module of torch without arguments")
    return activation


def head_tensors(head: nn.Module) -> dict[str, Tensor]:
    """The tensors of a head by their names beside a backbone's."""
    return {PREFIX + name: tensor for name, tensor in head.state_dict().items()}


def read_head(head: nn.Sequential, folders: Sequence[Path], dtype: torch.dtype) -> nn.Sequential:
    """Put the weights of N_Dense folders into a head. Raises InputError where they are missing or do not fit."""
    from effir_dist.models.weights import read_tensors

    for layer, folder in zip(head, folders, strict=True):
        tensors = {name: tensor.to(dtype) for name, tensor in read_tensors(folder).items()}
        load_tensors(layer, tensors, folder)
    return head


def load_tensors(module: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    """Put tensors into a module in place of its own. Raises InputError where they do not fit."""
    try:
        module.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the weights in {folder} do not fit its plan and config: {reason}") from None
