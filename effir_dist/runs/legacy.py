"""What older versions wrote, in today's form: run folders outlive the names in them."""

from __future__ import annotations

from effir_dist.core import renamed
from effir_dist.core.values import Json


def spec(tree: Json) -> Json:
    """A `trial.json` or the first part of a `result.json`, with today's names of search parameters."""
    known = {"suggested": renamed.suggested, "distributions": renamed.distributions}
    found = {name: convert(tree[name]) for name, convert in known.items() if isinstance(tree.get(name), dict)}
    return {**tree, **found}
