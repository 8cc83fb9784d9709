"""The search space: a YAML file that says what may vary, as Optuna distributions; and the points to start from.

    drop_mlp: {max: 4}                                  # a set of 0 to 4 MLP layers; below 1, a share of the layers
    drop_attention: {max: 0.25}                         # likewise
    width_ratio: {low: 0.3, high: 1.0, step: 0.1}       # of the neurons in the MLPs that stay
    train.learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}
    train.temperature: [0.02, 0.05]                     # a list: any of these
    plans: {16M: {drop_mlp: 0.5}, ends: {drop_mlp: [0, 5]}}   # instead of the first three: these plans and no others
    settings: {train.steps: 1000}                       # settings for every trial; the command line overrides them
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir_dist import config as config_module
from effir_dist.backbones import ModelDict, block_count
from effir_dist.config import PruneConfig, RunConfig
from effir_dist.errors import InputError, suggest
from effir_dist.importance import KINDS, Importance
from effir_dist.pruning import PruningPlan, make_plan

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


def folder() -> Path:
    """Where the shipped search spaces are: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).parent
    beside = package.parent / "search_spaces"
    return beside if beside.is_dir() else package / "search_spaces"


def default_file(backbone: str, model_type: str) -> Path:
    """The shipped search space of a backbone: its own, else its family's."""
    family = {"qwen2": "qwen", "qwen3": "qwen"}.get(model_type, model_type)
    own = folder() / f"{backbone}.yaml"
    return own if own.is_file() else folder() / f"{family}.yaml"


def read_space(path: str | Path) -> Space:
    """Read a search space. Raises InputError that names the file, the key and what it takes."""
    return parse_space(config_module.read_yaml(path), str(path))


def parse_space(tree: dict[str, Any], source: str) -> Space:
    """A search space from plain data; `source` names it in errors."""
    known = [*(f"drop_{kind}" for kind in KINDS), "width_ratio", "plans", "settings"]
    plans: dict[str, FixedPlan] = {}
    dropped: dict[str, float] = {}
    width: Range | None = None
    parameters: dict[str, Range | tuple[Any, ...]] = {}
    settings: dict[str, Any] = {}
    for key, value in tree.items():
        where = f"{source}: {key}"
        if key.removeprefix("drop_") in KINDS:
            dropped[key.removeprefix("drop_")] = _maximum(where, value)
        elif key == "width_ratio":
            width = _range(where, value)
            if not 0 < width.low <= width.high <= 1:
                raise InputError(f"{where} must lie above 0 and up to 1, got {value!r}")
        elif key == "plans":
            plans = _plans(where, value)
        elif key == "settings":
            if not isinstance(value, dict):
                raise InputError(f"{where} must map settings to values, got {value!r}")
            settings = config_module.flatten(value)
        elif key in config_module.setting_names():
            if not key.startswith(SEARCHABLE):
                raise InputError(f"{where} holds for a whole run and cannot vary; put it under `settings:`")
            parameters[key] = _parameter(key, where, value)
        else:
            hint = suggest(str(key), [*known, *config_module.setting_names()])
            raise InputError(f"{source}: unknown key {key!r}; {hint}")
    config_module.replace(RunConfig(), settings)
    if plans and (dropped or width or not all(isinstance(values, tuple) for values in parameters.values())):
        raise InputError(f"{source}: with `plans`, settings may vary as lists only, and nothing else may")
    return Space(dropped, width, parameters, settings, plans)


def _plans(where: str, value: Any) -> dict[str, FixedPlan]:
    if not isinstance(value, dict) or not value:
        raise InputError(f"{where} must map names to plans, got {value!r}")
    return {str(name): _plan(f"{where}.{name}", tree) for name, tree in value.items()}


def _plan(where: str, tree: Any) -> FixedPlan:
    known = [*(f"drop_{kind}" for kind in KINDS), "width_ratio"]
    if not isinstance(tree, dict):
        raise InputError(f"{where} must be {{drop_mlp: N, width_ratio: R}} or the like, got {tree!r}")
    for key in tree:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; {suggest(str(key), known)}")
    dropped = {key.removeprefix("drop_"): _dropped(f"{where}.{key}", tree[key]) for key in known[:-1] if key in tree}
    ratio = tree.get("width_ratio", 1.0)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise InputError(f"{where}.width_ratio must lie above 0 and up to 1, got {ratio!r}")
    return FixedPlan(dropped, float(ratio))


def _dropped(where: str, value: Any) -> float | tuple[int, ...]:
    if isinstance(value, list) and all(type(block) is int and block >= 0 for block in value):
        return tuple(value)
    return _maximum(where, {"max": value})


def _maximum(where: str, value: Any) -> float:
    number = value.get("max") if isinstance(value, dict) and set(value) == {"max"} else None
    if isinstance(number, bool) or not isinstance(number, int | float) or number < 0:
        raise InputError(f"{where} must be {{max: N}}, N a count or a share below 1, got {value!r}")
    if number > 1 and number != int(number):
        raise InputError(f"{where}: max must be a whole number of layers or a share below 1, got {number!r}")
    return float(number)


def _range(where: str, value: Any) -> Range:
    shape = "{low: A, high: B}, with step: or log: true if wanted"
    if not isinstance(value, dict) or not {"low", "high"} <= set(value) <= {"low", "high", "step", "log"}:
        raise InputError(f"{where} must be {shape}, got {value!r}")
    try:
        low, high = float(value["low"]), float(value["high"])
        step = float(value["step"]) if value.get("step") is not None else None
    except (TypeError, ValueError):
        raise InputError(f"{where} must hold numbers: {shape}, got {value!r}") from None
    log = bool(value.get("log", False))
    if low > high or (log and (low <= 0 or step)) or (step is not None and step <= 0):
        raise InputError(f"{where} must have low <= high, a step above 0, and no step with log; got {value!r}")
    return Range(low, high, step, log)


def _parameter(name: str, where: str, value: Any) -> Range | tuple[Any, ...]:
    parsed = tuple(value) if isinstance(value, list) and value else _range(where, value)
    ends = parsed if isinstance(parsed, tuple) else (parsed.low, parsed.high)
    for end in ends:
        config_module.replace(RunConfig(), {name: _as_setting(name, end)})
    return parsed


def _as_setting(name: str, value: Any) -> Any:
    """5.0 -> 5 where the setting is a whole number: ranges hold floats."""
    group, key = name.split(".", 1)
    default = getattr(getattr(RunConfig(), group), key)
    return int(value) if isinstance(default, int) and isinstance(value, float) and value == int(value) else value


def to_dict(space: Space) -> dict[str, Any]:
    """Plain data, as `parse_space` reads it."""
    tree: dict[str, Any] = {f"drop_{kind}": {"max": value} for kind, value in space.max_dropped.items()}
    if space.plans:
        tree["plans"] = {name: _plan_dict(plan) for name, plan in space.plans.items()}
    entries = {**({"width_ratio": space.width_ratio} if space.width_ratio else {}), **space.parameters}
    for name, value in entries.items():
        tree[name] = list(value) if isinstance(value, tuple) else _range_dict(value)
    return {**tree, "settings": dict(space.settings)} if space.settings else tree


def _plan_dict(plan: FixedPlan) -> dict[str, Any]:
    gone = {f"drop_{kind}": list(v) if isinstance(v, tuple) else v for kind, v in plan.dropped.items()}
    return {**gone, "width_ratio": plan.width_ratio}


def _range_dict(value: Range) -> dict[str, Any]:
    tree: dict[str, Any] = {"low": value.low, "high": value.high}
    if value.step is not None:
        tree["step"] = value.step
    if value.log:
        tree["log"] = True
    return tree


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
        elif isinstance(_as_setting(name, value.low), int):
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
