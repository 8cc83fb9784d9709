"""Gradients of an embedding's rows, for the tokens of a batch alone.

torch makes a gradient of the whole table [V, D] for every look-up, zeros but for some rows, and adds it to the others.
Here each token's gradient is added to its row of one float32 table, where the optimizer finds it.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

FEW = 4096
"""Rows up to which torch's own way is kept: tables of positions and token types."""


class Rows(Protocol):
    """Where rows of gradients go to: an engine."""

    masters: dict[nn.Parameter, Tensor]
    """Trained parameters -> what the optimizer updates for them."""

    def rows_of(self, parameter: nn.Parameter) -> Tensor:
        """The float32 gradient [V, D] of an embedding's table, to add rows to."""


class _LookUp(torch.autograd.Function):
    """[..] ids -> [.., D] rows of a table, whose gradient goes to `rows`, but for those of the padding token."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, table: nn.Parameter, rows: Rows, padding: int | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.table, ctx.rows, ctx.padding = table, rows, padding
        return nn.functional.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None, None]:
        (ids,) = ctx.saved_tensors
        places, found = ids.flatten(), gradients[0].flatten(0, -2).float()
        if ctx.padding is not None:
            found = found.masked_fill((places == ctx.padding)[:, None], 0)
        _add_rows(ctx.rows.rows_of(ctx.table), places, found)
        return None, None, None, None


def _add_rows(table: Tensor, places: Tensor, values: Tensor) -> None:
    """Add values [N, D] to rows of a table [V, D], in the same order every time; places [N] may repeat."""
    if table.is_cuda:  # index_add_ there adds in any order
        table.index_put_((places,), values, accumulate=True)
    else:
        table.index_add_(0, places, values)


class _Embedding(nn.Embedding):
    """An embedding whose gradient goes to `rows`."""

    rows: Rows

    def forward(self, input: Tensor) -> Tensor:  # torch's name
        found: Tensor = _LookUp.apply(input, self.weight, self.rows, self.padding_idx)
        return found


def into_rows(rows: Rows, module: nn.Module) -> set[nn.Parameter]:
    """Let the large embeddings of an engine's module that train give their gradients to `rows`; returns their tables.

    They change their class, below subclasses that do more with what is looked up. The module ends with its engine.
    """
    found: set[nn.Parameter] = set()
    for each in module.modules():
        if not isinstance(each, nn.Embedding) or each.num_embeddings <= FEW or each.weight not in rows.masters:
            continue
        kind, weight = type(each), cast(nn.Parameter, each.weight)
        each.rows = rows  # type: ignore[assignment]
        each.__class__ = _Embedding if kind is nn.Embedding else type(kind.__name__, (kind, _Embedding), {})
        found.add(weight)
    return found
