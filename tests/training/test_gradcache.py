"""A batch in chunks trains the model that the whole batch does: every stage, ranks, adapters, distillation."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from effir_dist.core.settings import TrainConfig
from effir_dist.models.encoder import load_encoder
from effir_dist.models.kernels import packed
from effir_dist.training import collate
from effir_dist.training.batches import batches, examples_of
from effir_dist.training.collate import Collator
from effir_dist.training.engine import running_engine, start_distributed, step
from effir_dist.training.gradcache import backward
from effir_dist.training.lora import adapted
from effir_dist.training.train_state import capture
from effir_dist.training.trainer import train
from tests.ranks import run_ranks
from tests.training.test_distillation import ALL, student_of, teacher_of, whole_loss
from tests.training.test_training import assert_same_training, make_pairs, quiet, weights


def trained(path: Path, config: TrainConfig) -> tuple[dict[str, torch.Tensor], float]:
    student = student_of(path)
    outcome = train(student, make_pairs(), config, quiet, teacher=teacher_of(load_encoder(str(path))))
    return weights(student), outcome.last_loss


@pytest.mark.parametrize(
    ("name", "config", "groups"),
    [
        ("llama", ALL, 1),
        ("llama", ALL, 5),
        ("llama", replace(ALL, gradcache_queries=1), 2),
        ("llama", replace(ALL, gradcache_queries=3), 3),
        ("llama", replace(ALL, gradcache_tokens=90), 1),
        ("bert", replace(ALL, gradcache_tokens=30), 1),
        ("qwen3", replace(ALL, gradcache_queries=3), 0),
        ("bert", replace(ALL, gradcache_tokens=90), 0),
    ],
)
@pytest.mark.parametrize("scores", [collate.MOST_SCORES, 50])
def test_gradients_are_those_of_the_whole_batch(
    name: str, config: TrainConfig, groups: int, scores: int, checkpoints: dict[str, Path], monkeypatch: Any
) -> None:
    """To 1e-5 of a plain computation: one padded batch, all similarities, no engine. No groups: packed."""
    start_distributed()
    path, found = checkpoints[name], []
    teacher = teacher_of(load_encoder(str(path)))

    with running_engine(student_of(path), config) as engine:
        encoder = engine.module.encoder
        examples = examples_of(encoder, make_pairs(), config, None)
        batch = next(batches(examples, config))
        whole = whole_loss(encoder, examples, batch, ALL, teacher)
        found.append((whole.item(), torch.autograd.grad(whole, list(encoder.parameters()))))
        monkeypatch.setattr(collate, "MOST_SCORES", scores)
        step = Collator(encoder, examples, config, teacher, packs=not groups, groups=groups).collate(batch)
        assert len(step.targets) == (1 if scores > 50 else 4)
        with contextlib.nullcontext() if groups else packed.for_training(encoder.backbone):
            loss = backward(engine, step, config)
        found.append((loss.item(), [p.grad.clone() for p in encoder.parameters()]))

    (loss, gradients), (again, in_chunks) = found
    assert again == pytest.approx(loss, rel=1e-6)
    assert len(gradients) > 10
    for one, other in zip(gradients, in_chunks, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        *(pytest.param({"zero_stage": stage}, marks=pytest.mark.slow) for stage in (1, 3)),
        {"zero_stage": 2},
        pytest.param({"zero_stage": 2, "lora_rank": 4, "gradient_checkpointing": True}, marks=pytest.mark.slow),
        {"zero_stage": 3, "lora_rank": 4, "gradient_checkpointing": True},
    ],
    ids=str,
)
def test_trained_in_chunks(changes: dict[str, Any], checkpoints: dict[str, Path]) -> None:
    config = replace(ALL, **changes)
    start = weights(student_of(checkpoints["llama"]))
    whole, loss = trained(checkpoints["llama"], config)
    in_chunks, again = trained(checkpoints["llama"], replace(config, gradcache_queries=3))
    assert again == pytest.approx(loss, rel=1e-4)
    assert_same_training(start, whole, in_chunks)


LORA = {"lora_rank": 4, "gradient_checkpointing": True}
AT_TWO_RANKS: list[dict[str, Any]] = [
    {"zero_stage": 0, "gradcache_queries": 1},
    {"zero_stage": 1, "gradcache_queries": 3},
    {"zero_stage": 2, "gradcache_tokens": 60},
    {"zero_stage": 3, "gradcache_tokens": 60},
    {"zero_stage": 2, "gradcache_queries": 3, **LORA},
    {"zero_stage": 3, "gradcache_queries": 3, **LORA},
]


def gradients(path: Path, changes: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Of the first batch's loss, by name, whole, as the optimizer gets them."""
    from deepspeed.utils import safe_get_full_grad

    config = replace(ALL, max_grad_norm=0.0, **changes)
    encoder, teacher = student_of(path), teacher_of(load_encoder(str(path)))
    examples = examples_of(encoder, make_pairs(), config, None)
    batch = next(batches(examples, config))
    torch.manual_seed(0)  # adapters begin alike
    with adapted(encoder, config), running_engine(encoder, config) as engine:
        step = Collator(encoder, examples, config, teacher).collate(batch, dist.get_rank(), dist.get_world_size())
        backward(engine, step, config)
        named = [(name, p) for name, p in engine.module.encoder.named_parameters() if p.requires_grad]
        whole = safe_get_full_grad if config.zero_stage else lambda p: p.grad
        return {name: whole(p).clone() for name, p in named}


def _rank(rank: int, path: Path, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    start_distributed()
    torch.save([gradients(path, changes) for changes in AT_TWO_RANKS], folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_in_chunks_have_the_gradients_of_one_rank_at_once(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """To 1e-5, in float32: every ZeRO stage, chunks by texts and by tokens, with LoRA and checkpointing."""
    start_distributed()
    path = checkpoints["llama"]
    run_ranks(_rank, path, tmp_path)
    whole = {rank: gradients(path, {"lora_rank": rank}) for rank in (0, 4)}
    for rank in (0, 1):
        for changes, found in zip(AT_TWO_RANKS, torch.load(tmp_path / f"{rank}.pt"), strict=True):
            expected = whole[changes.get("lora_rank", 0)]
            assert found.keys() == expected.keys()
            assert sum(float(gradient.abs().sum()) for gradient in expected.values()) > 1
            for name, gradient in expected.items():
                torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5, msg=f"{changes} {name}")


HALF = TrainConfig(steps=1, batch_size=8, dtype="bfloat16", gradcache_queries=1, hard_negatives=2)
IN_HALF: list[dict[str, Any]] = [*({"zero_stage": stage} for stage in (1, 2, 3)), {"zero_stage": 1, **LORA}]


def stepped(path: Path, config: TrainConfig) -> dict[str, torch.Tensor]:
    """Weights and moments in float32 after a step in bfloat16, on rank 0."""
    encoder = load_encoder(str(path), "bfloat16")
    examples = examples_of(encoder, make_pairs(), config, None)
    torch.manual_seed(0)  # adapters begin alike
    with adapted(encoder, config), running_engine(encoder, config) as engine:
        collator, batch = Collator(encoder, examples, config), next(batches(examples, config))
        backward(engine, collator.collate(batch, dist.get_rank(), dist.get_world_size()), config)
        step(engine, config)
        return capture(engine, [0.0]).tensors


def _rank_in_bfloat16(rank: int, path: Path, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    start_distributed()
    found = [stepped(path, replace(HALF, **changes)) for changes in IN_HALF]
    if rank == 0:
        torch.save(found, folder / "found.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_ranks_add_up_chunks_in_float32_as_one_does(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """A chunk's own gradient is bfloat16's in both. Summed in bfloat16 they differ by 2e-2."""
    start_distributed()
    run_ranks(_rank_in_bfloat16, checkpoints["llama"], tmp_path)
    expected = {rank: stepped(checkpoints["llama"], replace(HALF, lora_rank=rank)) for rank in (0, 4)}
    for changes, found in zip(IN_HALF, torch.load(tmp_path / "found.pt"), strict=True):
        one = expected[changes.get("lora_rank", 0)]
        assert found.keys() == one.keys()
        moments = [name for name in one if name.startswith("exp_avg/")]
        size = torch.stack([one[name].norm() for name in moments]).norm()
        apart = torch.stack([(found[name] - one[name]).norm() for name in moments]).norm()
        assert size > 0
        assert apart / size < 2**-9 / 4, changes
        for name in one:
            if name.startswith("weight/"):
                torch.testing.assert_close(found[name], one[name], rtol=0, atol=1e-6, msg=f"{changes} {name}")
