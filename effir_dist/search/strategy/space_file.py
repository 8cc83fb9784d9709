"""Search spaces as YAML files: reading, checking, writing.

drop_mlp: {max: 4}                                  # any 0 to 4 MLP layers; below 1, a share of the layers
drop_attention: {max: 0.25}                         # likewise
layers: top_k_flips                                 # how those are suggested: subset (the default), top_k, top_k_flips
width_ratio: {low: 0.3, high: 1.0, step: 0.1}       # of the neurons in the MLPs that stay; groups: 2 for two ratios
train.learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}
train.temperature: [0.02, 0.05]                     # a list: any of these
plans: {16M: {drop_mlp: 0.5}, ends: {drop_mlp: [0, 5]}}   # instead of the first three: these plans and no others
settings: {train.steps: 1000}                       # settings for every trial; the command line overrides them
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import effir_dist
from effir_dist.core import config, renamed
from effir_dist.core.config import SEARCHABLE
from effir_dist.core.errors import InputError, suggest
from effir_dist.core.settings import RunConfig
from effir_dist.importance.ranking import KINDS
from effir_dist.search.strategy.space import FixedPlan, Range, Space, as_setting

LAYERS = ("subset", "top_k", "top_k_flips")
DROPS = {f"drop_{kind}": kind for kind in KINDS}


def folder() -> Path:
    """Where the shipped search spaces are: beside the package in a checkout, inside it when installed."""
    package = Path(effir_dist.__file__).parent
    beside = package.parent / "search_spaces"
    return beside if beside.is_dir() else package / "search_spaces"


def default_file(backbone: str, model_type: str) -> Path:
    """The shipped search space of a backbone: its own, else its family's."""
    family = {"qwen2": "qwen", "qwen3": "qwen"}.get(model_type, model_type)
    own = folder() / f"{backbone}.yaml"
    return own if own.is_file() else folder() / f"{family}.yaml"


def read_space(path: str | Path) -> Space:
    """Read a search space. Raises InputError that names the file, the key and what it takes."""
    return parse_space(config.read_yaml(path), str(path))


def parse_space(tree: dict[str, Any], source: str) -> Space:
    """A search space from plain data; `source` names it in errors."""
    known = [*DROPS, "layers", "width_ratio", "plans", "settings"]
    plans: dict[str, FixedPlan] = {}
    dropped: dict[str, float] = {}
    width: Range | None = None
    groups, layers = 1, "subset"
    parameters: dict[str, Range | tuple[Any, ...]] = {}
    settings: dict[str, Any] = {}
    for key, value in tree.items():
        where = f"{source}: {key}"
        _refuse_old(source, key, value)
        if key in DROPS:
            dropped[DROPS[key]] = _maximum(where, value)
        elif key == "width_ratio":
            groups, rest = _groups(where, value)
            width = _range(where, rest)
            if not 0 < width.low <= width.high <= 1:
                raise InputError(f"{where} must lie above 0 and up to 1, got {value!r}")
        elif key == "layers":
            if value not in LAYERS:
                raise InputError(f"{where} must be one of {', '.join(LAYERS)}, got {value!r}")
            layers = value
        elif key == "plans":
            plans = _plans(where, value)
        elif key == "settings":
            if not isinstance(value, dict):
                raise InputError(f"{where} must map settings to values, got {value!r}")
            settings = config.flatten(value)
        elif key in config.setting_names():
            if not key.startswith(SEARCHABLE):
                raise InputError(f"{where} holds for a whole run and cannot vary; put it under `settings:`")
            parameters[key] = _parameter(key, where, value)
        else:
            hint = suggest(str(key), [*known, *config.setting_names()])
            raise InputError(f"{source}: unknown key {key!r}; {hint}")
    try:
        config.replace(RunConfig(), settings)
    except InputError as error:
        raise InputError(f"{source}: settings: {error}") from None
    if layers != "subset" and not dropped:
        raise InputError(f"{source}: `layers` says how those of drop_mlp and the like are suggested; add drop_mlp")
    if plans and (dropped or width or not all(isinstance(values, tuple) for values in parameters.values())):
        raise InputError(f"{source}: with `plans`, settings may vary as lists only, and nothing else may")
    return Space(dropped, width, groups, layers, parameters, settings, plans)


def _refuse_old(source: str, key: str, value: Any) -> None:
    try:
        renamed.refuse(key, value)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _plans(where: str, value: Any) -> dict[str, FixedPlan]:
    if not isinstance(value, dict) or not value:
        raise InputError(f"{where} must map names to plans, got {value!r}")
    return {str(name): _plan(f"{where}.{name}", tree) for name, tree in value.items()}


def _plan(where: str, tree: Any) -> FixedPlan:
    known = [*DROPS, "width_ratio"]
    if not isinstance(tree, dict):
        raise InputError(f"{where} must be {{drop_mlp: N, width_ratio: R}} or the like, got {tree!r}")
    for key in tree:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; {suggest(str(key), known)}")
    dropped = {kind: _dropped(f"{where}.{key}", tree[key]) for key, kind in DROPS.items() if key in tree}
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


def _groups(where: str, value: Any) -> tuple[int, Any]:
    """The number of groups of a width ratio, and the rest of it."""
    if not isinstance(value, dict) or "groups" not in value:
        return 1, value
    groups = value["groups"]
    if type(groups) is not int or groups < 1:
        raise InputError(f"{where}: groups must be a whole number above 0, of runs of blocks, got {groups!r}")
    return groups, {name: each for name, each in value.items() if name != "groups"}


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
        config.replace(RunConfig(), {name: as_setting(name, end)})
    return parsed


def to_dict(space: Space) -> dict[str, Any]:
    """Plain data, as `parse_space` reads it."""
    tree: dict[str, Any] = {f"drop_{kind}": {"max": value} for kind, value in space.max_dropped.items()}
    if space.plans:
        tree["plans"] = {name: _plan_dict(plan) for name, plan in space.plans.items()}
    entries = {**({"width_ratio": space.width_ratio} if space.width_ratio else {}), **space.parameters}
    for name, value in entries.items():
        tree[name] = list(value) if isinstance(value, tuple) else _range_dict(value)
    if space.width_groups > 1:
        tree["width_ratio"]["groups"] = space.width_groups
    if space.layers != "subset":
        tree["layers"] = space.layers
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
