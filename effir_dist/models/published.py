"""A checkpoint beside the row of its name, whose sizes were read in a published config: they must be the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from effir_dist.core.errors import InputError
from effir_dist.models.families.base import Backbone, ModelDict
from effir_dist.models.families.registry import family
from effir_dist.models.flops import count_flops
from effir_dist.models.pruning import count_parameters

_LENGTHS = np.array([7, 300])


def check(row: Backbone, config: ModelDict) -> None:
    """Raises InputError where a checkpoint's config has another value than its row, of those that formulas read."""
    expected = _counted(row.config)
    for key in sorted({*row.config, *config}):
        if _counted(_exchanged(row.config, config, key)) != expected:
            raise InputError(
                f"the checkpoint of backbone {row.name!r} has {key} {config.get(key)!r}, its row says "
                f"{row.config.get(key)!r}; pass --model {row.source} to search it as it is"
            )


def _exchanged(ours: ModelDict, theirs: ModelDict, key: str) -> ModelDict:
    """Our config with their value of one key, or without it where they have none."""
    rest = {name: value for name, value in ours.items() if name != key}
    return {**rest, key: theirs[key]} if key in theirs else rest


def _counted(config: ModelDict) -> Any:
    """All that formulas make of a config; the error where they lack a value."""
    try:
        row = family(config)
        kept = [row.saved_bytes(config, 2, 0), row.saved_bytes(config, 4, 128)]
        return row.model_type, row.linear_layers(config), kept, count_parameters(config), count_flops(config, _LENGTHS)
    except InputError as error:
        return str(error)
