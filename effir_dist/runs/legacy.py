"""What older versions wrote, in today's form: run folders outlive the names in them."""

from __future__ import annotations

from effir_dist.core import renamed
from effir_dist.core.measures import BLOCKS, BLOCKS_SHARE, MEASURES
from effir_dist.core.values import Json


def spec(tree: Json) -> Json:
    """A `trial.json` or the first part of a `result.json`, with today's names of search parameters."""
    known = {"suggested": renamed.suggested, "distributions": renamed.distributions}
    found = {name: convert(tree[name]) for name, convert in known.items() if isinstance(tree.get(name), dict)}
    return {**tree, **found}


def values(found: dict[str, float]) -> dict[str, float]:
    """The measures of a record, with the share that older versions left out."""
    full = found.get(MEASURES[BLOCKS].unpruned)
    if BLOCKS_SHARE in found or not full or BLOCKS not in found:
        return found
    return {**found, BLOCKS_SHARE: found[BLOCKS] / full}
