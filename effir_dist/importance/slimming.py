"""Saliency of neurons that needs training pairs: self-slimming (paper, section 3.2) and first-order Taylor.

Each MLP gets a gate z in R^F: W_down(ReLU(z) * h), h the input of the last matrix. With z = 1, where it starts, the
model computes what it did. Slimming trains z and reads where it ends; Taylor reads the loss's gradient at z = 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from effir_dist.core.errors import InputError
from effir_dist.core.settings import PruneConfig, TrainConfig
from effir_dist.importance.gate_memory import of_gates
from effir_dist.models.families.base import mlp_width
from effir_dist.models.families.registry import family
from effir_dist.training.batches import Examples
from effir_dist.training.collate import CollatedBatch
from effir_dist.training.engine import running_engine
from effir_dist.training.gradcache import backward
from effir_dist.training.trainer import shares

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder

GATE = "gate"


@contextmanager
def gated(encoder: Encoder) -> Iterator[list[nn.Parameter]]:
    """Within the block every MLP has a gate, [F] each, a parameter of its last matrix's module. At its end the gates
    are gone."""
    row, width = family(encoder.model_config), mlp_width(encoder.model_config)
    blocks: Any = encoder.backbone.get_submodule(row.blocks)
    modules = [block.get_submodule(row.mlp_out) for block in blocks]
    gates = [nn.Parameter(torch.ones(width, device=encoder.device)) for _ in modules]
    hooks = [module.register_forward_pre_hook(_gate) for module in modules]
    for module, z in zip(modules, gates, strict=True):
        module.register_parameter(GATE, z)
    try:
        yield gates
    finally:
        for module, hook in zip(modules, hooks, strict=True):
            hook.remove()
            delattr(module, GATE)


def _gate(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """By the module's own gate: an engine trains a copy of the module."""
    return (_Product.apply(inputs[0], torch.relu(getattr(module, GATE)).to(inputs[0].dtype)), *inputs[1:])


class _Product(torch.autograd.Function):
    """h [..., F] times gates z [F]. It saves the product, which the matrix behind it saves as well, in place of h: so a
    model with gates takes no more memory than one without. Where z is 0, so is the slope of the ReLU before it."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, z: Tensor) -> Tensor:
        product = h * z
        ctx.save_for_backward(product, z)
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        product, z = ctx.saved_tensors
        at_gates = (gradients[0] * product).flatten(0, -2).sum(0)
        return gradients[0] * z, torch.where(z > 0, at_gates / z, 0)


def regulariser(gates: list[Tensor], beta: float) -> Tensor:
    """Sum over all neurons of sigmoid(beta * |ReLU(z)|): paper, section 3.2."""
    return torch.stack([torch.sigmoid(beta * torch.relu(z).abs()).sum() for z in gates]).sum()


@contextmanager
def _engine(
    encoder: Encoder, examples: Examples, train: TrainConfig, steps: int, weights: bool
) -> Iterator[tuple[Any, list[Tensor], Iterable[CollatedBatch]]]:
    """An engine for the gates (and the weights, if they train), the gates in float32, and a batch for each step.

    It is the one that a training has, so that texts pass in its chunks, with its checkpointing and in its dtype.
    """
    encoder.requires_grad_(weights)
    with gated(encoder), running_engine(encoder, train) as engine:
        named = engine.module.named_parameters()
        gates = [engine.masters[p] for name, p in named if name.endswith(f".{GATE}")]
        with shares(engine, encoder, examples, train, None, 0, steps) as found:
            yield engine, gates, found
    encoder.requires_grad_(True)


def slimming_saliency(encoder: Encoder, examples: Examples, prune: PruneConfig, train: TrainConfig) -> np.ndarray:
    """[L, F]: ReLU(z) after the gates' training. With `prune.slim_weights` the encoder's weights end trained.

    Raises InputError where a gate is no longer finite. After an error the weights are lost.
    """
    train = of_gates(train)
    with _engine(encoder, examples, train, prune.slim_steps, prune.slim_weights) as (engine, gates, found):
        _set_rate(engine.optimizer, gates, prune.slim_learning_rate)
        for step, batch in enumerate(found, 1):
            backward(engine, batch, train)
            _add_regulariser(gates, prune)
            engine.step()
            if not all(z.isfinite().all() for z in gates):
                raise InputError(
                    f"the gates of self-slimming are not finite after step {step}; lower prune.slim_learning_rate "
                    f"(now {prune.slim_learning_rate}) or choose another prune.ranking"
                )
        return torch.stack([torch.relu(z.detach()) for z in gates]).cpu().numpy()


def _set_rate(optimizer: torch.optim.Optimizer, gates: list[Tensor], rate: float) -> None:
    """Give the gates a learning rate of their own."""
    (group,) = optimizer.param_groups
    own = {id(z) for z in gates}
    group["params"] = [p for p in group["params"] if id(p) not in own]
    optimizer.add_param_group({"params": gates, "lr": rate})


def _add_regulariser(gates: list[Tensor], prune: PruneConfig) -> None:
    """Add the regulariser's gradient to that of the loss."""
    leaves = [z.detach().requires_grad_() for z in gates]
    found = torch.autograd.grad(prune.slim_lambda * regulariser(leaves, prune.slim_beta), leaves)
    for z, gradient in zip(gates, found, strict=True):
        assert z.grad is not None
        z.grad += gradient


def taylor_saliency(encoder: Encoder, examples: Examples, prune: PruneConfig, train: TrainConfig) -> np.ndarray:
    """[L, F]: mean over batches of |dL/dz| at z = 1, the first-order change of the loss without the neuron."""
    train = of_gates(train)
    with _engine(encoder, examples, train, prune.slim_steps, weights=False) as (engine, gates, found):
        sums = [torch.zeros_like(z) for z in gates]
        for batch in found:
            backward(engine, batch, train)
            for total, z in zip(sums, gates, strict=True):
                assert z.grad is not None
                total += z.grad.abs()
            engine.optimizer.zero_grad()
        return (torch.stack(sums) / prune.slim_steps).detach().cpu().numpy()


def random_saliency(blocks: int, width: int, seed: int) -> np.ndarray:
    """[L, F] random numbers: the control."""
    return np.random.default_rng(seed).random((blocks, width), np.float32)
