"""Sizes of many plans at once, as arrays: a sampler weighs hundreds of plans for each trial, and builds one of them.

P plans of one model. What is said here of each equals what its plan says (`Operation.left`, `base.Sizes`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effir_dist.models.families.base import ModelDict, block_count, dense_layers, dimension, mlp_width
from effir_dist.models.families.registry import family
from effir_dist.models.operations.base import Sizes, kept_norm_parameters

if TYPE_CHECKING:
    import numpy as np

Columns = Mapping[str, "np.ndarray"]
"""Search parameter -> [P] its values."""


@dataclass(frozen=True)
class ManySizes:
    """How large the parts of P pruned models are."""

    config: ModelDict
    widths: np.ndarray
    """[P, L] neurons of each MLP; 0 where it is dropped."""
    attention: np.ndarray
    """[P, L] whether a block has its attention."""
    truncated: np.ndarray
    """[P] numbers kept of an embedding; 0 keeps all."""
    keep_norms: bool = False
    """Whether dropped sub-layers leave the norms behind them; a run's setting, so of all plans."""

    @staticmethod
    def of(config: ModelDict, count: int) -> ManySizes:
        """The unpruned model's, so many times."""
        import numpy as np

        shape = (count, block_count(config))
        return ManySizes(config, np.full(shape, mlp_width(config)), np.ones(shape, bool), np.zeros(count, int))

    @staticmethod
    def one(sizes: Sizes) -> ManySizes:
        """Of a single plan."""
        import numpy as np

        widths, attention, truncated = (np.array([each]) for each in (sizes.widths, sizes.attention, sizes.truncated))
        return ManySizes(sizes.config, widths, attention, truncated, sizes.keep_norms)

    @property
    def full_width(self) -> int:
        """F of an MLP that was not narrowed."""
        return mlp_width(self.config)

    @property
    def dimension(self) -> np.ndarray:
        """[P] numbers of an embedding."""
        import numpy as np

        return np.where(self.truncated > 0, self.truncated, dimension(self.config))

    def replace(self, **changes: Any) -> ManySizes:
        """The same with other arrays."""
        return dataclasses.replace(self, **changes)

    def block_parameters(self) -> np.ndarray:
        """[P] parameters of all blocks. A family's formula of its MLP is arithmetic: it takes an array of widths."""
        import numpy as np

        row = family(self.config)
        mlps = np.where(self.widths > 0, row.mlp_parameters(self.config, self.widths), 0).sum(axis=1)  # type: ignore[arg-type]
        attentions = row.attention_parameters(self.config) * self.attention.sum(axis=1)
        halved = (self.attention != (self.widths > 0)).sum(axis=1)
        norms = kept_norm_parameters(self.config, self.keep_norms) * halved
        return np.asarray(mlps + attentions + norms - row.first_attention_saves(self.config) * self.attention[:, 0])

    def parameters(self) -> np.ndarray:
        """[P] parameters of the model without LM head."""
        dense = sum(layer.parameters for layer in dense_layers(self.config))
        return self.block_parameters() + family(self.config).other_parameters(self.config) + dense


def rounded_of_many(widths: np.ndarray, staying: np.ndarray, multiple: int, full: int) -> np.ndarray:
    """`narrow.rounded` of each row of [P, L], those MLPs alone that `staying` [P, L] says."""
    import numpy as np

    if multiple == 1:
        return widths
    units, lost = np.divmod(widths, multiple)
    missing = np.rint(widths.sum(axis=1) / multiple).astype(int) - units.sum(axis=1)
    room = ((units + 1) * multiple <= full) & staying
    order = np.argsort(np.where(room, -lost, 1), axis=1, kind="stable")
    more = np.take_along_axis(room, order, axis=1) & (np.arange(widths.shape[1]) < np.maximum(0, missing)[:, None])
    added = np.zeros_like(units)
    np.put_along_axis(added, order, more.astype(units.dtype), axis=1)
    return np.asarray((units + added) * multiple)
