"""Search spaces as YAML files: reading, checking, writing.

drop_mlp: {max: 4}                                  # any 0 to 4 MLP layers; below 1, a share of the layers
drop_attention: {max: 0.25}                         # likewise
layers: top_k_flips                                 # how those are suggested: subset (the default), top_k, top_k_flips
width_ratio: {low: 0.3, high: 1.0, step: 0.1}       # of the neurons in the MLPs that stay; groups: 2 for two ratios
train.learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}
train.temperature: [0.02, 0.05]                     # a list: any of these
plans: {16M: {drop_mlp: 0.5}, ends: {drop_mlp: [0, 5]}}   # instead of the first three: these plans and no others
settings: {train.steps: 1000}                       # settings for every trial; the command line overrides them
built_in_settings: {data.max_documents: 1000}       # the same, on the built-in data alone: no other data is cut
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import effir_dist
from effir_dist.core import config, renamed
from effir_dist.core.config import FOR_ALL, SEARCHABLE
from effir_dist.core.errors import InputError, suggest
from effir_dist.core.settings import DataConfig, RunConfig
from effir_dist.core.values import Json
from effir_dist.data.sets import BUILT_IN
from effir_dist.models import operations
from effir_dist.models.families.registry import family
from effir_dist.models.operations.space_part import SpacePart
from effir_dist.models.operations.values import Values, parse_range
from effir_dist.search.strategy.space import FixedPlan, Space, as_setting

SETTINGS = ("settings", "built_in_settings")
"""Keys of a space that hold settings."""


def folder() -> Path:
    """Where the shipped search spaces are: beside the package in a checkout, inside it when installed."""
    package = Path(effir_dist.__file__).parent
    beside = package.parent / "search_spaces"
    return beside if beside.is_dir() else package / "search_spaces"


def default_file(backbone: str, model_type: str) -> Path:
    """The shipped search space of a backbone: its own, else its family's. Raises InputError for an unknown family."""
    own = folder() / f"{backbone}.yaml"
    return own if own.is_file() else folder() / f"{family({'model_type': model_type}).space}.yaml"


def read_space(path: str | Path) -> Space:
    """Read a search space. Raises InputError that names the file, the key and what it takes."""
    return parse_space(config.read_yaml(path), str(path))


def parse_space(tree: Json, source: str) -> Space:
    """A search space from plain data; `source` names it in errors."""
    for key, value in tree.items():
        _refuse_old(source, key, value)
        _check_key(key, source)
    parts = tuple(each.parse({k: v for k, v in tree.items() if k in each.keys}, source) for each in _parts())
    parameters = {k: _parameter(k, f"{source}: {k}", v) for k, v in tree.items() if k in config.setting_names()}
    plans = _plans(f"{source}: plans", tree["plans"]) if "plans" in tree else {}
    settings, built_in = (_settings(source, name, tree[name]) if name in tree else {} for name in SETTINGS)
    _refuse_held_out(source, built_in)
    varied = parts != Space().parts or not all(isinstance(values, tuple) for values in parameters.values())
    if plans and varied:
        raise InputError(f"{source}: with `plans`, settings may vary as lists only, and nothing else may")
    return Space(parts, parameters, settings, built_in, plans)


def _parts() -> list[type[SpacePart]]:
    return [operation.space for operation in operations.in_order()]


def _check_key(key: Any, source: str) -> None:
    if key in config.setting_names():
        if not key.startswith(SEARCHABLE) or key in FOR_ALL:
            raise InputError(f"{source}: {key} holds for a whole run and cannot vary; put it under `settings:`")
        return
    known = [*(key for part in _parts() for key in part.keys), "plans", *SETTINGS]
    if key not in known:
        hint = suggest(str(key), [*known, *config.setting_names()])
        raise InputError(f"{source}: unknown key {key!r}; {hint}")


def _settings(source: str, name: str, value: Any) -> Json:
    if not isinstance(value, dict):
        raise InputError(f"{source}: {name} must map settings to values, got {value!r}")
    settings = config.flatten(value)
    try:
        config.replace(RunConfig(), settings)
    except InputError as error:
        raise InputError(f"{source}: {name}: {error}") from None
    return settings


def _refuse_held_out(source: str, built_in: Json) -> None:
    """Held-out data may be named later, and any: what holds for the built-in data must not cut it."""
    wrong = [name for name in built_in if name.startswith(("data.max_held_out_", "data.paths", "data.train_paths"))]
    if wrong:
        raise InputError(f"{source}: built_in_settings: {wrong[0]} is of other data too; put it under settings")


def settings_on(space: Space, data: DataConfig) -> Json:
    """The settings of a space for these data sets: those for the built-in data hold where nothing else is trained on or
    scored."""
    return {**space.settings, **(space.built_in_settings if {*data.searched} == {BUILT_IN} else {})}


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
    readers = {key: part for part in _parts() for key in part.fixed_keys}
    if not isinstance(tree, dict):
        raise InputError(f"{where} must be {{drop_mlp: N, width_ratio: R}} or the like, got {tree!r}")
    for key in tree:
        if key not in readers:
            raise InputError(f"{where}: unknown key {key!r}; {suggest(str(key), readers)}")
    return {key: readers[key].parse_fixed(key, value, f"{where}.{key}") for key, value in tree.items()}


def _parameter(name: str, where: str, value: Any) -> Values:
    parsed = tuple(value) if isinstance(value, list) and value else parse_range(where, value)
    ends = parsed if isinstance(parsed, tuple) else (parsed.low, parsed.high)
    for end in ends:
        config.replace(RunConfig(), {name: as_setting(name, end)})
    return parsed


def to_dict(space: Space) -> Json:
    """Plain data, as `parse_space` reads it."""
    tree: Json = {name: value for part in space.parts for name, value in part.to_dict().items()}
    if space.plans:
        tree["plans"] = {name: _plan_dict(plan) for name, plan in space.plans.items()}
    for name, values in space.parameters.items():
        tree[name] = list(values) if isinstance(values, tuple) else values.to_dict()
    found = zip(SETTINGS, (space.settings, space.built_in_settings), strict=True)
    return {**tree, **{name: dict(settings) for name, settings in found if settings}}


def _plan_dict(plan: FixedPlan) -> Json:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plan.items()}
