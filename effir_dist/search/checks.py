"""A search held against its model, its data sets and its constraints, before anything starts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from effir_dist.core.config import replace, settings_of
from effir_dist.core.errors import InputError, suggest
from effir_dist.core.measures import Constraint
from effir_dist.core.settings import DataConfig, RunConfig
from effir_dist.data import beir, sets
from effir_dist.importance.ranking import KINDS, Importance
from effir_dist.models.families.backbones import ModelDict, block_count, mlp_width
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import TrialSpec
from effir_dist.search.strategy import space as spaces
from effir_dist.search.strategy.space import Range, Space


def check(space: Space, config: RunConfig, model_config: ModelDict) -> None:
    """Raises InputError for data sets that are not there, for dimensions that the model has not, and for a constraint
    that no plan of the space can keep to."""
    check_sets(config)
    hidden = int(model_config["hidden_size"])
    if max(config.model.dimension, *_dimensions(space)) > hidden:
        raise InputError(f"model.dimension is beyond {hidden}, the model's own; name smaller ones, or 0 (all)")
    known = [c for c in Goal.of(config.search).constraints if c.measure.known and c.at_most]
    if known:
        points = smallest_points(space, config, block_count(model_config))
        scores = stand_ins(model_config, config, space)
        values = [spec_of(point, space, config, model_config, *scores).values(model_config) for point in points]
        for constraint in known:
            _check_can_hold(constraint, values)


def check_sets(config: RunConfig) -> None:
    """Raises InputError for data sets that no path has, and for held-out ones that are not there.

    Of those that are held out the names of the files are looked at, and nothing else.
    """
    names = [sets.dataset_name(path) for path in config.data.paths]
    for name in config.search.quality_sets:
        if name not in names:
            raise InputError(f"search.quality_sets names {name!r}, which is not scored; {suggest(name, names)}")
    for path in config.data.held_out:
        if sets.dataset_name(path) in names:
            raise InputError(f"data.held_out names {path}, and the search scores on a data set so named; rename one")
        if path != sets.BUILT_IN:
            beir.require_split(sets.resolve(path), config.data.test_split or DataConfig.test_split)


def _check_can_hold(constraint: Constraint, values: list[dict[str, float]]) -> None:
    violations = [v for v in (constraint.violation(each, {}) for each in values) if v is not None]
    if violations and min(violations) > 0:
        least = 100 * (min(violations) + constraint.bound)
        raise InputError(
            f"search.constraints: {constraint.text!r} cannot hold: the smallest plan of this search space has "
            f"{least:.1f} % of the unpruned model's; widen the space or the constraint"
        )


def stand_ins(model_config: ModelDict, config: RunConfig, space: Space) -> tuple[Importance, dict[str, np.ndarray]]:
    """Importance and neurons' scores while there are none: sizes do not depend on which block or neuron goes.

    Random scores of neurons spread the narrowing over the MLPs, as real ones do.
    """
    blocks, width = block_count(model_config), mlp_width(model_config)
    falling = tuple(float(blocks - i) for i in range(blocks))
    scores = np.random.default_rng(0).random((blocks, width), np.float32)
    return Importance(falling, falling, falling), dict.fromkeys(spaces.rankings(space, config), scores)


def spec_of(
    point: dict[str, Any],
    space: Space,
    config: RunConfig,
    model_config: ModelDict,
    importance: Importance,
    neurons: dict[str, np.ndarray],
) -> TrialSpec:
    """The trial that suggested values would be; its `model.dimension` is always said."""
    prune = replace(config, settings_of(point)).prune
    plan = spaces.plan_of(point, space, model_config, importance, neurons, prune)
    return TrialSpec(0, {"model.dimension": config.model.dimension, **point}, {}, plan)


def smallest_points(space: Space, config: RunConfig, blocks: int) -> list[dict[str, Any]]:
    """Suggested values of the smallest plan: all that may go is gone; of a space with fixed plans all of them."""
    same = tuple(map(float, range(blocks)))
    order = Importance(same, same, same)
    if space.plans:
        return spaces.starting_points(space, config, blocks, order)
    width = space.width_ratio
    point: dict[str, Any] = dict.fromkeys(spaces.width_names(space), width.low) if width else {}
    for kind in KINDS:
        # Whole blocks from the other end, so that they are none whose MLP or attention is gone already.
        sequence = order.drop_order(kind)[:: -1 if kind == "block" else 1]
        gone = sequence[: space.limit(kind, blocks)]
        point |= {f"drop_{kind}.{block}": True for block in gone}
    least = min(_dimensions(space), key=lambda d: d or math.inf)
    return [{**point, "model.dimension": least} if least else point]


def _dimensions(space: Space) -> list[int]:
    """The dimensions that a space varies, or the ends of their range; 0 where it varies none."""
    values: Range | tuple[Any, ...] = space.parameters.get("model.dimension", (0,))
    return [int(v) for v in (values if isinstance(values, tuple) else (values.low, values.high))]
