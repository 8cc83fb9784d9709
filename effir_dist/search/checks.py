"""A search held against its model, its data sets and its constraints, before anything starts."""

from __future__ import annotations

import numpy as np

from effir_dist.core.config import replace, settings_of
from effir_dist.core.errors import InputError, suggest
from effir_dist.core.measures import MEASURES, SPEED, Constraint, parse_constraint
from effir_dist.core.settings import SAMPLERS, DataConfig, RunConfig
from effir_dist.core.train_settings import RECOVER
from effir_dist.core.values import Point
from effir_dist.data import beir, pairs, roles, sets
from effir_dist.data.texts import spread
from effir_dist.importance.ranking import Importance
from effir_dist.models import pretrained
from effir_dist.models.families.base import ModelDict, block_count, mlp_width
from effir_dist.models.operations.base import Sizes
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import TrialSpec
from effir_dist.search.strategy import space as spaces
from effir_dist.search.strategy.space import Space
from effir_dist.training import gpu_share
from effir_dist.training.stages import tunes_base
from effir_dist.training.teacher import Find, TeacherModel, check_dimension, find_teacher, own_teacher


def check(space: Space, config: RunConfig, model_config: ModelDict) -> None:
    """Raises InputError for data sets and a sampler that are not there, for operations and fixed plans that do not fit
    the model, and for constraints that no plan of the space satisfies."""
    check_sets(config)
    _check_order(space, config)
    for part in space.parts:
        part.check(Sizes.of(model_config), config, space.parameters)
    _check_sampler(space, config, model_config)
    known = [c for c in Goal.of(config.search).constraints if c.measure.known and c.at_most]
    if known or space.plans:
        points = smallest_points(space, config, block_count(model_config))
        scores = stand_ins(model_config, config, space)
        specs = [spec_of(point, space, config, model_config, *scores) for point in points]
        values = [spec.values(model_config) for spec in specs]
        for constraint in known:
            _check_can_hold(constraint, values)


def _check_sampler(space: Space, config: RunConfig, model_config: ModelDict) -> None:
    """Raises InputError where `search.sampler` is from elsewhere and not to be had, or cannot do this search."""
    if config.search.sampler in SAMPLERS:
        return
    from effir_dist.search.strategy.sampler_classes import check_sampler  # optuna takes a second

    distributions = spaces.distributions(space, block_count(model_config))
    check_sampler(config.search, distributions, Goal.of(config.search).directions)


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


def sharing_warnings(model_config: ModelDict, config: RunConfig) -> list[str]:
    """What may go wrong where several trials share a GPU: too little memory, and speeds that others disturb."""
    found = gpu_share.warnings(model_config, config)
    named = [*config.search.objectives, *(parse_constraint(text).name for text in config.search.constraints)]
    timed = [name for name in named if MEASURES[name].source == SPEED]
    if timed and config.resources.may_share:
        found.append(f"{timed[0]} is measured while other trials use the same GPU; whole GPUs give steadier numbers")
    return found


def teacher_of(
    config: RunConfig, space: Space, source: pretrained.Source, find: Find = pretrained.find
) -> TeacherModel | None:
    """The teacher from outside that trials distil from; None where there is none. Raises InputError where it is not
    there or does not fit, or where it is named and nothing is distilled from it."""
    if not config.train.teacher:
        return None
    if config.train.recovers:
        return _teacher_of_base(config, source, find)
    wanted = spaces.teacher_settings(space, config)
    if wanted is None:
        raise InputError(
            f"train.teacher is {config.train.teacher}, and no trial distils from it; set train.distill_similarities or "
            "train.distill_embeddings above 0, and train.steps or train.epochs"
        )
    found = find_teacher(config, find)
    if wanted.distill_embeddings:
        check_dimension(found, own_teacher(config, source))
    return found


def _teacher_of_base(config: RunConfig, source: pretrained.Source, find: Find) -> TeacherModel:
    """The same where it teaches the base, and the base the trials."""
    train = config.train
    if not tunes_base(config):
        raise InputError(
            f"train.teacher is {train.teacher}, which would teach the base, and {source.name} is a retriever already, "
            "which is not tuned first; leave it out, or set model.retriever=false"
        )
    found, own = find_teacher(config, find), own_teacher(config, source)
    if not train.distill_similarities and (not train.distill_embeddings or found.dimension != own.dimension):
        raise InputError(
            f"train.teacher is {train.teacher}, and the base learns nothing from it; set train.distill_similarities "
            f"above 0, or train.distill_embeddings with a teacher of {own.dimension} dimensions, not {found.dimension}"
        )
    return found


def _check_order(space: Space, config: RunConfig) -> None:
    """A base is tuned once: `tune_prune_recover` holds for all trials."""
    if "train.order" in space.parameters and (config.train.recovers or RECOVER in _choices(space, "train.order")):
        raise InputError(
            f"train.order={RECOVER} holds for all trials of a run; set it on the command line, and leave train.order "
            "out of what varies in the search space"
        )


def _choices(space: Space, name: str) -> tuple[object, ...]:
    values = space.parameters[name]
    return values if isinstance(values, tuple) else ()


def sample_texts(config: RunConfig) -> list[str]:
    """Queries and documents of a run, some of each data set, that show what it is about."""
    seed = config.search.seed
    found = [roles.search_collection(path, config.data, seed) for path in config.data.paths]
    trained = pairs.training_pairs(config.data, seed)
    columns = [column for each in found for column in (each.queries, each.documents)]
    return [text for column in (*columns, trained.queries, trained.positives) for text in spread(column)]


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
    point: Point,
    space: Space,
    config: RunConfig,
    model_config: ModelDict,
    importance: Importance,
    neurons: dict[str, np.ndarray],
) -> TrialSpec:
    """The trial that suggested values would be."""
    settled = replace(config, settings_of(point))
    return TrialSpec(0, point, {}, spaces.plan_of(point, space, model_config, importance, neurons, settled))


def smallest_points(space: Space, config: RunConfig, blocks: int) -> list[Point]:
    """Suggested values of the smallest plan: all that may go is gone; of a space with fixed plans all of them."""
    if space.plans:
        same = tuple(map(float, range(blocks)))
        return spaces.starting_points(space, config, blocks, Importance(same, same, same))
    smallest = [part.smallest(blocks, space.parameters) for part in space.parts]
    return [{name: value for values in smallest for name, value in values.items()}]
