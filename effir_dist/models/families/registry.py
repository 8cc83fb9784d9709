"""All families: those of this folder's modules, which are found by themselves, and those that a caller registers."""

from __future__ import annotations

import argparse
import functools
import importlib
import pkgutil
import textwrap
from collections.abc import Callable
from pathlib import Path

from effir_dist.core.errors import InputError, suggest
from effir_dist.models import families
from effir_dist.models.families.base import Backbone, Family, ModelDict

FAMILIES: dict[str, Family] = {}
"""Model type -> its family."""
BACKBONES: dict[str, Backbone] = {}
"""Name -> the checkpoint."""
SHORT_NAMES: dict[str, str] = {}
"""Short name -> the name of a backbone."""
_OBSERVERS: list[Callable[[Family], object]] = []


def register(row: Family) -> Family:
    """Add a family, with its named backbones. Raises InputError where its model type is there already."""
    if row.model_type in FAMILIES:
        raise InputError(f"a family of model type {row.model_type!r} is registered already")
    FAMILIES[row.model_type] = row
    BACKBONES.update({backbone.name: backbone for backbone in row.backbones})
    SHORT_NAMES.update(row.short_names)
    for observer in _OBSERVERS:
        observer(row)
    return row


def for_each(observer: Callable[[Family], object]) -> None:
    """Call `observer` with every family, now and for those that are registered later."""
    _OBSERVERS.append(observer)
    for row in FAMILIES.values():
        observer(row)


def family(config: ModelDict) -> Family:
    """The family of a model config. Raises InputError for a model type without a row."""
    model_type = str(config.get("model_type", ""))
    if model_type not in FAMILIES:
        raise InputError(
            f"model type {model_type!r} has no row in effir_dist/models/families; {suggest(model_type, FAMILIES)}"
        )
    return FAMILIES[model_type]


def backbone(name: str) -> Backbone:
    """The row of a named backbone. Raises InputError, with the known names, for any other."""
    key = SHORT_NAMES.get(name, name)
    if key not in BACKBONES:
        raise InputError(f"unknown backbone {name!r}; known: {names()} (or pass --model PATH)")
    return BACKBONES[key]


def is_backbone(name: str) -> bool:
    """Whether `--model` means a backbone by its name; a folder of that name comes first."""
    return (name in BACKBONES or name in SHORT_NAMES) and not Path(name).is_dir()


class _LineByLine(argparse.HelpFormatter):
    """Wraps each line of a text by itself, and no name at its hyphens."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        wrap = functools.partial(textwrap.fill, width=width, break_on_hyphens=False)
        lines = [wrap(line, initial_indent=indent, subsequent_indent=indent) for line in text.splitlines()]
        return "\n".join(lines)


def list_in(parser: argparse.ArgumentParser) -> None:
    """Add all named backbones to a command's help, a line for each family."""
    parser.formatter_class = _LineByLine
    parser.add_argument_group("backbones, by family", names().replace("; ", "\n"))


def names() -> str:
    """All named backbones by family, with their short names."""
    short = {row: f"{row} (or {name})" for name, row in SHORT_NAMES.items()}
    rows = [(row.model_type, [short.get(each.name, each.name) for each in row.backbones]) for row in FAMILIES.values()]
    return "; ".join(f"{model_type}: {', '.join(own)}" for model_type, own in rows if own)


for _module in pkgutil.iter_modules(families.__path__):
    _row = getattr(importlib.import_module(f"{families.__name__}.{_module.name}"), "FAMILY", None)
    if isinstance(_row, Family):
        register(_row)
