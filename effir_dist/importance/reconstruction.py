"""Least-squares reconstruction: what narrowed MLPs gave before they were narrowed, by the neurons that stay.

Channel pruning as He et al. (2017) do it: of a narrowed MLP the output matrix is fitted anew on calibration texts. The
paper's slimming leaves it as it is, and training has to find what a linear system gives at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from effir_dist.importance.ranking import stream_reader
from effir_dist.models.encoder import pad, prune_encoder
from effir_dist.models.families.base import Family
from effir_dist.models.families.registry import family
from effir_dist.models.pruning import PruningPlan

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder

RIDGE = 0.1
"""Weight of the distance from the old matrix, in mean squares of the neurons' activations."""


@dataclass
class _Known:
    """What the unpruned model gives in one block, of n tokens."""

    read: torch.Tensor  # [n, D] the residual stream that the MLP reads
    given: torch.Tensor  # [n, D] what its output matrix gives


def prune_and_reconstruct(
    encoder: Encoder,
    plan: PruningPlan,
    neurons: np.ndarray | None,
    texts: Sequence[str],
    tokens: int,
    ridge: float = RIDGE,
) -> Encoder:
    """Prune an encoder in place, and fit the output matrices (and biases) of its narrowed MLPs, unless `tokens` is 0;
    returns it.

    The first texts that make `tokens` tokens, at least one, pass the model as documents in one batch: once whole, and
    once pruned, where each narrowed MLP is fitted before its output goes on. So later ones are fitted to what the model
    before them gives now. An MLP is fitted to the stream [n, D] behind it, and so makes up for what earlier blocks
    lost, too; where a norm stands between (`sandwich`, `res_post`), to what it gave itself. neurons: [L, F] saliency.
    """
    narrow = [block for block, _ in plan.widths]
    if not (narrow and tokens):
        return prune_encoder(encoder, plan, neurons)
    ids, mask = _batch(encoder, texts, tokens)
    known = _observed(encoder, narrow, ids, mask)
    prune_encoder(encoder, plan, neurons)
    _fitted(encoder, known, ids, mask, ridge)
    return encoder


def _batch(encoder: Encoder, texts: Sequence[str], most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask [B, T] of the first texts with at most so many tokens, at least one text."""
    found = encoder.tokenize(list(texts), "document")
    count = int(np.searchsorted(np.cumsum(found.lengths), most, side="right"))
    return pad(found, np.arange(max(1, count)), encoder.pad_id, encoder.device)


def _observed(encoder: Encoder, blocks: Sequence[int], ids: torch.Tensor, mask: torch.Tensor) -> dict[int, _Known]:
    """What the unpruned model gives in some blocks."""
    real = mask.bool()
    reads: dict[int, torch.Tensor] = {}
    known: dict[int, _Known] = {}

    def given(block: int) -> Callable[..., None]:
        def hook(_module: Any, _args: Any, output: torch.Tensor) -> None:
            known[block] = _Known(reads.pop(block), output[real])

        return hook

    _passed(encoder, blocks, ids, mask, reads, lambda block, matrix: matrix.register_forward_hook(given(block)))
    return known


def _fitted(encoder: Encoder, known: dict[int, _Known], ids: torch.Tensor, mask: torch.Tensor, ridge: float) -> None:
    """Fit each narrowed MLP of a pruned model, in the order of a pass."""
    real, row = mask.bool(), family(encoder.model_config)
    reads: dict[int, torch.Tensor] = {}

    def fit(block: int) -> Callable[..., None]:
        def hook(matrix: torch.nn.Linear, args: tuple[torch.Tensor, ...]) -> None:
            before, goal = known.pop(block), reads.pop(block)
            wanted = before.given.float()
            if not row.norm_before_sum:
                factor = getattr(_blocks(encoder, row)[block], "residual_multiplier", 1.0)
                wanted = wanted + (before.read.float() - goal.float()) / factor
            _fit(matrix, args[0][real].float(), wanted, ridge)

        return hook

    _passed(encoder, [*known], ids, mask, reads, lambda block, matrix: matrix.register_forward_pre_hook(fit(block)))


def _passed(
    encoder: Encoder,
    blocks: Sequence[int],
    ids: torch.Tensor,
    mask: torch.Tensor,
    reads: dict[int, torch.Tensor],
    hooked: Callable[[int, torch.nn.Linear], Any],
) -> None:
    """Pass a batch with hooks on some blocks: `reads` gets the stream [n, D] of the real tokens that their MLPs read,
    `hooked` sets another one on their output matrices."""
    row, real = family(encoder.model_config), mask.bool()

    def read(block: int) -> Callable[..., None]:
        return lambda _module, args: reads.update({block: args[0][real]})

    hooks = []
    try:
        for block in blocks:
            own = _blocks(encoder, row)[block]
            hooks.append(own.get_submodule(stream_reader(row)).register_forward_pre_hook(read(block)))
            hooks.append(hooked(block, own.get_submodule(row.mlp_out)))
        with torch.no_grad():
            encoder(ids, mask)
    finally:
        for hook in hooks:
            hook.remove()


def _blocks(encoder: Encoder, row: Family) -> Any:
    return encoder.backbone.get_submodule(row.blocks)


def _fit(matrix: torch.nn.Linear, inputs: torch.Tensor, wanted: torch.Tensor, ridge: float) -> None:
    """Change a linear layer in place, to the least of |wanted - layer(inputs)|^2 + n r |change|^2, where r is `ridge`
    mean squares of the inputs. inputs [n, K], wanted [n, D]."""
    error = wanted - torch.nn.functional.linear(inputs, matrix.weight.float(), _float(matrix.bias))
    scale = inputs.square().mean().clamp(min=1e-12)  # 0 where no neuron is active
    if matrix.bias is not None:  # one more input, as large as the others
        inputs = torch.cat([inputs, scale.sqrt().expand(len(inputs), 1)], dim=1)
    system = inputs.T @ inputs
    system.diagonal().add_(ridge * len(inputs) * scale)
    change = torch.cholesky_solve(inputs.T @ error, torch.linalg.cholesky(system)).T
    matrix.weight.add_(change[:, : matrix.in_features].to(matrix.weight.dtype))
    if matrix.bias is not None:
        matrix.bias.add_((change[:, -1] * scale.sqrt()).to(matrix.bias.dtype))


def _float(values: torch.Tensor | None) -> torch.Tensor | None:
    return None if values is None else values.float()
