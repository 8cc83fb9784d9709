"""What older versions wrote, in today's form: run folders outlive the names in them."""

from __future__ import annotations

from typing import Any


def spec(tree: dict[str, Any]) -> dict[str, Any]:
    """A `trial.json` or the head of a `result.json`, with today's names of search parameters."""
    return tree
