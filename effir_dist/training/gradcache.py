"""The gradient of a whole batch in the memory of a part of it (GradCache: Gao et al., 2021, section 3.2).

The contrastive loss needs all embeddings of a batch at once, but of each text's activations only the gradient of its
own embedding: embed in chunks without activations, take the loss and its gradient at the embeddings, then embed each
chunk again with activations and send that gradient back through it. The last chunk keeps its activations from the first
pass: a batch of one chunk costs nothing more, one of n chunks (n - 1) / n of a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from effir_dist.core.settings import TrainConfig
from effir_dist.training.collate import Group, Step, map_groups, move
from effir_dist.training.losses import Targets, gather, retrieval_loss


def backward(engine: Any, step: Step, config: TrainConfig) -> Tensor:
    """Backward pass of `step_loss` through an engine, a chunk at a time; returns the loss, detached.

    All ZeRO stages: DeepSpeed takes the chunks for accumulation steps of one batch, and reduces at the last.
    """
    *earlier, last = step.chunks
    device = step.order.device
    parts, states = [], []
    with torch.no_grad():
        for chunk in earlier:
            states.append(_random_state(device) if config.dropout else None)
            parts.append(engine(moved(chunk, device)))
    kept = engine(moved(last, device))
    loss, gradient = loss_and_gradient(torch.cat([*parts, kept.detach()]), step, config)
    *shares, own = gradient.split([*map(len, parts), len(kept)])
    engine.set_gradient_accumulation_boundary(not earlier)
    engine.backward((kept * own).sum())
    for number, (chunk, state, share) in enumerate(zip(earlier, states, shares, strict=True), 1):
        if state is not None:  # dropout as before
            _set_random_state(device, state)
        engine.set_gradient_accumulation_boundary(number == len(earlier))
        engine.backward((engine(moved(chunk, device)) * share).sum())
    return loss


def step_loss(embed: Callable[[Sequence[Group]], Tensor], step: Step, config: TrainConfig) -> Tensor:
    """The same loss in one piece, with its graph. embed: groups of texts -> the embeddings of all, [rows, D]."""
    device = step.order.device
    rows = embed([group for chunk in step.chunks for group in moved(chunk, device)])[step.order]
    count = sum(len(block.positives) for block in step.targets)
    passages = gather(rows[count:])
    return _mean(rows[:count], step, lambda q, targets: retrieval_loss(q, passages, targets, config))


def loss_and_gradient(embeddings: Tensor, step: Step, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient at the embeddings [rows, D] of all groups; similarities in blocks, never all at once.

    The gradient is the sum over ranks of what each one's loss says of these rows.
    """
    embeddings.requires_grad_()
    rows = embeddings[step.order]
    count = sum(len(block.positives) for block in step.targets)
    queries, passages = rows[:count], gather(rows[count:])
    at_queries, at_passages = queries.detach().requires_grad_(), passages.detach().requires_grad_()

    def of_block(q: Tensor, targets: Targets) -> Tensor:
        loss = retrieval_loss(q, at_passages, targets, config)
        (loss * (len(q) / count)).backward()
        return loss.detach()

    loss = _mean(at_queries, step, of_block)
    gradients = (at_queries.grad, at_passages.grad)
    (gradient,) = torch.autograd.grad((queries, passages), embeddings, gradients)
    return loss, gradient


def _mean(queries: Tensor, step: Step, loss: Callable[[Tensor, Targets], Tensor]) -> Tensor:
    """Over all queries, of a loss that is a mean over those of a block."""
    sizes = [len(targets.positives) for targets in step.targets]
    parts = zip(queries.split(sizes), step.targets, strict=True)
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
