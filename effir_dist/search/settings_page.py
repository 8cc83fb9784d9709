"""`python -m effir_dist.search.settings_page`: all settings as the page docs/reference/settings.md, from their code."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import json
import re
import types
import typing
from typing import Any

from effir_dist.core.config import FOR_ALL, SEARCHABLE
from effir_dist.core.errors import command, expectations
from effir_dist.core.settings import RunConfig
from effir_dist.search.command_line import FLAGS, RESUMABLE

START = """# Settings

This page is made by `python -m effir_dist.search.settings_page`, which prints the settings of the version that is
installed.

A setting is given as `key=value` on the command line (`train.steps=100`), as a line of `settings:` in a search space
([search spaces](../guides/search-spaces.md)), and stands in a run's `config.yaml`. Values are read as YAML, so a list
is written `'search.rungs=[0.0, 0.3]'`. A value that is not allowed is refused before anything starts.

- **option**: the search's option that sets it too.
- **varies**: a search space may give it a range instead of a value, and it then differs from trial to trial.
- **resume**: it may change when a search goes on with `--resume`.
"""
WORDS = {int: "integer", float: "number", bool: "true or false", str: "text", dict: "mapping", type(None): "null"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting, as its code says."""

    name: str
    """Dotted, as `key=value` takes it."""
    kind: str
    """Its type in words."""
    default: str
    """As YAML."""
    meaning: str
    """The docstring below its field; empty where there is none."""
    allowed: tuple[str, ...]
    """What `check` expects of it, each completes 'must be ...'."""

    @property
    def notes(self) -> list[str]:
        """How it is set and where it may change."""
        options = {"search.time_budget": "time_budget", **{setting: flag for flag, setting in FLAGS.items()}}
        flag = options.get(self.name)
        found = [f"option `--{flag.replace('_', '-')}`"] if flag else []
        found += ["varies"] if self.name.startswith(SEARCHABLE) and self.name not in FOR_ALL else []
        return found + (["resume"] if self.name.startswith(RESUMABLE) else [])


def settings_of(group: str) -> list[Setting]:
    """The settings of a group, in the order of their fields."""
    with expectations() as expected:
        config = getattr(RunConfig(), group)
    meanings, kinds = _docstrings(type(config)), typing.get_type_hints(type(config))
    return [
        Setting(
            name := f"{group}.{field.name}",
            _kind_text(kinds[field.name]),
            _default_text(getattr(config, field.name)),
            meanings.get(field.name, ""),
            tuple(dict.fromkeys(expected.get(name, ()))),
        )
        for field in dataclasses.fields(config)
    ]


def _docstrings(kind: type) -> dict[str, str]:
    """Field -> the text below it."""
    tree = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            found[field.target.id] = _flat(ast.literal_eval(below.value))
    return found


def _flat(text: str) -> str:
    """A docstring on one line, with YAML's word for None."""
    return re.sub(r"\bNone\b", "`null`", " ".join(text.split()))


def _kind_text(kind: Any) -> str:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _either([_kind_text(part) for part in parts])
    if origin is typing.Literal:
        return _either([f"`{part}`" for part in parts])
    if origin is tuple:
        return f"list of {_kind_text(parts[0])}s"
    return WORDS[origin or kind]


def _either(texts: list[str]) -> str:
    """'a, b or c'."""
    *first, last = ", ".join(texts).replace(" or ", ", ").split(", ")
    return f"{', '.join(first)} or {last}" if first else last


def _default_text(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def _row(setting: Setting) -> str:
    limits = f"Must be {_as_code('; '.join(setting.allowed))}." if setting.allowed else ""
    notes = f"*{'; '.join(setting.notes)}*" if setting.notes else ""
    meaning = " ".join(filter(None, (setting.meaning, limits, notes)))
    cells = (f"`{setting.name}`", setting.kind, f"`{setting.default}`", meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _as_code(expected: str) -> str:
    """An error's text with its 'values' as `values`."""
    return re.sub(r"(?<!\w)'([^']*)'", lambda found: f"`{found[1] or chr(34) * 2}`", expected)


def page() -> str:
    """The whole page, as Markdown."""
    lines = [START]
    for field in dataclasses.fields(RunConfig):
        about = inspect.getdoc(type(getattr(RunConfig(), field.name))) or ""
        lines += [f"## {field.name}", "", _flat(about), ""]
        lines += ["| setting | type | default | meaning |", "|---|---|---|---|"]
        lines += [*map(_row, settings_of(field.name)), ""]
    return "\n".join(lines)


@command
def main() -> None:
    """Entry point."""
    about = "Print all settings, with type, default, limits and meaning, as Markdown."
    argparse.ArgumentParser(prog="python -m effir_dist.search.settings_page", description=about).parse_args()
    print(page(), end="")


if __name__ == "__main__":
    main()
