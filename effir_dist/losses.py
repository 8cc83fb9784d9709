"""InfoNCE over the passages of all ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def gather(rows: Tensor) -> Tensor:
    """The rows of every rank, in the order of the ranks, with gradients: [b, D] -> [W * b, D]; W ranks, equal b.

    The backward pass sums what each rank's loss says of a row, so that the mean over ranks of the parameters'
    gradients (what DeepSpeed takes) is the gradient of the mean loss, without a factor.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(rows))


def info_nce(queries: Tensor, passages: Tensor, temperature: float, excluded: Tensor | None = None) -> Tensor:
    """Mean over this rank's queries of -log softmax(q . p / temperature) at their positives (van den Oord, 2018).

    queries [b, D] and passages [b * (1 + N), D] are of this rank and l2-normalised; each query's positive is
    followed by its N hard negatives. Every query is set against the passages of all W ranks. excluded
    [b, W * b * (1 + N)], bool, is true where a passage (in the order of the ranks) is no negative of the query;
    see `not_negatives`. The mean over ranks equals the loss of one rank with the whole batch.

    Raises ValueError where the shapes do not fit.
    """
    group, rest = divmod(len(passages), len(queries))
    if rest or not group or queries.shape[1] != passages.shape[1]:
        raise ValueError(f"passages must be [{len(queries)} * (1 + N), D], got {list(passages.shape)}")
    rank = dist.get_rank() if dist.is_initialized() else 0
    scores = queries.float() @ gather(passages.float()).T / temperature
    targets = (torch.arange(len(queries), device=scores.device) + rank * len(queries)) * group
    if excluded is not None:
        scores = scores.masked_fill(excluded, -torch.inf)
    return F.cross_entropy(scores, targets)


def not_negatives(passages: Tensor, positives: list[set[int]], targets: Tensor) -> Tensor:
    """Which passages of a batch are no negatives of a query: [P] ids, b sets of ids, [b] columns -> bool [b, P].

    A passage that answers the query (its id is in the query's set) is none, and a passage that stands in the batch
    more than once counts once, at its first place. `targets`, the columns of the positives, stay in.
    """
    seen: set[int] = set()
    repeated: list[bool] = []
    columns: dict[int, list[int]] = {}  # every place an id stands at
    for column, passage in enumerate(passages.tolist()):
        repeated.append(passage in seen)
        seen.add(passage)
        columns.setdefault(passage, []).append(column)
    excluded = torch.tensor(repeated).repeat(len(positives), 1)
    for row, answers in enumerate(positives):
        places = [column for passage in answers for column in columns.get(passage, ())]
        excluded[row, places] = True
    excluded[torch.arange(len(positives)), targets] = False
    return excluded
