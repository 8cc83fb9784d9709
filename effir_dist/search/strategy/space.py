"""The search space: what may vary, as Optuna distributions; which plan suggested values mean; where to start.

What varies of a pruning operation is its own business (models/operations); here are settings, fixed plans, and how all
of it goes together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from effir_dist.core.config import replace
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig, TrainConfig
from effir_dist.core.values import Point
from effir_dist.importance.ranking import Importance
from effir_dist.models import operations
from effir_dist.models.families.base import ModelDict
from effir_dist.models.operations.base import Sizes
from effir_dist.models.operations.drop import DropPart
from effir_dist.models.operations.neuron_order import NeuronOrder
from effir_dist.models.operations.space_part import FixedValue, Known, SpacePart
from effir_dist.models.operations.values import Range, Values, value_count
from effir_dist.models.pruning import PruningPlan

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution

__all__ = ["FixedPlan", "Range", "Space", "value_count"]

FixedPlan = Mapping[str, FixedValue]
"""A plan by name, for any model: `drop_mlp`, `width_ratio` and the like -> what each is given."""


def _no_parts() -> tuple[SpacePart, ...]:
    return tuple(operation.space.parse({}, "") for operation in operations.in_order())


@dataclass(frozen=True)
class Space:
    """What may vary."""

    parts: tuple[SpacePart, ...] = field(default_factory=_no_parts)
    """What it says of each pruning operation, in the order in which a plan holds them."""
    parameters: dict[str, Values] = field(default_factory=dict)
    """Settings by dotted name."""
    settings: Point = field(default_factory=dict)
    """Settings that hold for every trial, below those of the command line."""
    built_in_settings: Point = field(default_factory=dict)
    """The same where all that is trained on and scored is the built-in data; above `settings`."""
    plans: dict[str, FixedPlan] = field(default_factory=dict)
    """Name -> plan. Where there are any, they are tried with all combinations of `parameters`, and nothing else."""


def as_setting(name: str, value: Any) -> Any:
    """5.0 -> 5 where the setting is a whole number: ranges hold floats."""
    group, key = name.split(".", 1)
    default = getattr(getattr(RunConfig(), group), key)
    return int(value) if isinstance(default, int) and isinstance(value, float) and value.is_integer() else value


def distributions(space: Space, blocks: int) -> dict[str, BaseDistribution]:
    """Optuna's distributions: the plan, or what varies of each operation; then the settings."""
    from optuna.distributions import CategoricalDistribution

    found: dict[str, BaseDistribution] = {}
    if space.plans:
        found["plan"] = CategoricalDistribution(list(space.plans))
    for part in space.parts:
        found.update(part.distributions(blocks))
    return {**found, **{name: _distribution(name, values) for name, values in space.parameters.items()}}


def _distribution(name: str, values: Values) -> BaseDistribution:
    """Of a setting."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, tuple):
        return CategoricalDistribution(values)
    if isinstance(as_setting(name, values.low), int):
        return IntDistribution(int(values.low), int(values.high), log=values.log, step=int(values.step or 1))
    return FloatDistribution(values.low, values.high, step=values.step, log=values.log)


def plan_of(
    suggested: Point,
    space: Space,
    model_config: ModelDict,
    importance: Importance,
    neurons: Mapping[str, np.ndarray | NeuronOrder],
    config: RunConfig,
) -> PruningPlan:
    """The plan that suggested values mean. neurons: [L, F] for each ranking, or their order. config: the trial's.

    Raises InputError where the plan does not fit the model; it names the plan where the space has fixed ones.
    """
    try:
        *_, plan = _plans_so_far(suggested, space, model_config, Known(config, importance, neurons))
        plan.check(model_config)
    except InputError as error:
        raise InputError(f"plans.{suggested['plan']}: {error}" if "plan" in suggested else str(error)) from None
    return plan


def _plans_so_far(suggested: Point, space: Space, model_config: ModelDict, known: Known) -> Iterator[PruningPlan]:
    """The plan after each part of the space."""
    plan, sizes = PruningPlan(), Sizes.of(model_config)
    fixed = space.plans[str(suggested["plan"])] if "plan" in suggested else None
    for part in space.parts:
        if fixed is None:
            more = part.operations(suggested, sizes, known)
        else:
            more = part.fixed({key: fixed[key] for key in part.fixed_keys if key in fixed}, sizes, known)
        if more:
            plan = plan.with_operations(more)
            sizes = plan.sizes(model_config)
        yield plan


def emptied(
    suggested: Point, space: Space, model_config: ModelDict, importance: Importance, plan: PruningPlan
) -> list[int]:
    """The MLPs that a plan drops only because its width ratio left them no neuron."""
    plans = _plans_so_far(suggested, space, model_config, Known(RunConfig(), importance, {}))
    asked = next(plan for part, plan in zip(space.parts, plans, strict=True) if isinstance(part, DropPart))
    return sorted({*plan.dropped_mlp} - {*asked.dropped_mlp})


def starting_points(space: Space, config: RunConfig, blocks: int, importance: Importance) -> list[Point]:
    """What is known to be worth trying: the unpruned model, then what each operation would try first; last the paper's
    proportions, half of the MLPs dropped and 70 % of the remaining width kept.

    Of a space with `plans`: all of them, with all combinations of the settings that vary."""
    if space.plans:
        choices = [space.plans, *(v for v in space.parameters.values() if isinstance(v, tuple))]
        names = ["plan", *space.parameters]
        return [dict(zip(names, values, strict=True)) for values in itertools.product(*choices)]
    base = _unpruned(space, config, blocks)
    # Widths before drops: the order of importance, by which layers are dropped here, is a bad guide for some models.
    points = [base, *({**base, **start} for part in reversed(space.parts) for start in part.starts(blocks, importance))]
    usual = [values for part in space.parts if (values := part.usual(blocks, importance))]
    if len(usual) > 1:
        points.append({**base, **{name: value for values in usual for name, value in values.items()}})
    return points


def _unpruned(space: Space, config: RunConfig, blocks: int) -> Point:
    """Values that prune nothing, and the settings of the run where the space has them, else its nearest ones."""
    found = distributions(space, blocks)
    unpruned = {name: value for part in space.parts for name, value in part.unpruned(found).items()}
    return {n: unpruned[n] if n in unpruned else _start_value(n, dist, config) for n, dist in found.items()}


def rankings(space: Space, config: RunConfig) -> list[str]:
    """The rankings of neurons that a search may ask for."""
    choices = space.parameters.get("prune.ranking", ())
    return sorted({config.prune.ranking, *(choices if isinstance(choices, tuple) else ())})


def _reach(space: Space, config: RunConfig, name: str) -> Any:
    """The largest value that a numeric setting can have in a trial."""
    group, key = name.split(".", 1)
    varied = space.parameters.get(name, (getattr(getattr(config, group), key),))
    return max(varied) if isinstance(varied, tuple) else varied.high


def needs_scores(space: Space, config: RunConfig) -> bool:
    """Whether a trial may distil a teacher's scores."""
    return bool(_reach(space, config, "train.distill_scores"))


def teacher_settings(space: Space, config: RunConfig) -> TrainConfig | None:
    """The most that a trial may ask of the unpruned model as its teacher; None where none asks."""
    names = ("steps", "epochs", "distill_similarities", "distill_embeddings", "hard_negatives")
    most = replace(config, {f"train.{name}": _reach(space, config, f"train.{name}") for name in names}).train
    return most if most.distils_itself else None


def grid_size(space: Space) -> int:
    """Trials in a space with `plans`: each of them with every combination of the settings that vary."""
    choices = [values for values in space.parameters.values() if isinstance(values, tuple)]
    return len(space.plans) * math.prod(len(values) for values in choices)


def plan_count(space: Space, blocks: int) -> int | None:
    """How many different plans a space without `plans` holds, at most; None where operations vary continuously."""
    counts = [part.count(blocks) for part in space.parts]
    return None if None in counts else math.prod(count or 1 for count in counts)


def _start_value(name: str, distribution: BaseDistribution, config: RunConfig) -> Any:
    """The setting of the run, or the space's nearest one."""
    choices = getattr(distribution, "choices", None)
    group, key = name.split(".", 1)
    value = getattr(getattr(config, group), key)
    if choices:
        return value if value in choices else choices[0]
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    if low <= value <= high:
        return value
    return low if value < low else high
