"""The search space: what may vary, as Optuna distributions; which plan suggested values mean; where to start."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from effir_dist.core.config import replace
from effir_dist.core.settings import PruneConfig, RunConfig, TrainConfig
from effir_dist.importance.ranking import KINDS, Importance
from effir_dist.models.families.backbones import ModelDict, block_count
from effir_dist.models.pruning import PruningPlan, make_plan

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution

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
    width_groups: int = 1
    """Runs of consecutive blocks, as equal as they can be, that have a width ratio each."""
    layers: str = "subset"
    """How dropped ones are suggested. `subset`: a yes or no for each. `top_k`: a number k, and the k least important
    are dropped. `top_k_flips`: k, and a yes or no for each that turns over what k says of it."""
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
        limit = space.limit(kind, blocks)
        if limit and space.layers != "subset":
            found[f"drop_{kind}"] = IntDistribution(0, limit)
        if limit and space.layers != "top_k":
            found.update({f"drop_{kind}.{i}": CategoricalDistribution([False, True]) for i in range(blocks)})
    if space.width_ratio:
        width = space.width_ratio
        for name in width_names(space):
            found[name] = FloatDistribution(width.low, width.high, step=width.step, log=width.log)
    for name, value in space.parameters.items():
        if isinstance(value, tuple):
            found[name] = CategoricalDistribution(value)
        elif isinstance(as_setting(name, value.low), int):
            step = int(value.step or 1)
            found[name] = IntDistribution(int(value.low), int(value.high), log=value.log, step=step)
        else:
            found[name] = FloatDistribution(value.low, value.high, step=value.step, log=value.log)
    return found


def width_names(space: Space) -> list[str]:
    """What suggestions call the width ratios."""
    groups = range(space.width_groups)
    return ["width_ratio"] if space.width_groups == 1 else [f"width_ratio.{group}" for group in groups]


def dropped(suggested: dict[str, Any], kind: str, limit: int, importance: Importance) -> list[int]:
    """The blocks whose sub-layer goes: those suggested, the most important ones spared beyond `limit`.

    Suggested are so many of the least important ones (`drop_KIND`), and yes or no for each block, which turns over what
    the number says of it (`drop_KIND.BLOCK`); either may be missing.
    """
    prefix, order = f"drop_{kind}.", importance.drop_order(kind)
    turned = {int(name.removeprefix(prefix)) for name, drop in suggested.items() if name.startswith(prefix) and drop}
    chosen = turned ^ set(order[: suggested.get(f"drop_{kind}", 0)])
    return sorted([block for block in order if block in chosen][:limit])


def plan_of(
    suggested: dict[str, Any],
    space: Space,
    model_config: ModelDict,
    importance: Importance,
    neurons: dict[str, np.ndarray],
    prune: PruneConfig,
) -> PruningPlan:
    """The plan that suggested values mean. neurons: [L, F] scores for each ranking."""
    gone = _gone(suggested, space, block_count(model_config), importance)
    mlp, attention = ({*gone[kind], *gone["block"]} for kind in ("mlp", "attention"))
    fixed = "plan" in suggested
    ratios = [round(suggested.get(name, 1.0), 6) for name in width_names(space)]
    ratio = space.plans[suggested["plan"]].width_ratio if fixed else ratios
    scores, ranking = neurons.get(prune.ranking), prune.ranking
    return make_plan(model_config, mlp, attention, ratio, scores, ranking, prune.width_multiple)


def _gone(suggested: dict[str, Any], space: Space, blocks: int, importance: Importance) -> dict[str, list[int]]:
    """Kind -> the blocks that are to lose it."""
    if "plan" in suggested:
        wanted = space.plans[suggested["plan"]].dropped
        return {kind: _fixed(wanted.get(kind, ()), kind, blocks, importance) for kind in KINDS}
    return {kind: dropped(suggested, kind, space.limit(kind, blocks), importance) for kind in KINDS}


def emptied(
    suggested: dict[str, Any], space: Space, model_config: ModelDict, importance: Importance, plan: PruningPlan
) -> list[int]:
    """The MLPs that a plan drops only because its width ratio left them no neuron."""
    gone = _gone(suggested, space, block_count(model_config), importance)
    return sorted({*plan.dropped_mlp} - {*gone["mlp"], *gone["block"]})


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
        points += [{**base, **_drops(space, kind, order[:k])} for k in _counts(limit)]
    limit = min(space.limit("mlp", blocks), blocks // 2)
    if space.width_ratio and limit:
        width = min(max(0.7, space.width_ratio.low), space.width_ratio.high)
        order = importance.drop_order("mlp")[:limit]
        narrow = dict.fromkeys(width_names(space), _on_grid(width, space.width_ratio))
        points.append({**base, **_drops(space, "mlp", order), **narrow})
    return points


def rankings(space: Space, config: RunConfig) -> list[str]:
    """The rankings of neurons that a search may ask for."""
    choices = space.parameters.get("prune.ranking", ())
    return sorted({config.prune.ranking, *(choices if isinstance(choices, tuple) else ())})


def _reach(space: Space, config: RunConfig, name: str) -> Any:
    """The largest value that a numeric setting can have in a trial."""
    group, key = name.split(".", 1)
    varied = space.parameters.get(name, (getattr(getattr(config, group), key),))
    return max(varied) if isinstance(varied, tuple) else varied.high


def needs_scores(space: Space, config: RunConfig) -> bool:
    """Whether a trial may distil a teacher's scores."""
    return bool(_reach(space, config, "train.distill_scores"))


def teacher_settings(space: Space, config: RunConfig) -> TrainConfig | None:
    """The most that a trial may ask of the unpruned model as its teacher; None where none asks."""
    names = ("train.distill_similarities", "train.distill_embeddings", "train.hard_negatives")
    most = {name: _reach(space, config, name) for name in names}
    return replace(config, most).train if any(most[name] for name in names[:2]) else None


def grid_size(space: Space) -> int:
    """Trials in a space with `plans`: each of them with every combination of the settings that vary."""
    choices = [values for values in space.parameters.values() if isinstance(values, tuple)]
    return len(space.plans) * math.prod(len(values) for values in choices)


def plan_count(space: Space, blocks: int) -> int | None:
    """How many different plans a space without `plans` holds, at most; None where widths are continuous."""
    widths = value_count(space.width_ratio) if space.width_ratio else 1
    limits = [space.limit(kind, blocks) for kind in KINDS]
    if space.layers == "top_k":
        sets = [limit + 1 for limit in limits]
    else:
        sets = [sum(math.comb(blocks, k) for k in range(limit + 1)) for limit in limits]
    return None if widths is None else math.prod(sets) * widths**space.width_groups


def value_count(values: Range | tuple[Any, ...], whole: bool = False) -> int | None:
    """How many values a setting may have; None where they are continuous. whole: whether they are whole numbers."""
    if isinstance(values, tuple):
        return len(values)
    step = values.step or (1.0 if whole else None)
    return None if step is None else math.floor((values.high - values.low) / step + 1e-9) + 1


def _drops(space: Space, kind: str, blocks: list[int]) -> dict[str, Any]:
    """The first of the order of importance, as the space suggests them."""
    if space.layers != "subset":
        return {f"drop_{kind}": len(blocks)}
    return {f"drop_{kind}.{block}": True for block in blocks}


def _counts(limit: int, most: int = 5) -> list[int]:
    """Up to `most` numbers from 1 to limit, evenly spread."""
    return sorted({round(limit * (i + 1) / min(limit, most)) for i in range(min(limit, most))})


def _on_grid(value: float, span: Range) -> float:
    return value if span.step is None else round(span.low + span.step * round((value - span.low) / span.step), 9)


def _start_value(name: str, distribution: BaseDistribution, config: RunConfig) -> Any:
    """No drop, the full width, and the settings of the run where the space has them, else its middle."""
    choices = getattr(distribution, "choices", None)
    if name.startswith("drop_"):
        return False if choices else 0
    if name.startswith("width_ratio"):
        return distribution.high  # type: ignore[attr-defined]
    if name == "model.dimension":  # the unpruned model's vectors are whole
        return (0 if 0 in choices else max(choices)) if choices else distribution.high  # type: ignore[attr-defined]
    group, key = name.split(".", 1)
    value = getattr(getattr(config, group), key)
    if choices:
        return value if value in choices else choices[0]
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    if low <= value <= high:
        return value
    return low if value < low else high
