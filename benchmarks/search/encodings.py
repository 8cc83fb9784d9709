"""How suggested values mean a plan: search spaces of the product, and one that only the replay has (`priorities`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.search.outcomes import Table
from benchmarks.search.plans import Point, point
from effir_dist.core.settings import RunConfig
from effir_dist.core.values import Point as Values
from effir_dist.core.values import Suggested
from effir_dist.models.operations.base import Sizes
from effir_dist.models.operations.drop import Drop, DropPart, keeps_norms
from effir_dist.models.operations.narrow import NarrowPart
from effir_dist.models.operations.space_part import DropOrders, Known, Switches
from effir_dist.search.strategy import space_file
from effir_dist.search.strategy.space import Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from effir_dist.models.operations.many import Columns, ManySizes

LAYERS = {"set": "subset", "prefix": "top_k", "flips": "top_k_flips", "priorities": "top_k"}
"""Encoding of the layers -> `layers` of a search space."""
WIDTHS = ("global", "group")
"""One width ratio for all MLPs that stay, or one a group of blocks."""


@dataclass(frozen=True)
class PriorityPart(DropPart):
    """How many are dropped, and a priority for each block: those of the lowest go first."""

    def distributions(self, blocks: int) -> dict[str, BaseDistribution]:
        from optuna.distributions import FloatDistribution

        found = super().distributions(blocks)
        kinds = [name.removeprefix("drop_") for name in found]
        return found | {f"priority_{k}.{b}": FloatDistribution(0.0, 1.0) for k in kinds for b in range(blocks)}

    def operations(self, suggested: Suggested, sizes: Sizes, known: Known) -> Sequence[Drop]:
        gone = {}
        for kind in ("mlp", "attention", "block"):
            count = int(suggested.get(f"drop_{kind}", 0))
            order = sorted(range(len(sizes.widths)), key=lambda b: suggested.get(f"priority_{kind}.{b}", 0.0))
            gone[kind] = order[: min(count, self.limit(kind, len(sizes.widths)))]
        kept = keeps_norms(sizes.config, known.config.prune.keep_norms)
        mlp, attention = ((*gone[kind], *gone["block"]) for kind in ("mlp", "attention"))
        return [Drop(mlp, attention, kept)]

    def left(self, columns: Columns, sizes: ManySizes, known: Known) -> None:
        """It has no fast way to tell."""

    def switches(self, blocks: int, importance: DropOrders) -> list[Switches]:
        return []

    def unpruned(self, distributions: Mapping[str, BaseDistribution]) -> Values:
        """Blocks by their number; where importance is known, `starts` puts it in place of that."""
        names = [name for name in distributions if name.startswith("priority_")]
        return {**super().unpruned(distributions), **{n: _place(int(n.split(".")[1]), len(names)) for n in names}}

    def starts(self, blocks: int, importance: DropOrders) -> list[Values]:
        kinds = list(super().distributions(blocks))
        orders = {kind: importance.drop_order(kind.removeprefix("drop_")) for kind in kinds}
        priorities: Values = {
            f"priority_{kind.removeprefix('drop_')}.{block}": _place(place, blocks)
            for kind, order in orders.items()
            for place, block in enumerate(order)
        }
        return [{**priorities, **start} for start in super().starts(blocks, importance)]

    def usual(self, blocks: int, importance: DropOrders) -> Values:
        starts = self.starts(blocks, importance)
        return {**(starts[0] if starts else {}), **super().usual(blocks, importance)}


def _place(place: int, of: int) -> float:
    return (place + 0.5) / of


@dataclass(frozen=True)
class Encoding:
    """Layers as `set`, `prefix`, `flips` or `priorities`; widths `global` or a ratio a `group`."""

    layers: str
    widths: str

    def groups(self, table: Table) -> int:
        """How many width ratios there are."""
        return table.groups if self.widths == "group" else 1

    def space(self, table: Table) -> Space:
        """What may vary of a table's model."""
        own = table.space
        width = {**own["width_ratio"], "groups": self.groups(table)}
        tree = {**own, "layers": LAYERS[self.layers], "width_ratio": width}
        space = space_file.parse_space(tree, "replay")
        if self.layers != "priorities":
            return space
        parts = [PriorityPart(p.maximum, p.layers) if isinstance(p, DropPart) else p for p in space.parts]
        return dataclasses.replace(space, parts=tuple(parts))


def point_of(space: Space, suggested: Suggested, table: Table) -> Point:
    """The point of suggested values: what is dropped before widths are chosen, and the ratios."""
    drop, narrow = Drop(), NarrowPart()
    for part in space.parts:
        if isinstance(part, DropPart):
            (drop,) = part.operations(suggested, Sizes.of(table.model_config), Known(RunConfig(), table.importance, {}))
        if isinstance(part, NarrowPart):
            narrow = part
    return point(drop.mlp, [round(float(suggested[name]), 6) for name in narrow.names], table.blocks, drop.attention)
