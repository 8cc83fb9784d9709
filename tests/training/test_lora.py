"""LoRA: only adapters train, they merge, and ZeRO, checkpointing and ranks change nothing about the result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from effir_dist.core.errors import InputError
from effir_dist.models.pruning import PruningPlan
from effir_dist.training.lora import targets
from tests.ranks import run_ranks
from tests.training.test_training import PLAN, assert_same, assert_same_training, folder, trained, weights

__all__ = ["folder"]
LORA = {"lora_rank": 4, "lora_alpha": 16, "learning_rate": 1e-2}
RANKS = [(1, False), (2, True), (3, True)]
"""ZeRO stage, gradient checkpointing."""


def test_only_linear_layers_of_the_blocks_change_and_nothing_is_left_behind(folder: Path) -> None:
    for family in ("llama", "bert"):
        start = weights(trained(folder, family, PLAN, steps=0, epochs=0)[0])
        encoder, _ = trained(folder, family, PLAN, **LORA)
        end = weights(encoder)
        assert end.keys() == start.keys()
        changed = {name.removeprefix("backbone.") for name in end if not torch.equal(end[name], start[name])}
        assert changed == {f"{name}.weight" for name in targets(encoder)}
        assert all(parameter.requires_grad for parameter in encoder.parameters())
        assert not any("lora" in type(module).__module__ for module in encoder.modules())


def test_the_update_has_the_rank_that_was_asked_for(folder: Path) -> None:
    start = weights(trained(folder, "llama", steps=0, epochs=0)[0])
    encoder, _ = trained(folder, "llama", **LORA)
    name = f"backbone.{targets(encoder)[0]}.weight"
    assert torch.linalg.matrix_rank(weights(encoder)[name] - start[name], rtol=1e-3) == 4


@pytest.mark.parametrize("checkpointing", [False, True])
def test_stages_agree(folder: Path, checkpointing: bool) -> None:
    start = weights(trained(folder, "llama", PLAN, steps=0, epochs=0)[0])
    results = [
        weights(trained(folder, "llama", PLAN, zero_stage=stage, gradient_checkpointing=checkpointing, **LORA)[0])
        for stage in range(4)
    ]
    for result in results[1:]:
        assert_same_training(start, results[0], result)


def _rank(rank: int, folder: Path, out: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=2)
    for stage, checkpointing in RANKS:
        encoder, _ = trained(folder, "llama", PLAN, zero_stage=stage, gradient_checkpointing=checkpointing, **LORA)
        torch.save(weights(encoder), out / f"{stage}-{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_are_one(folder: Path, tmp_path: Path) -> None:
    run_ranks(_rank, folder, tmp_path)
    start = weights(trained(folder, "llama", PLAN, steps=0, epochs=0)[0])
    one = weights(trained(folder, "llama", PLAN, **LORA)[0])
    for stage, _ in RANKS:
        two = torch.load(tmp_path / f"{stage}-0.pt")
        assert_same(two, torch.load(tmp_path / f"{stage}-1.pt"))
        assert_same_training(start, one, two)


def test_a_plan_that_left_nothing_to_adapt_is_refused(folder: Path) -> None:
    everything = PruningPlan(dropped_mlp=(0, 1, 2), dropped_attention=(0, 1, 2))
    with pytest.raises(InputError, match="the plan dropped every MLP and every attention"):
        trained(folder, "llama", everything, **LORA)
