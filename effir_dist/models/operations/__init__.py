"""Pruning operations, one a module: each prunes a model, counts what is left, and may be varied by a search.

Every module of this folder is imported, and the operations in it are known by themselves.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

from effir_dist.core.errors import InputError, suggest
from effir_dist.core.values import Json
from effir_dist.models.operations.base import Operation


def _found() -> Iterator[type[Operation]]:
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            own = inspect.isclass(value) and value.__module__ == module.__name__
            if own and issubclass(value, Operation) and not inspect.isabstract(value):
                yield value


OPERATIONS: dict[str, type[Operation]] = {operation.kind: operation for operation in _found()}
"""By kind."""


def in_order() -> list[type[Operation]]:
    """All operations, in the order in which a plan holds them."""
    return sorted(OPERATIONS.values(), key=lambda operation: operation.order)


def to_json(operation: Operation) -> Json:
    """Plain data."""
    return {"kind": operation.kind, **operation.to_json()}


def from_json(tree: Json) -> Operation:
    """The inverse of `to_json`. Raises InputError for an unknown kind, and as `Operation.from_json` does."""
    kind, values = tree["kind"], {name: value for name, value in tree.items() if name != "kind"}
    if kind not in OPERATIONS:
        raise InputError(f"unknown pruning operation {kind!r}; {suggest(str(kind), OPERATIONS)}")
    return OPERATIONS[kind].from_json(values)
