"""What a search space says of one operation: its keys in YAML, Optuna's distributions, and what values mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig
from effir_dist.core.values import Json, Point, Suggested
from effir_dist.models.operations.values import Values

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution

    from effir_dist.models.operations.base import Operation, Sizes
    from effir_dist.models.operations.many import Columns, ManySizes
    from effir_dist.models.operations.neuron_order import NeuronOrder

FixedValue = float | tuple[int, ...]
"""What a fixed plan gives for a key: a number, or a list of blocks."""


class DropOrders(Protocol):
    """The importance of sub-layers (`importance.ranking.Importance`)."""

    def drop_order(self, kind: str = "mlp") -> list[int]:
        """All blocks; the first is dropped first."""


@dataclass(frozen=True)
class Known:
    """What turns suggested values into operations."""

    config: RunConfig
    """The trial's settings: the run's, with the suggested ones."""
    importance: DropOrders
    neurons: Mapping[str, np.ndarray | NeuronOrder]
    """[L, F] scores for each ranking, or their order."""


@dataclass(frozen=True)
class Switches:
    """Parameters that say which of a kind go: a yes or no for each, a number of the first ones, or both."""

    order: tuple[int, ...]
    """The blocks; the first is dropped first."""
    limit: int
    """The largest number that goes."""
    names: tuple[str, ...] = ()
    """Of the yes or no for each block of `order`; empty where there is none."""
    count: str = ""
    """Of the number; empty where there is none. With both, a yes turns over what the number says."""


@dataclass(frozen=True)
class SpacePart:
    """What a search space says of one operation; this one varies nothing.

    A subclass holds what was read from `keys`. Without any of them it still stands in every space, as an operation may
    follow from a run's settings.
    """

    keys: ClassVar[tuple[str, ...]] = ()
    """Its keys in a search space."""
    fixed_keys: ClassVar[tuple[str, ...]] = ()
    """Its keys in an entry of `plans`."""

    @classmethod
    def parse(cls, tree: Json, source: str) -> Self:
        """Read those of a space's entries that are `keys`. Raises InputError that names `source` and the key."""
        return cls()

    def to_dict(self) -> Json:
        """Plain data, as `parse` reads it."""
        return {}

    @classmethod
    def parse_fixed(cls, key: str, value: Any, where: str) -> FixedValue:
        """Read one of `fixed_keys`: a number, where a subclass does not say otherwise. Raises InputError for others."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{where} must be a number, got {value!r}")
        return value

    def distributions(self, blocks: int) -> dict[str, BaseDistribution]:
        """Its parameters, in order, for a model of `blocks` blocks."""
        return {}

    def operations(self, suggested: Suggested, sizes: Sizes, known: Known) -> Sequence[Operation]:
        """What suggested values mean. sizes: what the operations before it leave of the model."""
        return ()

    def left(self, columns: Columns, sizes: ManySizes, known: Known) -> ManySizes | None:
        """What is left of many models once `operations` of each were applied. None: the part has no fast way to tell.

        columns: suggested values of P plans. sizes: what the operations before leave. known: of all of them.
        """
        return sizes if type(self).operations is SpacePart.operations else None

    def switches(self, blocks: int, importance: DropOrders) -> list[Switches]:
        """Its parameters that say what goes, so that a sampler draws sets by importance."""
        return []

    def fixed(self, values: Mapping[str, FixedValue], sizes: Sizes, known: Known) -> Sequence[Operation]:
        """What an entry of `plans` means, as `operations`. values: by `fixed_keys`, those that are given."""
        return self.operations({}, sizes, known)

    def unpruned(self, distributions: Mapping[str, BaseDistribution]) -> Point:
        """The values of its parameters that prune nothing, or least. distributions: all of the space's."""
        return {}

    def starts(self, blocks: int, importance: DropOrders) -> list[Point]:
        """What is worth trying first, each time as changes to the unpruned model's values."""
        return []

    def usual(self, blocks: int, importance: DropOrders) -> Point:
        """Its share of a usual plan, which is tried first if several operations have one. Empty where it has none."""
        return {}

    def smallest(self, blocks: int, parameters: Mapping[str, Values]) -> Point:
        """The values that take most away. parameters: the settings that the space varies."""
        return {}

    def check(self, sizes: Sizes, config: RunConfig, parameters: Mapping[str, Values]) -> None:
        """Raises InputError where the space cannot be searched with an unpruned model of these sizes."""

    def count(self, blocks: int) -> int | None:
        """How many different choices it has, at most; None where they are continuous."""
        return 1

    def describe(self, blocks: int) -> list[str]:
        """What may vary, one line each: 'drop_mlp: a set of 0 to 4'."""
        return []
