"""Named checkpoints, and the names that most of the product asks of a model's config."""

from __future__ import annotations

from effir_dist.core.errors import InputError
from effir_dist.models.families.base import Backbone, ModelDict, block_count, head_size, mlp_width
from effir_dist.models.families.registry import BACKBONES, FAMILIES, SHORT_NAMES, family

__all__ = [
    "BACKBONES",
    "FAMILIES",
    "SHORT_NAMES",
    "ModelDict",
    "backbone",
    "block_count",
    "family",
    "head_size",
    "mlp_width",
]


def backbone(name: str) -> Backbone:
    """The row of a named backbone. Raises InputError, with the known names, for any other."""
    key = SHORT_NAMES.get(name, name)
    if key not in BACKBONES:
        known = sorted({*BACKBONES, *SHORT_NAMES})
        raise InputError(f"unknown backbone {name!r}; known: {', '.join(known)} (or pass --model PATH)")
    return BACKBONES[key]
