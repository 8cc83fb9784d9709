"""What a search will cost, before it starts: operations from the model's shape, or seconds from trials that finished.

Counts are upper bounds: every text as long as it may be, every trial as dear as an unpruned one. Nothing here needs
weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from effir_dist.core.errors import InputError
from effir_dist.core.model_settings import RIDGES
from effir_dist.core.settings import RunConfig, TrainConfig
from effir_dist.data import pairs, roles, sets
from effir_dist.models.families.base import ModelDict, block_count, mlp_width, need
from effir_dist.models.flops import count_flops
from effir_dist.runs.sizes import text
from effir_dist.training.batches import distinct
from effir_dist.training.schedule import count_steps
from effir_dist.training.stages import stage_training
from effir_dist.training.teacher import TeacherModel

Share = TypeVar("Share", float, np.ndarray)
"""Of the unpruned model's FLOPs: one plan's, or [P]."""


@dataclass(frozen=True)
class Sizes:
    """How much data a trial reads; None where that is not known."""

    pairs: int | None
    queries: int | None
    documents: int | None
    reason: str = ""
    """Why something is not known."""
    has_negatives: bool = True
    scored: str = ""
    """Data sets that score a trial, with their queries and documents."""
    tested: str = ""
    """The same of the finished front."""
    left_out: tuple[str, ...] = ()
    """Lines on queries that lost a role, as their text has another."""

    def negatives(self, config: RunConfig) -> int:
        """Hard negatives of a query in a step; none where the data has none."""
        return config.train.hard_negatives if self.has_negatives else 0


def data_sizes(config: RunConfig) -> Sizes:
    """The data that trains and scores where it is on this machine; nothing is built or fetched."""
    seed = config.search.seed
    try:
        missing = [path for path in config.data.searched if not sets.is_here(path)]
        if missing:
            return Sizes(None, None, None, f"{', '.join(missing)} is not on this machine yet")
        trained = pairs.training_pairs(config.data, seed)
        scored = [roles.search_collection(path, config.data, seed) for path in config.data.paths]
        judged = config.data.paths if config.data.test_split else ()
        tested = [roles.test_collection(path, config.data, seed) for path in judged]
        left_out = tuple(map(str, roles.left_out(config.data, seed)))
    except InputError as error:
        return Sizes(None, None, None, str(error))
    queries, documents = sum(len(c.queries) for c in scored), sum(len(c.documents) for c in scored)
    return Sizes(
        pairs=len(trained.queries),
        queries=queries,
        documents=documents,
        has_negatives=any(trained.negatives),
        scored=text({c.name: c.size} for c in scored),
        tested=text({c.name: c.size} for c in tested),
        left_out=left_out,
    )


@dataclass(frozen=True)
class TeacherCost:
    """What a teacher's embeddings take, once a search."""

    queries: int
    passages: int
    operations: float
    bytes: int
    """Of the vectors, in the run's folder."""


def teacher_cost(config: RunConfig, wanted: TrainConfig, teacher: TeacherModel) -> TeacherCost | None:
    """With all texts as long as they may be; None where the data is not on this machine."""
    if data_sizes(config).pairs is None:
        return None
    pairs_of_run = pairs.training_pairs(config.data, config.search.seed)
    queries, passages = (len(texts) for texts in distinct(pairs_of_run, wanted.hard_negatives > 0))
    lengths = (teacher.settings.max_query_length, teacher.settings.max_document_length)
    query, passage = (count_flops(teacher.model_config, np.array([length])) for length in lengths)
    size = np.dtype(teacher.settings.disk_dtype).itemsize
    operations = queries * query + passages * passage
    return TeacherCost(queries, passages, operations, size * teacher.dimension * (queries + passages))


def trial_operations(
    model_config: ModelDict, config: RunConfig, sizes: Sizes, stage: str = ""
) -> tuple[float | None, float | None]:
    """Operations of a trial's training and of its scoring, unpruned; None where the data's size is not known. stage:
    `TrialSpec.stage`."""
    model, train = config.model, config.train
    lengths = (model.query_length, model.document_length)
    query, document = (count_flops(model_config, np.array([length])) for length in lengths)
    steps = steps_of(config, sizes, stage)
    # Backward: as much again for the activations, and again for the weights, which adapters do without.
    again = bool(train.gradient_checkpointing) + bool(train.gradcache_queries or train.gradcache_tokens)
    passes = (2 if train.lora_rank else 3) + again
    step = passes * train.batch_size * (query + (1 + sizes.negatives(config)) * document)
    scoring = None
    if sizes.queries is not None and sizes.documents is not None:
        scoring = sizes.queries * query + sizes.documents * document
    return (None if steps is None else steps * step), scoring


def reconstruction_operations(model_config: ModelDict, config: RunConfig) -> float:
    """Operations of `prune.reconstruct_tokens` in a trial, at most: as if all MLPs were fitted at their whole width F.
    An attention's matrix, which is fitted in place of a dropped MLP's, has fewer inputs."""
    one_pass, fits = _reconstruction(model_config, config)
    return 2 * one_pass + fits


def reconstruction_work(model_config: ModelDict, config: RunConfig) -> dict[str, float]:
    """The same in tokens that pass the unpruned model, for `fitting_tokens`: `reconstruct` of one pass, and of all MLPs
    at their whole width `fit`, or `fit_dual` where there are fewer tokens than neurons."""
    length = config.model.document_length
    token = count_flops(model_config, np.array([length])) / length
    one_pass, fits = _reconstruction(model_config, config)
    name = "fit_dual" if _dual(model_config, config) else "fit"
    return {"reconstruct": one_pass / token, name: fits / token}


def fitting_tokens(work: Mapping[str, float], share: Share) -> Share:
    """Tokens that cost what fitting a plan does that leaves such a share of the unpruned model's FLOPs: a pass of the
    unpruned model and one of the pruned, and fits that grow with the square of the widths, or with the widths where
    they are dual. work: `reconstruction_work`, or without any of it where nothing is fitted."""
    fits = work.get("fit", 0.0) * share**2 + work.get("fit_dual", 0.0) * share
    return work.get("reconstruct", 0.0) * (1 + share) + fits


def screening_share(work: Mapping[str, float], rung: float) -> float:
    """What it costs to score the unpruned model on the lowest rung, after such a share of its training, as a share of a
    full trial. work: that of `load_work`, in any unit."""
    fitting = fitting_tokens(work, 1.0)
    return (rung * work["train"] + work["low"] + fitting) / (work["train"] + work["score"] + fitting)


def _dual(model_config: ModelDict, config: RunConfig) -> bool:
    return mlp_width(model_config) > config.prune.reconstruct_tokens


def _reconstruction(model_config: ModelDict, config: RunConfig) -> tuple[float, float]:
    """Operations of one pass of the n tokens, and of fitting all MLPs, each by products of its neurons' activations
    [F, F] or of its tokens [n, n], whichever are fewer: these, the product of activations and outputs [F, D], a
    Cholesky factor for each of the ridges and at the end, and two triangular solutions (`importance.reconstruction`).
    """
    tokens, length = config.prune.reconstruct_tokens, config.model.document_length
    one_pass = count_flops(model_config, np.array([length])) * tokens / length
    width, stream = mlp_width(model_config), need(model_config, "hidden_size")
    least = min(width, tokens)
    fit = tokens * width * (least + 2 * stream) + (len(RIDGES) + 1) * least**3 / 3 + 2 * least**2 * stream
    return one_pass, block_count(model_config) * fit


def steps_of(config: RunConfig, sizes: Sizes, stage: str = "") -> int | None:
    """Optimizer steps of a trial; None where they depend on data of unknown size. stage: `TrialSpec.stage`."""
    train, whole = config.train, config.train.steps
    if not whole and train.epochs:
        if sizes.pairs is None:
            return None
        whole = count_steps(train, sizes.pairs, 1)
    return stage_training(config, stage, whole).steps if train.recovers else whole
