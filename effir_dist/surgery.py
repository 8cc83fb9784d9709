"""The forward pass of a block without one of its sub-layers: subclasses of transformers' own blocks, made on demand."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from effir_dist.backbones import FAMILIES, Family


class _PreNorm(nn.Module):
    """x + F(norm(x)) for the sub-layers that are left; the residual passes straight through the others."""

    row: Family
    without_attention: bool
    without_mlp: bool

    def forward(self, hidden_states: torch.Tensor, **options: Any) -> torch.Tensor:
        """[B, T, D] -> [B, T, D]."""
        if not self.without_attention:
            attention, norm = self.row.attention
            output = getattr(self, attention)(getattr(self, norm)(hidden_states), **options)[0]
            hidden_states = hidden_states + output
        if not self.without_mlp:
            mlp, norm = self.row.mlp
            hidden_states = hidden_states + getattr(self, mlp)(getattr(self, norm)(hidden_states))
        return hidden_states


class _PostNorm(nn.Module):
    """BERT: a sub-layer is norm(x + F(x)) as a whole, so without it x stays as it is."""

    row: Family
    without_attention: bool
    without_mlp: bool

    def forward(self, hidden_states: torch.Tensor, attention_mask: Any = None, *_: Any, **options: Any) -> torch.Tensor:
        """[B, T, D] -> [B, T, D]."""
        if not self.without_attention:
            hidden_states = getattr(self, self.row.attention[0])(hidden_states, attention_mask, **options)[0]
        if not self.without_mlp:
            intermediate, output = self.row.mlp
            hidden_states = getattr(self, output)(getattr(self, intermediate)(hidden_states), hidden_states)
        return hidden_states


@functools.cache
def _subclass(base: type[nn.Module], model_type: str, attention: bool, mlp: bool) -> type[nn.Module]:
    row = FAMILIES[model_type]
    forward = _PreNorm if row.pre_norm else _PostNorm
    members = {"row": row, "without_attention": attention, "without_mlp": mlp}
    return type(f"Pruned{base.__name__}", (forward, base), members)


def pruned_block_class(base: type[nn.Module], row: Family, attention: bool, mlp: bool) -> type[nn.Module]:
    """The class of a block of class `base` whose attention or MLP is gone."""
    return _subclass(base, row.model_type, attention, mlp)  # type: ignore[arg-type]
