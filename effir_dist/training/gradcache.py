"""GradCache (Gao et al., 2021, section 3.2): the gradient of a large batch in the memory of a part of it.

The contrastive loss needs all embeddings of a batch at once. The backward pass of a text needs only the gradient at
its own embedding. So: embed chunk by chunk without activations, take the loss and its gradient at the embeddings, then
embed each chunk again with activations and back-propagate that gradient through it. The last chunk keeps its
activations from the first pass. A batch of n chunks costs (n - 1) / n of a forward pass more, one chunk nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from effir_dist.core.settings import TrainConfig
from effir_dist.training.collate import CollatedBatch, Group, map_groups, move
from effir_dist.training.losses import Targets, gather, retrieval_loss


def backward(engine: Any, batch: CollatedBatch, config: TrainConfig) -> Tensor:
    """Backward pass of the mean `retrieval_loss` through an engine, chunk by chunk; returns the loss, detached.

    It works in all ZeRO stages: to DeepSpeed the chunks are accumulation steps of one batch, reduced at the last.
    """
    *earlier, last = batch.chunks
    device = batch.order.device
    parts, states = [], []
    with torch.no_grad():
        for chunk in earlier:
            states.append(_random_state(device) if config.dropout else None)
            parts.append(engine(moved(chunk, device)))
    kept = engine(moved(last, device))
    loss, gradient = loss_and_gradient(torch.cat([*parts, kept.detach()]), batch, config)
    *shares, own = gradient.split([*map(len, parts), len(kept)])
    engine.set_gradient_accumulation_boundary(not earlier)
    engine.backward((kept * own).sum())
    for number, (chunk, state, share) in enumerate(zip(earlier, states, shares, strict=True), 1):
        if state is not None:  # the dropout of the first pass
            _set_random_state(device, state)
        engine.set_gradient_accumulation_boundary(number == len(earlier))
        engine.backward((engine(moved(chunk, device)) * share).sum())
    return loss


def loss_and_gradient(embeddings: Tensor, batch: CollatedBatch, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient at the embeddings [rows, D] of all groups. Similarities are computed block by block.

    The gradient is the sum over the losses of all ranks.
    """
    embeddings.requires_grad_()
    rows = embeddings[batch.order]
    count = sum(len(block.positives) for block in batch.targets)
    queries, passages = rows[:count], gather(rows[count:])
    at_queries, at_passages = queries.detach().requires_grad_(), passages.detach().requires_grad_()

    def of_block(q: Tensor, targets: Targets) -> Tensor:
        loss = retrieval_loss(q, at_passages, targets, config)
        (loss * (len(q) / count)).backward()
        return loss.detach()

    loss = _mean(at_queries, batch, of_block)
    gradients = (at_queries.grad, at_passages.grad)
    (gradient,) = torch.autograd.grad((queries, passages), embeddings, gradients)
    return loss, gradient


def _mean(queries: Tensor, batch: CollatedBatch, loss: Callable[[Tensor, Targets], Tensor]) -> Tensor:
    """The mean over all queries of a loss that is a mean over the queries of a block."""
    sizes = [len(targets.positives) for targets in batch.targets]
    parts = zip(queries.split(sizes), batch.targets, strict=True)
    return torch.stack([loss(q, targets) * (len(q) / len(queries)) for q, targets in parts]).sum()


def moved(chunk: Sequence[Group], device: torch.device) -> list[Group]:
    """A chunk's groups on the device."""
    return map_groups(chunk, lambda tensor: move(tensor, device))


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
