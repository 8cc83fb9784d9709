"""`effir_dist.training.train` for hundreds of short trainings of a small model: the same steps, no engine to start.

DeepSpeed's engine takes longer to start on MiniLM than all steps of a rung do. The batches, the loss, the schedule and
the arithmetic (AdamW in float32, clipped by the global norm) are the product's; tests/test_search_table.py holds the
weights of both against each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

from effir_dist import attention
from effir_dist.batches import Examples, batches, distils_itself
from effir_dist.chunks import step_loss
from effir_dist.encoder import Encoder
from effir_dist.schedule import learning_rate
from effir_dist.settings import TrainConfig
from effir_dist.steps import Group, Maker


def join_alone() -> None:
    """The process group of one rank that the loss asks for, without DeepSpeed."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def fit(encoder: Encoder, examples: Examples, config: TrainConfig, stops: Sequence[int]) -> Iterator[int]:
    """Train in place on this process's device; yields after each of the steps `stops`, for the encoder to be scored.

    config.steps is the length of the schedule. Weights in bfloat16 have float32 copies that are stepped, as in the
    product's. Dropout, chunks, teachers and adapters are left out: raises ValueError where `config` asks for them.
    """
    beyond = (config.dropout, config.chunk, config.chunk_tokens, config.lora_rank, distils_itself(config))
    if any(beyond):
        raise ValueError("the lean loop knows neither dropout nor chunks, teachers and adapters")
    join_alone()
    encoder.eval()
    weights = list(encoder.parameters())
    masters = [w if w.dtype == torch.float32 else w.detach().float().requires_grad_() for w in weights]
    fused = encoder.device.type == "cuda"
    optimizer = torch.optim.AdamW(masters, config.learning_rate, weight_decay=config.weight_decay, fused=fused)
    maker = Maker(encoder, examples, config)  # one group: queries and passages pass the model together
    for step, batch in enumerate(itertools.islice(batches(examples, config), max(stops)), 1):
        made = maker.step(batch).map(lambda tensor: tensor.to(encoder.device))
        with attention.for_training(encoder.backbone):
            loss = step_loss(lambda groups: torch.cat([_embedded(encoder, group) for group in groups]), made, config)
        loss.backward()
        _step(optimizer, weights, masters, config, learning_rate(config, step - 1, config.steps))
        if step in stops:
            yield step


def _embedded(encoder: Encoder, group: Group) -> torch.Tensor:
    assert isinstance(group, tuple)  # padded
    return encoder(*group)


def _step(
    optimizer: torch.optim.Optimizer,
    weights: list[torch.nn.Parameter],
    masters: list[torch.Tensor],
    config: TrainConfig,
    rate: float,
) -> None:
    apart = weights[0] is not masters[0]
    if apart:
        known = [(w, m) for w, m in zip(weights, masters, strict=True) if w.grad is not None]
        for _, master in known:
            master.grad = torch.empty_like(master) if master.grad is None else master.grad
        torch._foreach_copy_([m.grad for _, m in known], [w.grad for w, _ in known])
    if config.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(masters, config.max_grad_norm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    for weight in weights:
        weight.grad = None
    if apart:
        with torch.no_grad():
            torch._foreach_copy_(weights, masters)
