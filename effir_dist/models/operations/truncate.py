"""Truncating embeddings: their first numbers stay, as Matryoshka models are cut. No parameters go, an index shrinks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig
from effir_dist.core.values import Json, Point, Suggested
from effir_dist.models.families.base import ModelDict
from effir_dist.models.operations.base import Operation, Sizes
from effir_dist.models.operations.space_part import Known, SpacePart
from effir_dist.models.operations.values import Values

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution
    from torch import nn

    from effir_dist.models.encoder import Encoder
    from effir_dist.models.operations.many import Columns, ManySizes

SETTING = "model.dimension"
"""The setting that asks for it; a space may vary it as any other."""


@dataclass(frozen=True)
class Truncate(Operation):
    """Keep the first numbers of every embedding, before it is normalised."""

    dimension: int
    """Numbers kept."""

    kind: ClassVar[str] = "truncate"
    order: ClassVar[int] = 30
    in_facts: ClassVar[bool] = True

    def check(self, sizes: Sizes) -> None:
        most = sizes.dimension - 1
        if not 0 < self.dimension <= most:
            raise InputError(f"the plan cuts embeddings to {self.dimension} dimensions; expected 1 to {most}")

    def left(self, sizes: Sizes) -> Sizes:
        return dataclasses.replace(sizes, truncated=self.dimension)

    def apply(self, model: nn.Module, config: ModelDict, neurons: np.ndarray | None) -> None:
        """The model keeps its hidden size: the encoder cuts what comes out of it."""

    def apply_to_encoder(self, encoder: Encoder) -> None:
        encoder.settings = dataclasses.replace(encoder.settings, dimension=self.dimension)

    def describe(self, sizes: Sizes) -> str:
        return f"{self.dimension} dimensions"

    def to_json(self) -> Json:
        return {"dimension": self.dimension}

    @classmethod
    def from_json(cls, tree: Json) -> Truncate:
        return cls(int(tree["dimension"]))


def truncated(dimension: int, sizes: Sizes) -> Sequence[Truncate]:
    """What `model.dimension` asks of a model of these sizes: nothing where it is 0 or not below the model's own."""
    return [Truncate(dimension)] if 0 < dimension < sizes.dimension else []


@dataclass(frozen=True)
class TruncatePart(SpacePart):
    """It has no key of its own: `model.dimension` is a setting of the run, which a space may vary."""

    def operations(self, suggested: Suggested, sizes: Sizes, known: Known) -> Sequence[Operation]:
        return truncated(known.config.model.dimension, sizes)

    def left(self, columns: Columns, sizes: ManySizes, known: Known) -> ManySizes:
        import numpy as np

        asked = known.config.model.dimension
        return sizes.replace(truncated=np.where((asked > 0) & (asked < sizes.dimension), asked, sizes.truncated))

    def unpruned(self, distributions: Mapping[str, BaseDistribution]) -> Point:
        if SETTING not in distributions:
            return {}
        values: Any = distributions[SETTING]
        if not hasattr(values, "choices"):
            return {SETTING: values.high}
        return {SETTING: 0 if 0 in values.choices else max(values.choices)}

    def smallest(self, blocks: int, parameters: Mapping[str, Values]) -> Point:
        least = min(_dimensions(parameters), key=lambda dimension: dimension or math.inf)
        return {SETTING: least} if least else {}

    def check(self, sizes: Sizes, config: RunConfig, parameters: Mapping[str, Values]) -> None:
        own = sizes.dimension
        if max(config.model.dimension, *_dimensions(parameters)) > own:
            raise InputError(f"model.dimension is beyond {own}, the model's own; name smaller ones, or 0 (all)")


def _dimensions(parameters: Mapping[str, Values]) -> list[int]:
    """The dimensions that a space varies, or the ends of their range; 0 where it varies none."""
    values = parameters.get(SETTING, (0,))
    return [int(value) for value in (values if isinstance(values, tuple) else (values.low, values.high))]


Truncate.space = TruncatePart
