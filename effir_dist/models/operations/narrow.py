"""Narrowing MLPs: the least important neurons of those that stay are removed, rows and columns, nothing masked."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from effir_dist.core.errors import InputError
from effir_dist.core.values import Json, Point, Suggested
from effir_dist.models.families.base import ModelDict
from effir_dist.models.families.registry import family
from effir_dist.models.operations.base import Operation, Sizes, check_blocks
from effir_dist.models.operations.drop import Drop, keeps_norms
from effir_dist.models.operations.neuron_order import NeuronOrder
from effir_dist.models.operations.space_part import DropOrders, FixedValue, Known, SpacePart
from effir_dist.models.operations.values import Range, Values, parse_range, value_count

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution
    from torch import nn

    from effir_dist.models.operations.many import Columns, ManySizes

KEY = "width_ratio"
USUAL_RATIO = 0.7
"""Of the neurons, as in the paper's recipe."""
START_RATIOS = (0.8, 0.5)
"""Of the neurons, where all MLPs stay: what a search tries first of widths alone."""


@dataclass(frozen=True)
class Narrow(Operation):
    """Keep some neurons of MLPs: a plan holds how many, as a 7B model's indices would be megabytes."""

    widths: tuple[tuple[int, int], ...]
    """(block, neurons kept) for each narrowed MLP; all others keep their full width."""
    ranking: str = ""
    """Which ranking chose the neurons."""

    kind: ClassVar[str] = "narrow"
    order: ClassVar[int] = 20
    in_facts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(sorted(self.widths)))

    @property
    def empty(self) -> bool:
        return not self.widths

    @property
    def needs_neurons(self) -> bool:
        return True

    def check(self, sizes: Sizes) -> None:
        check_blocks((block for block, _ in self.widths), sizes)
        full = sizes.full_width
        for block, width in self.widths:
            if not 0 < width <= full or not sizes.widths[block]:
                raise InputError(f"the plan gives MLP {block} the width {width}; expected 1 to {full}, and not dropped")

    def left(self, sizes: Sizes) -> Sizes:
        kept = dict(self.widths)
        widths = (kept.get(block, width) for block, width in enumerate(sizes.widths))
        return dataclasses.replace(sizes, widths=tuple(widths))

    def apply(self, model: nn.Module, config: ModelDict, neurons: np.ndarray | None) -> None:
        """Without `neurons` the first ones stay: the shapes are right, for weights that are loaded next."""
        import torch

        from effir_dist.models.modeling_effir import narrow

        row = family(config)
        blocks: Any = model.get_submodule(row.blocks)
        kept = {} if neurons is None else self.kept(neurons)
        for block, width in self.widths:
            narrow(blocks[block], row, torch.as_tensor(kept[block]) if kept else torch.arange(width))

    def kept(self, neurons: np.ndarray) -> dict[int, np.ndarray]:
        """Indices of the neurons that stay in each narrowed MLP, ascending. neurons: [L, F]."""
        import numpy as np

        return {block: np.sort(np.argsort(-neurons[block], kind="stable")[:width]) for block, width in self.widths}

    def describe(self, sizes: Sizes) -> str:
        return f"width {100 * width_share(sizes):.0f} %"

    def to_json(self) -> Json:
        return {"widths": {str(block): width for block, width in self.widths}, "ranking": self.ranking}

    @classmethod
    def from_json(cls, tree: Json) -> Narrow:
        return cls(tuple((int(block), int(width)) for block, width in tree["widths"].items()), str(tree["ranking"]))


def width_share(sizes: Sizes) -> float:
    """Neurons left, as a share of those of the MLPs that stay; 1 where none stays."""
    staying = [width for width in sizes.widths if width]
    return sum(staying) / (len(staying) * sizes.full_width) if staying else 1.0


def narrowed(
    sizes: Sizes,
    ratios: Sequence[float],
    neurons: np.ndarray | NeuronOrder | None,
    ranking: str,
    multiple: int = 1,
    keep_norms: bool = False,
) -> list[Operation]:
    """Keep the best `ratios` of the neurons of the MLPs that are left, a ratio for each of as many `block_groups`.

    Neurons are ranked over all MLPs of a group (paper, section 3.2), so widths differ per block; an MLP left without
    neurons is dropped. neurons: [L, F], higher stays, or their order; needed where a ratio is below 1. keep_norms: as
    in `Drop`.
    """
    full, widths = sizes.full_width, dict[int, int]()
    for ratio, group in zip(ratios, block_groups(len(sizes.widths), len(ratios)), strict=True):
        staying = [block for block in group if sizes.widths[block]]
        if ratio < 1.0 and staying:
            if neurons is None:
                raise ValueError("neuron_scores are needed to narrow MLPs")
            kept = rounded(_best(neurons, staying, ratio), multiple, full)
            widths |= {block: int(count) for block, count in zip(staying, kept, strict=True) if count < full}
    emptied = tuple(block for block, width in widths.items() if not width)
    left = tuple((block, width) for block, width in widths.items() if width)
    return [Drop(emptied, (), keep_norms), Narrow(left, ranking)]


def _best(neurons: np.ndarray | NeuronOrder, staying: Sequence[int], ratio: float) -> np.ndarray:
    """[N] how many neurons of the MLPs `staying` are among the best `ratio` of theirs."""
    if isinstance(neurons, NeuronOrder):
        return neurons.kept(staying, ratio)
    return kept_by_rank(neurons[[*staying]], ratio)


def block_groups(blocks: int, groups: int) -> list[range]:
    """The blocks in `groups` runs of consecutive ones, as equal as they can be, first blocks first."""
    edges = [round(blocks * i / groups) for i in range(groups + 1)]
    return [range(low, high) for low, high in itertools.pairwise(edges)]


def kept_by_rank(scores: np.ndarray, ratio: float) -> np.ndarray:
    """How many neurons of each row are among the best `ratio` of all rows. scores: [N, F] -> [N]; ties keep order."""
    import numpy as np

    keep = round(ratio * scores.size)
    if not keep:
        return np.zeros(len(scores), np.int64)
    least = np.partition(scores, scores.size - keep, axis=None)[scores.size - keep]
    kept = (scores > least).sum(axis=1)
    tied = np.flatnonzero(scores == least)[: keep - kept.sum()]
    return kept + np.bincount(tied // scores.shape[1], minlength=len(scores))


def rounded(widths: np.ndarray, multiple: int, full: int) -> np.ndarray:
    """Widths as multiples, at most `full`, their sum as near to the old one as multiples allow. [N] -> [N].

    Each is rounded down; those that lost most get one more, until the sum is reached.
    """
    import numpy as np

    units, lost = np.divmod(widths, multiple)
    missing = round(float(widths.sum()) / multiple) - int(units.sum())
    room = (units + 1) * multiple <= full
    for index in [i for i in np.argsort(-lost, kind="stable") if room[i]][: max(0, missing)]:
        units[index] += 1
    return units * multiple


@dataclass(frozen=True)
class NarrowPart(SpacePart):
    """`width_ratio: {low: 0.3, high: 1.0, step: 0.1, groups: 2}`, of the neurons in the MLPs that stay."""

    ratio: Range | None = None
    groups: int = 1
    """Runs of consecutive blocks, as equal as they can be, that have a ratio each."""

    keys: ClassVar[tuple[str, ...]] = (KEY,)
    fixed_keys: ClassVar[tuple[str, ...]] = (KEY,)

    @classmethod
    def parse(cls, tree: Json, source: str) -> NarrowPart:
        if KEY not in tree:
            return cls()
        where = f"{source}: {KEY}"
        groups, rest = _groups(where, tree[KEY])
        ratio = parse_range(where, rest)
        if not 0 < ratio.low <= ratio.high <= 1:
            raise InputError(f"{where} must lie above 0 and up to 1, got {tree[KEY]!r}")
        return cls(ratio, groups)

    def to_dict(self) -> Json:
        if not self.ratio:
            return {}
        return {KEY: {**self.ratio.to_dict(), **({"groups": self.groups} if self.groups > 1 else {})}}

    @classmethod
    def parse_fixed(cls, key: str, value: Any, where: str) -> FixedValue:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise InputError(f"{where} must lie above 0 and up to 1, got {value!r}")
        return float(value)

    @property
    def names(self) -> list[str]:
        """What suggestions call the ratios."""
        return [KEY] if self.groups == 1 else [f"{KEY}.{group}" for group in range(self.groups)]

    def distributions(self, blocks: int) -> dict[str, BaseDistribution]:
        from optuna.distributions import FloatDistribution

        if not (ratio := self.ratio):
            return {}
        return {name: FloatDistribution(ratio.low, ratio.high, step=ratio.step, log=ratio.log) for name in self.names}

    def operations(self, suggested: Suggested, sizes: Sizes, known: Known) -> Sequence[Operation]:
        return _narrowed(sizes, [round(float(suggested.get(name, 1.0)), 6) for name in self.names], known)

    def left(self, columns: Columns, sizes: ManySizes, known: Known) -> ManySizes | None:
        import numpy as np

        from effir_dist.models.operations.many import rounded_of_many

        prune, (count, blocks) = known.config.prune, sizes.widths.shape
        asked = [columns[name] if name in columns else np.ones(count) for name in self.names]
        ratios = np.round(np.column_stack(asked).astype(float), 6)
        groups = np.array([[block in group for block in range(blocks)] for group in block_groups(blocks, self.groups)])
        widths = sizes.widths[:, None] * groups  # [P, groups, L]
        narrowed = (ratios < 1) & widths.any(axis=2)
        if not narrowed.any():
            return sizes
        order = known.neurons.get(prune.ranking)
        if not isinstance(order, NeuronOrder):
            return None
        staying = widths[narrowed] > 0
        kept = order.kept_of_many(staying, ratios[narrowed])
        widths[narrowed] = rounded_of_many(kept, staying, prune.width_multiple, sizes.full_width)
        return sizes.replace(widths=widths.sum(axis=1))

    def fixed(self, values: Mapping[str, FixedValue], sizes: Sizes, known: Known) -> Sequence[Operation]:
        ratio = values.get(KEY, 1.0)
        assert isinstance(ratio, int | float)
        return _narrowed(sizes, [ratio], known)

    def unpruned(self, distributions: Mapping[str, BaseDistribution]) -> Point:
        found: Mapping[str, Any] = distributions
        return {name: found[name].high for name in self.names if name in found}

    def starts(self, blocks: int, importance: DropOrders) -> list[Point]:
        """Widths alone: every MLP stays and loses neurons. Where little may be lost these are often the best plans."""
        if not self.ratio:
            return []
        found = dict.fromkeys(self.ratio.nearest(ratio) for ratio in START_RATIOS)
        return [dict.fromkeys(self.names, ratio) for ratio in found if ratio < self.ratio.high]

    def usual(self, blocks: int, importance: DropOrders) -> Point:
        """70 % of the neurons, as in the paper."""
        return dict.fromkeys(self.names, self.ratio.nearest(USUAL_RATIO)) if self.ratio else {}

    def smallest(self, blocks: int, parameters: Mapping[str, Values]) -> Point:
        return dict.fromkeys(self.names, self.ratio.low) if self.ratio else {}

    def count(self, blocks: int) -> int | None:
        widths = value_count(self.ratio) if self.ratio else 1
        return None if widths is None else widths**self.groups

    def describe(self, blocks: int) -> list[str]:
        return [f"{name}: {tree}" for name, tree in self.to_dict().items()]


def asked_ratio(values: Mapping[str, Any]) -> float:
    """The ratio that suggested values or a fixed plan ask for; the mean of several."""
    ratios = [value for name, value in values.items() if name == KEY or name.startswith(f"{KEY}.")]
    return sum(ratios) / len(ratios) if ratios else 1.0


def _narrowed(sizes: Sizes, ratios: Sequence[float], known: Known) -> Sequence[Operation]:
    prune = known.config.prune
    neurons, kept = known.neurons.get(prune.ranking), keeps_norms(sizes.config, prune.keep_norms)
    return narrowed(sizes, ratios, neurons, prune.ranking, prune.width_multiple, kept)


def _groups(where: str, value: Any) -> tuple[int, Any]:
    """The number of groups of a width ratio, and the rest of it."""
    if not isinstance(value, dict) or "groups" not in value:
        return 1, value
    groups = value["groups"]
    if type(groups) is not int or groups < 1:
        raise InputError(f"{where}: groups must be a whole number above 0, of runs of blocks, got {groups!r}")
    return groups, {name: each for name, each in value.items() if name != "groups"}


Narrow.space = NarrowPart
