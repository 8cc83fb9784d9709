"""InfoNCE over the passages of all ranks, and distillation losses: functions of one matrix of similarities."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from effir_dist.core.settings import TrainConfig


def gather(rows: Tensor) -> Tensor:
    """The rows of every rank, in the order of the ranks, with gradients: [b, D] -> [W * b, D]; W ranks, equal b.

    The backward pass sums a row's gradients from the losses of all ranks. So the mean over ranks of the parameters'
    gradients, which DeepSpeed takes, is the gradient of the mean loss, without a factor.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(rows))


def info_nce(logits: Tensor, targets: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Mean over this rank's queries of -log softmax(logits) at their positives (van den Oord, 2018).

    logits [b, P]: similarities over the temperature; targets [b]: the columns of the positives. excluded [b, P], bool,
    is true where a passage is no negative of the query; see `not_negatives`. With equal b on every rank the mean over
    ranks equals the loss of one rank with the whole batch.
    """
    return F.cross_entropy(logits if excluded is None else logits.masked_fill(excluded, -torch.inf), targets)


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean over queries of KL(softmax(teacher) || softmax(logits)), both [b, P] (paper, section 4.1: Hinton, 2015).

    A passage without a teacher's score (NaN) is left out on both sides. Every row has at least one other.
    """
    unknown = teacher.isnan()
    goal = teacher.masked_fill(unknown, -torch.inf).log_softmax(dim=1)
    found = logits.masked_fill(unknown, -torch.inf).log_softmax(dim=1)
    return (goal.exp() * (goal - found).masked_fill(unknown, 0.0)).sum(dim=1).mean()


def truncated(teacher: Tensor, student: Tensor, unit_length: bool = True) -> Tensor:
    """A teacher's vectors [N, D] in the first dimensions that its student's [N, d] have, too.

    unit_length: whether the vectors are l2-normalised; then what is left of them is, again.
    """
    if teacher.shape[1] == student.shape[1]:
        return teacher
    kept = teacher[:, : student.shape[1]]
    return F.normalize(kept, dim=1) if unit_length else kept


def unlikeness(student: Tensor, teacher: Tensor, unit_length: bool = True) -> Tensor:
    """How far the student's vectors [N, D] are from its teacher's [N, D], mean over texts.

    1 - cosine of vectors of length 1. Of others |s - t|^2 / (2 |t|^2), which is the same where both have length 1, and
    keeps the teacher's length as well as its direction.
    """
    if unit_length:
        return 1 - (student * teacher).sum(1).mean()
    distance = (student - teacher).square().sum(1)
    return (distance / (2 * teacher.square().sum(1).clamp(min=1e-12))).mean()


def not_negatives(passages: np.ndarray, answers: Sequence[Collection[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Which passages of a batch are no negatives: ids [P] and each query's answers -> bool [P], (row, column) [n, 2].

    A passage that stands in the batch more than once counts once, at its first place; one that answers a query (its id
    is among the query's) is no negative of that query.
    """
    order = np.argsort(passages, kind="stable")
    ids = passages[order]
    repeated = np.zeros(len(ids), bool)
    repeated[order[1:]] = ids[1:] == ids[:-1]
    rows = np.repeat(np.arange(len(answers)), [len(found) for found in answers])
    wanted = np.fromiter((answer for found in answers for answer in found), np.int64, len(rows))
    first, last = np.searchsorted(ids, wanted, "left"), np.searchsorted(ids, wanted, "right")
    counts = last - first
    places = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts) + np.repeat(first, counts)
    return repeated, np.stack([np.repeat(rows, counts), order[places]], axis=1)


@dataclass(frozen=True)
class Targets:
    """What the similarities of r queries are compared with. P: passages of all ranks, 1 + N of each query."""

    positives: Tensor  # [r] columns
    repeated: Tensor  # [P] bool: `not_negatives`
    excluded: Tensor  # [n, 2] rows and columns: `not_negatives`
    group: Tensor  # [r, 1 + N] columns of a query's own passages
    scores: Tensor | None = None  # [r, 1 + N] of a teacher, NaN where it has none
    queries: Tensor | None = None  # [r, D] by the unpruned model or another teacher
    passages: Tensor | None = None  # [P, D] by the same
    unit_length: bool = True  # whether embeddings are l2-normalised, so that their inner products are cosines
    known_unit_length: bool | None = None  # the same of the teacher's; None for as the model's own

    def map(self, function: Callable[[Tensor], Tensor]) -> Targets:
        """With function(tensor) in place of every tensor."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors: Any = {name: function(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    def mask(self) -> Tensor:
        """[r, P] bool: true where a passage is no negative of the query; false in the column of its positive."""
        excluded = self.repeated.repeat(len(self.positives), 1)
        excluded.index_put_((self.excluded[:, 0], self.excluded[:, 1]), excluded.new_ones(()))
        return excluded.scatter(1, self.positives[:, None], False)


def retrieval_loss(queries: Tensor, passages: Tensor, targets: Targets, config: TrainConfig) -> Tensor:
    """InfoNCE and the distillations of `config`, mean over r queries [r, D] of this rank; passages [P, D] of all ranks.

    Similarities are inner products, in float32: cosines of l2-normalised embeddings, else as they are.
    """
    queries, passages = queries.float(), passages.float()
    logits = queries @ passages.T / config.temperature
    loss = info_nce(logits, targets.positives, targets.mask())
    if targets.scores is not None:
        given = targets.scores / config.teacher_temperature
        loss = loss + config.distill_scores * distillation(logits.gather(1, targets.group), given)
    if targets.queries is None or targets.passages is None:
        return loss
    unit = targets.unit_length
    alike = targets.known_unit_length in (None, unit)
    if config.distill_similarities:
        divisor = config.temperature if alike else config.teacher_temperature
        known = targets.queries @ targets.passages.T / divisor
        loss = loss + config.distill_similarities * distillation(logits, known)
    if config.distill_embeddings:
        own = targets.group.flatten()
        sides = [(queries, targets.queries), (passages[own], targets.passages[own])]
        if unit and not alike:
            sides = [(found, F.normalize(known, dim=1)) for found, known in sides]
        apart = [unlikeness(found, truncated(known, found, unit), unit) for found, known in sides]
        loss = loss + config.distill_embeddings * (apart[0] + apart[1]) / 2
    return loss
