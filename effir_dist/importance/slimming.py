"""Saliency of neurons that needs training pairs: self-slimming (paper, section 3.2) and first-order Taylor.

Each MLP gets a gate z in R^F: W_down(ReLU(z) * h), h the input of the last matrix. With z = 1, where it starts, the
model computes what it did. Slimming trains z and reads where it ends; Taylor reads the loss's gradient at z = 1.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from effir_dist.core.errors import InputError
from effir_dist.core.settings import PruneConfig, TrainConfig
from effir_dist.models.families.base import mlp_width
from effir_dist.models.families.registry import family
from effir_dist.training.batches import Batch, Examples, batches
from effir_dist.training.collate import Collator
from effir_dist.training.engine import ChunkEncoder
from effir_dist.training.gradcache import batch_loss

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder


@contextmanager
def gated(encoder: Encoder) -> Iterator[list[nn.Parameter]]:
    """Within the block every MLP has a gate, [F] each. At its end the gates are gone."""
    row, width = family(encoder.model_config), mlp_width(encoder.model_config)
    blocks: Any = encoder.backbone.get_submodule(row.blocks)
    gates = [nn.Parameter(torch.ones(width, device=encoder.device)) for _ in blocks]

    def gate(z: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        return lambda _module, inputs: (inputs[0] * torch.relu(z).to(inputs[0].dtype), *inputs[1:])

    pairs = zip(blocks, gates, strict=True)
    hooks = [b.get_submodule(row.mlp_out).register_forward_pre_hook(gate(z)) for b, z in pairs]
    try:
        yield gates
    finally:
        for hook in hooks:
            hook.remove()


def regulariser(gates: list[nn.Parameter], beta: float) -> Tensor:
    """Sum over all neurons of sigmoid(beta * |ReLU(z)|): paper, section 3.2."""
    return torch.stack([torch.sigmoid(beta * torch.relu(z).abs()).sum() for z in gates]).sum()


def slimming_saliency(encoder: Encoder, examples: Examples, prune: PruneConfig, train: TrainConfig) -> np.ndarray:
    """[L, F]: ReLU(z) after the gates' training. The encoder's weights are as before.

    Raises InputError where a gate is no longer finite.
    """
    kept = {name: value.clone() for name, value in encoder.state_dict().items()} if prune.slim_weights else {}
    encoder.requires_grad_(prune.slim_weights)
    with gated(encoder) as gates:
        groups: list[dict[str, Any]] = [{"params": gates, "lr": prune.slim_learning_rate}]
        if prune.slim_weights:
            groups.append({"params": list(encoder.parameters()), "lr": train.learning_rate})
        optimizer = torch.optim.Adam(groups)
        for step, batch in enumerate(itertools.islice(batches(examples, train), prune.slim_steps), 1):
            loss = _loss(encoder, examples, batch, train) + prune.slim_lambda * regulariser(gates, prune.slim_beta)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not all(z.isfinite().all() for z in gates):
                raise InputError(
                    f"the gates of self-slimming are not finite after step {step}; lower prune.slim_learning_rate "
                    f"(now {prune.slim_learning_rate}) or choose another prune.ranking"
                )
        saliency = torch.stack([torch.relu(z.detach()) for z in gates]).cpu().numpy()
    if kept:
        encoder.load_state_dict(kept)
    encoder.requires_grad_(True)
    return saliency


def taylor_saliency(encoder: Encoder, examples: Examples, prune: PruneConfig, train: TrainConfig) -> np.ndarray:
    """[L, F]: mean over batches of |dL/dz| at z = 1, the first-order change of the loss without the neuron."""
    encoder.requires_grad_(False)
    with gated(encoder) as gates:
        sums = [torch.zeros_like(z) for z in gates]
        for batch in itertools.islice(batches(examples, train), prune.slim_steps):
            gradients = torch.autograd.grad(_loss(encoder, examples, batch, train), gates)
            for total, gradient in zip(sums, gradients, strict=True):
                total += gradient.abs()
    encoder.requires_grad_(True)
    return (torch.stack(sums) / prune.slim_steps).cpu().numpy()


def _loss(encoder: Encoder, examples: Examples, batch: Batch, train: TrainConfig) -> Tensor:
    plain = dataclasses.replace(train, distill_scores=0.0, distill_similarities=0.0, distill_embeddings=0.0)
    collated = Collator(encoder, examples, plain).collate(batch).map(lambda tensor: tensor.to(encoder.device))
    return batch_loss(ChunkEncoder(encoder), collated, plain)


def random_saliency(blocks: int, width: int, seed: int) -> np.ndarray:
    """[L, F] random numbers: the control."""
    return np.random.default_rng(seed).random((blocks, width), np.float32)
