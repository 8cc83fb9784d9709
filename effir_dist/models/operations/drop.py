"""Dropping sub-layers: a block goes on without its MLP or its attention."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from effir_dist.core.errors import InputError
from effir_dist.core.values import Json, Point, Suggested
from effir_dist.models.families.base import ModelDict
from effir_dist.models.families.registry import family
from effir_dist.models.operations.base import Operation, Sizes, check_blocks
from effir_dist.models.operations.space_part import DropOrders, FixedValue, Known, SpacePart, Switches
from effir_dist.models.operations.values import Values

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution
    from torch import nn

    from effir_dist.models.operations.many import Columns, ManySizes

SHORT = {"mlp": "MLP", "attention": "attn"}
"""Sub-layer -> its name in plots."""
KINDS = ("mlp", "attention", "block")
"""What a search space may drop; a block is its attention and its MLP."""
KEYS = {f"drop_{kind}": kind for kind in KINDS}
SUBSET, TOP_K, TOP_K_FLIPS = "subset", "top_k", "top_k_flips"
LAYERS = {
    SUBSET: "any subset",
    TOP_K: "the least important ones",
    TOP_K_FLIPS: "the least important ones, with flips",
}
"""How dropped ones are suggested. `subset`: a yes or no for each block. `top_k`: a number k, and the k least important
are dropped. `top_k_flips`: k, and a yes or no for each block that turns over what k says of it."""


@dataclass(frozen=True)
class Drop(Operation):
    """Remove the MLPs of some blocks and the attentions of some."""

    mlp: tuple[int, ...] = ()
    """The blocks that lose their MLP."""
    attention: tuple[int, ...] = ()
    """The blocks that lose their attention."""
    keep_norms: bool = False
    """Whether the norm behind the sum of a dropped sub-layer stays, in families with norms there: norm(x) takes the
    place of norm(x + F(x)). A block that loses both sub-layers loses both norms. False in others, and where a plan is
    of a version that dropped those norms as well."""

    kind: ClassVar[str] = "drop"
    order: ClassVar[int] = 10
    in_facts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in SHORT:
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))

    @property
    def empty(self) -> bool:
        return not self.mlp and not self.attention

    def merged(self, other: Operation) -> Operation:
        assert isinstance(other, Drop)
        if self.keep_norms != other.keep_norms:
            raise InputError(f"a plan keeps the norms of all dropped sub-layers or of none, got {self} and {other}")
        return Drop(self.mlp + other.mlp, self.attention + other.attention, self.keep_norms)

    def check(self, sizes: Sizes) -> None:
        check_blocks((*self.mlp, *self.attention), sizes)
        if self.keep_norms and not keeps_norms(sizes.config):
            raise InputError(
                f"the plan keeps norms behind dropped sub-layers, but {sizes.config['model_type']} has none there; "
                "leave out keep_norms"
            )

    def left(self, sizes: Sizes) -> Sizes:
        mlp, attentions = {*self.mlp}, {*self.attention}
        widths = (0 if block in mlp else width for block, width in enumerate(sizes.widths))
        attention = (here and block not in attentions for block, here in enumerate(sizes.attention))
        return dataclasses.replace(sizes, widths=tuple(widths), attention=tuple(attention), keep_norms=self.keep_norms)

    def apply(self, model: nn.Module, config: ModelDict, neurons: np.ndarray | None) -> None:
        from effir_dist.models.modeling_effir import drop

        row = family(config)
        blocks: Any = model.get_submodule(row.blocks)
        for block in sorted({*self.mlp, *self.attention}):
            drop(blocks[block], row, block in self.attention, block in self.mlp, self.keep_norms)

    def describe(self, sizes: Sizes) -> str:
        counts = {short: len(getattr(self, name)) for name, short in SHORT.items()}
        return ", ".join(f"-{count} {short}" for short, count in counts.items() if count)

    def to_json(self) -> Json:
        kept = {"keep_norms": True} if self.keep_norms else {}
        return {"mlp": list(self.mlp), "attention": list(self.attention), **kept}

    @classmethod
    def from_json(cls, tree: Json) -> Drop:
        """Versions that dropped the norms behind sub-layers wrote nothing of them."""
        mlp, attention = (tuple(int(block) for block in tree[name]) for name in SHORT)
        keep_norms = tree.get("keep_norms", False)
        if not isinstance(keep_norms, bool):
            raise ValueError(f"keep_norms must be true or false, got {keep_norms!r}")
        return cls(mlp, attention, keep_norms)


def keeps_norms(config: ModelDict, wanted: bool = True) -> bool:
    """Whether a dropped sub-layer of a model leaves its norm: where that is `wanted` (`prune.keep_norms`), and the norm
    is behind the sum."""
    return wanted and bool(family(config).norms_behind)


def dropped(suggested: Suggested, kind: str, limit: int, importance: DropOrders) -> list[int]:
    """The blocks that lose a kind: those suggested, at most `limit` of them, the most important ones spared.

    Suggested are so many of the least important ones (`drop_KIND`), and yes or no for each block, which turns over what
    the number says of it (`drop_KIND.BLOCK`); either may be missing.
    """
    prefix, order = f"drop_{kind}.", importance.drop_order(kind)
    turned = {int(name.removeprefix(prefix)) for name, drop in suggested.items() if name.startswith(prefix) and drop}
    chosen = turned ^ set(order[: int(suggested.get(f"drop_{kind}", 0))])
    return sorted([block for block in order if block in chosen][:limit])


def _gone(columns: Columns, kind: str, limit: int, importance: DropOrders, sizes: ManySizes) -> np.ndarray:
    """[P, L] which blocks lose a kind: `dropped` of each plan."""
    import numpy as np

    gone = np.zeros(sizes.widths.shape, bool)
    if not limit:
        return gone
    order = importance.drop_order(kind)
    for place, block in enumerate(order):  # by importance first
        if (named := columns.get(f"drop_{kind}.{block}")) is not None:
            gone[:, place] = named
    if (count := columns.get(f"drop_{kind}")) is not None:
        gone ^= np.arange(len(order)) < count.astype(int)[:, None]
    gone &= gone.cumsum(axis=1) <= limit
    return gone[:, np.argsort(order)]


@dataclass(frozen=True)
class DropPart(SpacePart):
    """`drop_mlp: {max: 4}`, `drop_attention`, `drop_block`, and `layers`, how those are suggested."""

    maximum: dict[str, float] = field(default_factory=dict)
    """Kind -> the largest number of them to drop; below 1, a share of the blocks."""
    layers: str = SUBSET
    """One of `LAYERS`."""

    keys: ClassVar[tuple[str, ...]] = (*KEYS, "layers")
    fixed_keys: ClassVar[tuple[str, ...]] = tuple(KEYS)

    @classmethod
    def parse(cls, tree: Json, source: str) -> DropPart:
        maximum = {KEYS[key]: _maximum(f"{source}: {key}", value) for key, value in tree.items() if key in KEYS}
        layers = tree.get("layers", SUBSET)
        if layers not in LAYERS:
            raise InputError(f"{source}: layers must be one of {', '.join(LAYERS)}, got {layers!r}")
        if layers != SUBSET and not maximum:
            raise InputError(f"{source}: `layers` says how those of drop_mlp and the like are suggested; add drop_mlp")
        return cls(maximum, layers)

    def to_dict(self) -> Json:
        tree: Json = {f"drop_{kind}": {"max": value} for kind, value in self.maximum.items()}
        return tree if self.layers == SUBSET else {**tree, "layers": self.layers}

    @classmethod
    def parse_fixed(cls, key: str, value: Any, where: str) -> FixedValue:
        """Which blocks, or how many (below 1, a share of the blocks): then the least important ones."""
        if isinstance(value, list) and all(type(block) is int and block >= 0 for block in value):
            return tuple(value)
        if isinstance(value, dict | list):
            raise InputError(f"{where} must be a count, a share below 1 or a list of blocks as [0, 5], got {value!r}")
        return _maximum(where, {"max": value})

    def limit(self, kind: str, blocks: int) -> int:
        """The largest number of a kind to drop in a model of `blocks` blocks."""
        return _count(self.maximum.get(kind, 0), blocks)

    def distributions(self, blocks: int) -> dict[str, BaseDistribution]:
        from optuna.distributions import CategoricalDistribution, IntDistribution

        found: dict[str, BaseDistribution] = {}
        for kind in KINDS:
            limit = self.limit(kind, blocks)
            if limit and self.layers != SUBSET:
                found[f"drop_{kind}"] = IntDistribution(0, limit)
            if limit and self.layers != TOP_K:
                found.update({f"drop_{kind}.{i}": CategoricalDistribution([False, True]) for i in range(blocks)})
        return found

    def operations(self, suggested: Suggested, sizes: Sizes, known: Known) -> Sequence[Drop]:
        blocks, order = len(sizes.widths), known.importance
        gone = {kind: dropped(suggested, kind, self.limit(kind, blocks), order) for kind in KINDS}
        return [_drop(gone, keeps_norms(sizes.config, known.config.prune.keep_norms))]

    def left(self, columns: Columns, sizes: ManySizes, known: Known) -> ManySizes:
        blocks = sizes.widths.shape[1]
        gone = {kind: _gone(columns, kind, self.limit(kind, blocks), known.importance, sizes) for kind in KINDS}
        return sizes.replace(
            widths=sizes.widths * ~(gone["mlp"] | gone["block"]),
            attention=sizes.attention & ~(gone["attention"] | gone["block"]),
            keep_norms=keeps_norms(sizes.config, known.config.prune.keep_norms),
        )

    def switches(self, blocks: int, importance: DropOrders) -> list[Switches]:
        found = []
        for kind in (kind for kind in KINDS if self.limit(kind, blocks)):
            order = tuple(importance.drop_order(kind))
            names = () if self.layers == TOP_K else tuple(f"drop_{kind}.{block}" for block in order)
            count = "" if self.layers == SUBSET else f"drop_{kind}"
            found.append(Switches(order, self.limit(kind, blocks), names, count))
        return found

    def fixed(self, values: Mapping[str, FixedValue], sizes: Sizes, known: Known) -> Sequence[Drop]:
        blocks, gone = len(sizes.widths), dict[str, Iterable[int]]()
        for key, which in values.items():
            order = known.importance.drop_order(KEYS[key])
            if not isinstance(which, tuple) and which > blocks:
                raise InputError(f"{key} takes away {which:g}, but the model has {blocks} blocks")
            gone[KEYS[key]] = which if isinstance(which, tuple) else order[: _count(which, blocks)]
        return [_drop(gone, keeps_norms(sizes.config, known.config.prune.keep_norms))]

    def unpruned(self, distributions: Mapping[str, BaseDistribution]) -> Point:
        named = {name: value for name, value in distributions.items() if name.startswith("drop_")}
        return {name: False if hasattr(value, "choices") else 0 for name, value in named.items()}

    def starts(self, blocks: int, importance: DropOrders) -> list[Point]:
        """As many of each kind as may go, the least important ones: what lies between, a model of the scores tells."""
        limits = {kind: limit for kind in KINDS if (limit := self.limit(kind, blocks))}
        return [self._suggested(kind, importance.drop_order(kind)[:limit]) for kind, limit in limits.items()]

    def usual(self, blocks: int, importance: DropOrders) -> Point:
        """Half of the MLPs, as in the paper."""
        limit = min(self.limit("mlp", blocks), blocks // 2)
        return self._suggested("mlp", importance.drop_order("mlp")[:limit]) if limit else {}

    def smallest(self, blocks: int, parameters: Mapping[str, Values]) -> Point:
        # Whole blocks from the other end, so that they are none whose MLP or attention is gone already.
        orders = {kind: range(blocks)[:: -1 if kind == "block" else 1] for kind in KINDS}
        return {f"drop_{k}.{block}": True for k, order in orders.items() for block in order[: self.limit(k, blocks)]}

    def count(self, blocks: int) -> int:
        limits = [self.limit(kind, blocks) for kind in KINDS]
        if self.layers == TOP_K:
            return math.prod(limit + 1 for limit in limits)
        return math.prod(sum(math.comb(blocks, k) for k in range(limit + 1)) for limit in limits)

    def describe(self, blocks: int) -> list[str]:
        kinds = [kind for kind in KINDS if kind in self.maximum]
        return [f"drop_{kind}: {LAYERS[self.layers]}, 0 to {self.limit(kind, blocks)}" for kind in kinds]

    def _suggested(self, kind: str, blocks: list[int]) -> Point:
        """The first blocks of the order of importance, as the space suggests them."""
        return {f"drop_{kind}": len(blocks)} if self.layers != SUBSET else {f"drop_{kind}.{b}": True for b in blocks}


def _drop(gone: Mapping[str, Iterable[int]], keep_norms: bool) -> Drop:
    """gone: kind -> the blocks that lose it."""
    mlp, attention = ((*gone.get(kind, ()), *gone.get("block", ())) for kind in ("mlp", "attention"))
    return Drop(mlp, attention, keep_norms)


def _maximum(where: str, value: Any) -> float:
    number = value.get("max") if isinstance(value, dict) and set(value) == {"max"} else None
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
        raise InputError(f"{where} must be {{max: N}}, N a count or a share below 1, got {value!r}")
    if number > 1 and number != int(number):
        raise InputError(f"{where}: max must be a whole number of layers or a share below 1, got {number!r}")
    return float(number)


def _count(value: float, blocks: int) -> int:
    return min(blocks, math.floor(value * blocks + 1e-9) if 0 < value < 1 else int(value))


Drop.space = DropPart
