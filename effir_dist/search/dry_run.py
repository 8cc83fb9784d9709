"""`--dry-run`: what a search would try, how large it is and what it will cost, from configs. Nothing is started."""

from __future__ import annotations

import math
from dataclasses import dataclass

from effir_dist.core.errors import InputError
from effir_dist.core.measures import SIZE
from effir_dist.core.settings import DataConfig, ModelConfig, RunConfig, TrainConfig
from effir_dist.data.named import names
from effir_dist.data.roles import described
from effir_dist.data.sets import dataset_name
from effir_dist.importance import gate_memory
from effir_dist.models import pretrained
from effir_dist.models.families import registry
from effir_dist.models.families.base import ModelDict, block_count, mlp_width
from effir_dist.models.operations.narrow import asked_ratio
from effir_dist.models.pruning import count_parameters
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import TrialRecord
from effir_dist.search.checks import sharing_warnings, spec_of, stand_ins, teacher_of
from effir_dist.search.cost_estimate import teacher_cost
from effir_dist.search.cost_text import cost_lines, operations_text
from effir_dist.search.strategy import space as spaces
from effir_dist.search.strategy import space_file
from effir_dist.search.strategy.space import Space
from effir_dist.training import gpu_share, memory
from effir_dist.training.teacher import TeacherModel, own_teacher


@dataclass(frozen=True)
class Row:
    """A plan of the table."""

    plan: str
    """Its name, where the space has fixed plans."""
    mlps: int
    """MLPs dropped."""
    attentions: int
    width: float
    parameters: int
    dimension: int
    violated: str
    """The constraints that it violates, with ','."""


def rows(space: Space, config: RunConfig, model_config: ModelDict) -> list[Row]:
    """The starting points of a space (all of it, where it has fixed plans), with how much goes and what is left.

    Which blocks go is settled by importance when a search starts; the counts hold for any of them.
    """
    importance, neurons = stand_ins(model_config, config, space)
    found: dict[Row, None] = {}
    goal = Goal.of(config.search)
    for point in spaces.starting_points(space, config, block_count(model_config), importance):
        spec = spec_of(point, space, config, model_config, importance, neurons)
        facts, values = spec.facts(model_config), spec.values(model_config)
        plan = str(point.get("plan", ""))
        row = Row(
            plan=plan,
            mlps=len(facts.dropped_mlp),
            attentions=len(facts.dropped_attention),
            width=asked_ratio(space.plans[plan] if plan else point),
            parameters=int(values[SIZE]),
            dimension=facts.dimension,
            violated=", ".join(goal.violated_by_plan(values)),
        )
        found.setdefault(row)
    return list(found)


def text(
    space: Space,
    config: RunConfig,
    model_config: ModelDict,
    name: str,
    records: list[TrialRecord] | None = None,
    tflops: float = 0.0,
    about: str = "",
) -> str:
    """What `--dry-run` prints. records: of a run that is to go on. tflops: 10^12 operations a second that the hardware
    of a trial keeps up. about: which of the model's settings came from where."""
    full, blocks = count_parameters(model_config), block_count(model_config)
    points = rows(space, config, model_config)
    unit, size = ("B", 1e9) if full >= 1e9 else ("M", 1e6)
    wide = max(4, *(len(row.plan) for row in points))
    lines = [
        f"{name}: {full:,} parameters without LM head, {blocks} blocks, MLP width {mlp_width(model_config)}",
        *_looked_up(config.model),
        *([about] if about else []),
        *gpu_share.summary(model_config, config),
        *(f"warning: {each}" for each in sharing_warnings(model_config, config)),
        _checkpoint(config, model_config),
        *_teachers(space, config, pretrained.Source(name, "", model_config)),
        *gate_memory.summary(model_config, config, spaces.rankings(space, config)),
        *_free(space, blocks),
        *_size(space, blocks),
        *_goal(config),
        *_roles(config.data),
        "the plans:" if space.plans else "tried first:",
        f"{'plan':<{wide}}  MLPs  attn  width      {unit}  {unit} (exact)   share",
    ]
    for row in points:
        count = row.parameters / size
        # The unpruned model is tried in any case: everything is measured by it.
        left_out = f"  not run: {row.violated}" if row.violated and row.parameters < full else ""
        lines.append(
            f"{row.plan:<{wide}}  {-row.mlps:>4}  {-row.attentions:>4}  {row.width:>5.0%}  {count:>5.1f}"
            f"  {count:>9.3f}  {row.parameters / full:>6.1%}{left_out}"
        )
    return "\n".join([*lines, *cost_lines(config, space, model_config, records or [], tflops)])


def _teachers(space: Space, config: RunConfig, source: pretrained.Source) -> list[str]:
    """Who teaches, where a trial distils from a retriever, and what its embeddings take before the trials; why not,
    where a search would refuse it."""
    wanted, recovers = spaces.teacher_settings(space, config), config.train.recovers
    try:
        outside = teacher_of(config, space, source, pretrained.find_row)
        own = own_teacher(config, source)
    except InputError as error:
        return [f"teacher: {error}"]
    if not recovers:
        who = f"teacher: {outside.name if outside else 'the unpruned model'}"
        return _teacher(config, outside or own, wanted, who) if wanted else []
    of_base = _teacher(config, outside, config.train, f"teacher of the base: {outside.name}") if outside else []
    return of_base + (_teacher(config, own, wanted, "teacher of the trials: the base") if wanted else [])


def _teacher(config: RunConfig, found: TeacherModel, wanted: TrainConfig, who: str) -> list[str]:
    """One of them. who: how its line begins."""
    count, dtype = count_parameters(found.model_config), memory.dtype_of(config)
    weights = count * (4 if dtype == "float32" else 2) / 1e9
    line = f"{who}, {count:,} parameters, dimension {found.dimension}; {weights:,.1f} GB of a GPU for its weights"
    cost = teacher_cost(config, wanted, found)
    if cost is None:
        return [line]
    texts = f"{cost.queries:,} queries and {cost.passages:,} passages"
    once = f"{texts} are encoded once, {operations_text(cost.operations)}, to {cost.bytes / 1e6:,.1f} MB of vectors"
    return [line, f"  {once}"]


def _looked_up(model: ModelConfig) -> list[str]:
    """Says so where the sizes of a named backbone are in no published config that was read."""
    row = None if model.path else registry.backbone(model.backbone)
    if row is None or row.looked_up:
        return []
    return ["its sizes were not looked up in a published config; a search compares its checkpoint with them first"]


def _checkpoint(config: RunConfig, model_config: ModelDict) -> str:
    """What a checkpoint of the unpruned model takes, beside the notice that a spot machine gets."""
    trained = memory.lora_parameters(model_config, config.train.lora_rank) or count_parameters(model_config)
    size = memory.CHECKPOINT_BYTES * trained
    return (
        f"a checkpoint: up to {size / 1e9:,.2g} GB, {size / memory.CHECKPOINT_RATE:,.0f} s at "
        f"{memory.CHECKPOINT_RATE / 1e9:g} GB/s (a spot machine has 30 s on Google Cloud, 120 s on AWS)"
    )


def _free(space: Space, blocks: int) -> list[str]:
    """What may vary, one line each."""
    if space.plans:
        lines = [f"  {name}: {list(values)}" for name, values in space.parameters.items() if isinstance(values, tuple)]
        return [*lines, f"{len(space.plans)} plans, and no others"]
    lines = [f"  {line}" for part in space.parts for line in part.describe(blocks)]
    tree = space_file.to_dict(space)
    lines += [f"  {name}: {tree[name]}" for name in space.parameters]
    return ["what may vary:", *lines]


def _size(space: Space, blocks: int) -> list[str]:
    """How many different plans and trials there are."""
    if space.plans:
        return [f"size: {spaces.grid_size(space)} trials"]
    plans = spaces.plan_count(space, blocks)
    whole = {n: isinstance(spaces.as_setting(n, 1.0), int) for n in space.parameters}
    counts = {name: spaces.value_count(values, whole[name]) for name, values in space.parameters.items()}
    continuous = [key for part in space.parts if part.count(blocks) is None for key in part.to_dict()]
    endless = [*continuous, *(name for name, count in counts.items() if count is None)]
    if endless:
        known = "" if plans is None else f"up to {plans:,} different plans, and "
        return [f"size: {known}no end of trials, as {', '.join(endless)} is continuous"]
    trials = (plans or 1) * math.prod(count or 1 for count in counts.values())
    return [f"size: up to {plans:,} different plans, {trials:,} trials"]


def _goal(config: RunConfig) -> list[str]:
    goal = Goal.of(config.search)
    constraints = f"; constraints: {', '.join(c.text for c in goal.constraints)}" if goal.constraints else ""
    return [
        f"objectives: {', '.join(goal.objectives)}{constraints}",
        f"sampler: {config.search.sampler}; scheduler: {config.search.scheduler}",
        f"seeds: search.seed {config.search.seed}, train.seed {config.train.seed}",
    ]


def _roles(data: DataConfig) -> list[str]:
    held = f"; held out: {', '.join(map(dataset_name, data.held_out))}" if data.held_out else ""
    return [f"data: {described(data)}{held}", *(f"  {line}" for line in names.plans([*data.searched, *data.held_out]))]
