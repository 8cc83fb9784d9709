"""`--plan`: what a search would try and how large it is, from the model's config alone; nothing is started."""

from __future__ import annotations

from typing import Any

import numpy as np

from effir_dist import space as spaces
from effir_dist import space_file
from effir_dist.backbones import ModelDict, block_count, mlp_width
from effir_dist.pruning import count_parameters
from effir_dist.ranking import KINDS, Importance
from effir_dist.settings import RunConfig
from effir_dist.space import Space


def rows(space: Space, config: RunConfig, model_config: ModelDict) -> list[dict[str, Any]]:
    """The starting points of a space (all of it, where it has fixed plans), with how much goes and what is left.

    Which blocks go is settled by importance when a search starts; the counts hold for any of them.
    """
    blocks, width = block_count(model_config), mlp_width(model_config)
    # Stand-ins for scores that are not there yet. Random ones spread the narrowing over the MLPs, as real ones do.
    importance = Importance(*[tuple(float(blocks - i) for i in range(blocks))] * 3)
    neurons = {config.prune.ranking: np.random.default_rng(0).random((blocks, width), np.float32)}
    found: dict[str, dict[str, Any]] = {}
    for point in spaces.starting_points(space, config, blocks, importance):
        plan = spaces.plan_of(point, space, model_config, importance, neurons, config.prune)
        row = {
            "plan": point.get("plan", ""),
            "MLPs": len(plan.dropped_mlp),
            "attentions": len(plan.dropped_attention),
            "width": space.plans[point["plan"]].width_ratio if "plan" in point else point.get("width_ratio", 1.0),
            "parameters": count_parameters(model_config, plan),
        }
        found.setdefault(repr(row), row)
    return list(found.values())


def text(space: Space, config: RunConfig, model_config: ModelDict, name: str) -> str:
    """The table that `--plan` prints."""
    full, blocks = count_parameters(model_config), block_count(model_config)
    points = rows(space, config, model_config)
    wide = max(4, *(len(str(row["plan"])) for row in points))
    lines = [
        f"{name}: {full:,} parameters without LM head, {blocks} blocks, MLP width {mlp_width(model_config)}",
        *_free(space, blocks),
        f"{'plan':<{wide}}  MLPs  attn  width      B  B (exact)   share",
    ]
    for row in points:
        billions = row["parameters"] / 1e9
        lines.append(
            f"{row['plan']:<{wide}}  {-row['MLPs']:>4}  {-row['attentions']:>4}  {row['width']:>5.0%}  {billions:>5.1f}"
            f"  {billions:>9.3f}  {row['parameters'] / full:>6.1%}"
        )
    return "\n".join(lines)


def _free(space: Space, blocks: int) -> list[str]:
    """What may vary, one line each; then what the rows are."""
    if space.plans:
        lines = [f"  {name}: {list(values)}" for name, values in space.parameters.items() if isinstance(values, tuple)]
        return [*lines, f"{len(space.plans)} plans, and no others:"]
    kinds = [kind for kind in KINDS if kind in space.max_dropped]
    lines = [f"  drop_{kind}: a set of 0 to {space.limit(kind, blocks)}" for kind in kinds]
    tree = space_file.to_dict(space)
    lines += [f"  {name}: {tree[name]}" for name in ["width_ratio", *space.parameters] if name in tree]
    return ["what may vary:", *lines, "tried first:"]
