"""From defaults, YAML and key=value to a configuration, and back to plain data. Unknown names and types are refused."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from effir_dist.core import renamed
from effir_dist.core.errors import InputError, check, suggest
from effir_dist.core.settings import RunConfig
from effir_dist.core.values import Json, as_float

SEARCHABLE = ("train.", "prune.ranking", "prune.width_multiple", "model.dimension")
"""Settings that may vary from trial to trial, but for `FOR_ALL`. The others hold for all trials of a run."""
FOR_ALL = ("train.teacher",)
"""Its embeddings are computed once a run."""
PROMPTS = ("model.query_prompt", "model.document_prompt")
"""Settings that a command line takes as they are typed: to YAML `query: ` is a mapping."""


def _convert(name: str, kind: Any, value: Any) -> Any:
    """`value` (from YAML or a command line) as `kind`, or an InputError that names the setting."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        literals = [k for k in typing.get_args(kind) if typing.get_origin(k) is typing.Literal]
        if value is None or any(value in typing.get_args(literal) for literal in literals):
            return value
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if typing.get_origin(kind) is tuple:
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(_convert(name, typing.get_args(kind)[0], v) for v in values)
    if typing.get_origin(kind) is dict and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return dict(value)
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        number = as_float(value)  # YAML reads 1e-4 as text
        if number is not None:
            check(math.isfinite(number), name, value, "a finite number")
            return number
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str | int | float):
        return str(value)
    raise InputError(f"{name} must be of type {getattr(kind, '__name__', kind)}, got {value!r}")


def setting_names() -> list[str]:
    """Every setting by its dotted name, as `key=value` and search spaces take it."""
    groups = {field.name: getattr(RunConfig(), field.name) for field in dataclasses.fields(RunConfig)}
    return [f"{name}.{field.name}" for name, group in groups.items() for field in dataclasses.fields(group)]


def replace(config: RunConfig, values: Json) -> RunConfig:
    """`config` with the settings of `values` (dotted name -> value) in place.

    Raises InputError for an unknown name (it says the nearest one), an earlier version's name (it says today's), a
    wrong type or a value out of range.
    """
    known = setting_names()
    groups: dict[str, Json] = {}
    for name, value in values.items():
        renamed.refuse(name, value)
        if name not in known:
            raise InputError(f"unknown setting {name!r}; {suggest(name, known)}")
        group, key = name.split(".", 1)
        kind = typing.get_type_hints(type(getattr(config, group)))[key]
        groups.setdefault(group, {})[key] = _convert(name, kind, value)
    changed = {g: dataclasses.replace(getattr(config, g), **v) for g, v in groups.items()}
    return dataclasses.replace(config, **changed)


def flatten(tree: Json) -> Json:
    """{'train': {'steps': 3}, 'train.seed': 1} -> {'train.steps': 3, 'train.seed': 1}."""
    flat: Json = {}
    for key, value in tree.items():
        if isinstance(value, dict) and "." not in str(key):
            flat.update({f"{key}.{k}": v for k, v in value.items()})
        else:
            flat[str(key)] = value
    return flat


def read_json(path: Path) -> Json:
    """The object in a JSON file that other tools wrote. Raises InputError where there is none."""
    return _json(path, dict)


def read_json_list(path: Path) -> list[Json]:
    """The objects in a JSON file's list, likewise."""
    found: list[Json] = _json(path, list)
    if not all(isinstance(each, dict) for each in found):
        raise InputError(f"{path} must hold a list of JSON objects")
    return found


def _json(path: Path, kind: type) -> Any:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(tree, kind):
        expected = "object" if kind is dict else "list"
        raise InputError(f"{path} must hold a JSON {expected}, got {type(tree).__name__}")
    return tree


def read_yaml(path: str | Path) -> Json:
    """The mapping in a YAML file, or an InputError that names file, line and fault."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    return parse_yaml(text, path)


def parse_yaml(text: str, path: str | Path) -> Json:
    """The mapping in a YAML text; `path` names it in errors."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path} must hold a mapping of settings, got {type(tree).__name__}")
    return tree


def parse_overrides(items: list[str]) -> Json:
    """['train.steps=10'] -> {'train.steps': 10}; values are read as YAML, prompts as they are typed unless quoted."""
    values = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise InputError(f"expected key=value, got {item!r} (for example train.steps=100)")
        if name in PROMPTS and text[:1] not in ("", "'", '"') and text not in ("null", "~"):
            values[name] = text
            continue
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"the value of {name!r} is not readable as YAML: {text!r}") from None
    return values


def to_dict(config: RunConfig) -> Json:
    """Plain nested data, for YAML and JSON."""
    tree = dataclasses.asdict(config)
    return {name: {k: list(v) if isinstance(v, tuple) else v for k, v in group.items()} for name, group in tree.items()}


def from_dict(tree: Json) -> RunConfig:
    """The inverse of `to_dict`, for the configurations of earlier versions too."""
    return replace(RunConfig(), flatten(renamed.settings(tree)))


def settings_of(suggested: Mapping[str, Any]) -> Json:
    """The suggested values that are settings, by dotted name."""
    return {name: value for name, value in suggested.items() if name.startswith(SEARCHABLE)}
