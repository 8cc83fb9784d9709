"""The search space: what may vary, as Optuna distributions; which plan suggested values mean; where to start."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from effir_dist.backbones import ModelDict, block_count
from effir_dist.pruning import PruningPlan, make_plan
from effir_dist.ranking import KINDS, Importance
from effir_dist.settings import PruneConfig, RunConfig

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution

SEARCHABLE = ("train.", "prune.ranking", "prune.width_multiple")
"""Settings that may vary from trial to trial; the others hold for the whole run."""


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included."""

    low: float
    high: float
    step: float | None = None
    log: bool = False


@dataclass(frozen=True)
class Space:
    """What may vary."""

    max_dropped: dict[str, float] = field(default_factory=dict)
    """Kind -> the largest number of them to drop; below 1, a share of the blocks."""
    width_ratio: Range | None = None
    parameters: dict[str, Range | tuple[Any, ...]] = field(default_factory=dict)
    """Settings by dotted name."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings that hold for every trial, below those of the command line."""
    plans: dict[str, FixedPlan] = field(default_factory=dict)
    """Name -> plan. Where there are any, they are tried with all combinations of `parameters`, and nothing else."""

    def limit(self, kind: str, blocks: int) -> int:
        """The largest number of sub-layers (or blocks) of a kind to drop in a model of `blocks` blocks."""
        return _count(self.max_dropped.get(kind, 0), blocks)


@dataclass(frozen=True)
class FixedPlan:
    """A plan by name, for any model."""

    dropped: dict[str, float | tuple[int, ...]] = field(default_factory=dict)
    """Kind -> which blocks, or how many (below 1, a share of the blocks): then the least important ones."""
    width_ratio: float = 1.0


def _count(value: float, blocks: int) -> int:
    return min(blocks, math.floor(value * blocks + 1e-9) if 0 < value < 1 else int(value))


def as_setting(name: str, value: Any) -> Any:
    """5.0 -> 5 where the setting is a whole number: ranges hold floats."""
    group, key = name.split(".", 1)
    default = getattr(getattr(RunConfig(), group), key)
    return int(value) if isinstance(default, int) and isinstance(value, float) and value == int(value) else value


def distributions(space: Space, blocks: int) -> dict[str, BaseDistribution]:
    """Optuna's distributions: the plan, or a yes or no for each part that may go and the width ratio; the settings."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    if space.plans:
        found["plan"] = CategoricalDistribution(list(space.plans))
    for kind in KINDS:
        if space.limit(kind, blocks):
            found.update({f"drop_{kind}.{i}": CategoricalDistribution([False, True]) for i in range(blocks)})
    if space.width_ratio:
        width = space.width_ratio
        found["width_ratio"] = FloatDistribution(width.low, width.high, step=width.step, log=width.log)
    for name, value in space.parameters.items():
        if isinstance(value, tuple):
            found[name] = CategoricalDistribution(value)
        elif isinstance(as_setting(name, value.low), int):
            step = int(value.step or 1)
            found[name] = IntDistribution(int(value.low), int(value.high), log=value.log, step=step)
        else:
            found[name] = FloatDistribution(value.low, value.high, step=value.step, log=value.log)
    return found


def dropped(suggested: dict[str, Any], kind: str, limit: int, importance: Importance) -> list[int]:
    """The blocks whose sub-layer goes: those suggested, the most important ones spared beyond `limit`."""
    prefix = f"drop_{kind}."
    chosen = {int(name.removeprefix(prefix)) for name, drop in suggested.items() if name.startswith(prefix) and drop}
    return sorted([block for block in importance.drop_order(kind) if block in chosen][:limit])


def settings_of(suggested: dict[str, Any]) -> dict[str, Any]:
    """The suggested values that are settings, by dotted name."""
    return {name: value for name, value in suggested.items() if name.startswith(SEARCHABLE)}


def plan_of(
    suggested: dict[str, Any],
    space: Space,
    model_config: ModelDict,
    importance: Importance,
    neurons: dict[str, np.ndarray],
    prune: PruneConfig,
) -> PruningPlan:
    """The plan that suggested values mean. neurons: [L, F] scores for each ranking."""
    blocks = block_count(model_config)
    if "plan" in suggested:
        fixed = space.plans[suggested["plan"]]
        gone = {kind: _fixed(fixed.dropped.get(kind, ()), kind, blocks, importance) for kind in KINDS}
        ratio = fixed.width_ratio
    else:
        gone = {kind: dropped(suggested, kind, space.limit(kind, blocks), importance) for kind in KINDS}
        ratio = round(float(suggested.get("width_ratio", 1.0)), 6)
    mlp, attention = ({*gone[kind], *gone["block"]} for kind in ("mlp", "attention"))
    scores, ranking = neurons.get(prune.ranking), prune.ranking
    return make_plan(model_config, mlp, attention, ratio, scores, ranking, prune.width_multiple)


def _fixed(which: float | tuple[int, ...], kind: str, blocks: int, importance: Importance) -> list[int]:
    return list(which) if isinstance(which, tuple) else importance.drop_order(kind)[: _count(which, blocks)]


def starting_points(space: Space, config: RunConfig, blocks: int, importance: Importance) -> list[dict[str, Any]]:
    """What is known to be worth trying: the unpruned model, then drops in order of importance, at full width first;
    last the paper's proportions, half of the MLPs dropped and 70 % of the remaining width kept.

    Of a space with `plans`: all of them, with all combinations of the settings that vary."""
    if space.plans:
        choices = [space.plans, *(v for v in space.parameters.values() if isinstance(v, tuple))]
        names = ["plan", *space.parameters]
        return [dict(zip(names, values, strict=True)) for values in itertools.product(*choices)]
    base = {name: _start_value(name, dist, config) for name, dist in distributions(space, blocks).items()}
    points = [base]
    for kind in KINDS:
        limit, order = space.limit(kind, blocks), importance.drop_order(kind)
        points += [{**base, **_drops(kind, order[:k])} for k in _counts(limit)]
    limit = min(space.limit("mlp", blocks), blocks // 2)
    if space.width_ratio and limit:
        width = min(max(0.7, space.width_ratio.low), space.width_ratio.high)
        order = importance.drop_order("mlp")[:limit]
        points.append({**base, **_drops("mlp", order), "width_ratio": _on_grid(width, space.width_ratio)})
    return points


def rankings(space: Space, config: RunConfig) -> list[str]:
    """The rankings of neurons that a search may ask for."""
    choices = space.parameters.get("prune.ranking", ())
    return sorted({config.prune.ranking, *(choices if isinstance(choices, tuple) else ())})


def grid_size(space: Space) -> int:
    """Trials in a space with `plans`: each of them with every combination of the settings that vary."""
    choices = [values for values in space.parameters.values() if isinstance(values, tuple)]
    return len(space.plans) * math.prod(len(values) for values in choices)


def _drops(kind: str, blocks: list[int]) -> dict[str, bool]:
    return {f"drop_{kind}.{block}": True for block in blocks}


def _counts(limit: int, most: int = 5) -> list[int]:
    """Up to `most` numbers from 1 to limit, evenly spread."""
    return sorted({round(limit * (i + 1) / min(limit, most)) for i in range(min(limit, most))})


def _on_grid(value: float, span: Range) -> float:
    return value if span.step is None else round(span.low + span.step * round((value - span.low) / span.step), 9)


def _start_value(name: str, distribution: BaseDistribution, config: RunConfig) -> Any:
    """No drop, the full width, and the settings of the run where the space has them, else its middle."""
    if name.startswith("drop_"):
        return False
    choices = getattr(distribution, "choices", None)
    if name == "width_ratio":
        return distribution.high  # type: ignore[attr-defined]
    group, key = name.split(".", 1)
    value = getattr(getattr(config, group), key)
    if choices:
        return value if value in choices else choices[0]
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    if low <= value <= high:
        return value
    return low if value < low else high
