"""The DeepSpeed loop: ranks, ZeRO stages, dtypes, and what is left in the process afterwards."""

from __future__ import annotations

import gc
import itertools
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from effir_dist.core.errors import InputError
from effir_dist.core.settings import TrainConfig
from effir_dist.data.pairs import TrainingPairs
from effir_dist.models.encoder import Encoder, load_encoder, prune_encoder
from effir_dist.models.pruning import PruningPlan
from effir_dist.training import engine, trainer
from effir_dist.training.batches import batches, examples_of
from effir_dist.training.trainer import TrainingDiverged, TrainOutcome, train
from tests.ranks import run_ranks
from tests.tiny import FAMILY_NAMES, tiny_checkpoint

CONFIG = {"steps": 5, "batch_size": 8, "learning_rate": 1e-3, "dtype": "float32", "hard_negatives": 2}
PLAN = PruningPlan(dropped_mlp=(1,), dropped_attention=(2,))


def quiet(_: dict[str, Any]) -> None:
    pass


def make_pairs(count: int = 30, seed: int = 0) -> TrainingPairs:
    """Query i is half of passage i; some passages answer two queries, some queries have no hard negatives."""
    rng = random.Random(seed)
    words = [a + b for a in ("ka", "lo", "mi", "nu") for b in ("ra", "so", "ti", "vu")]
    texts = [" ".join(rng.choices(words, k=rng.randint(2, 4))) for _ in range(count)]
    positives = [texts[i - i % 2] if i < 6 else texts[i] for i in range(count)]
    queries = [" ".join(text.split()[: 1 + i % 2]) for i, text in enumerate(texts)]
    negatives = [texts[:i][-3:] for i in range(count)]
    scores = [[5.0, *(rng.uniform(0, 4) for _ in texts)] for texts in negatives]
    return TrainingPairs(queries, positives, negatives, scores)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds tiny-llama, tiny-bert and tiny-mpnet."""
    path = tmp_path_factory.mktemp("models")
    for family in ("llama", "bert", "mpnet"):
        tiny_checkpoint(path, family, num_hidden_layers=3)
    return path


def trained(
    folder: Path, family: str = "llama", plan: PruningPlan | None = None, **changes: Any
) -> tuple[Encoder, TrainOutcome]:
    encoder = load_encoder(str(folder / f"tiny-{family}"))
    if plan:
        prune_encoder(encoder, plan, None)
    return encoder, train(encoder, make_pairs(), TrainConfig(**{**CONFIG, **changes}), quiet)


def weights(encoder: Encoder) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in encoder.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor], atol: float = 0.0) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """l2 norm of the difference of all weights."""
    return math.hypot(*((first[name].double() - second[name].double()).norm().item() for name in first))


def assert_same_training(start: dict[str, Tensor], first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Equal but for rounding, which AdamW blows up where a gradient is nearly 0.

    In bfloat16 a weight near the middle of two values falls to either: 0.7 % of them on a Zen 3, which is 0.002 of the
    way that training went. Gradients summed in another order in bfloat16 make it 0.02.
    """
    halves = any(weight.dtype == torch.bfloat16 for weight in first.values())
    assert distance(start, first) > 0.1
    assert distance(first, second) < (5e-3 if halves else 1e-3) * distance(start, first)


def broken(folder: Path) -> Encoder:
    encoder = load_encoder(str(folder / "tiny-llama"))
    with torch.no_grad():
        next(encoder.parameters())[:] = math.nan
    return encoder


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_weight_of_every_family_trains(family: str, checkpoints: dict[str, Path]) -> None:
    encoder, start = load_encoder(str(checkpoints[family])), weights(load_encoder(str(checkpoints[family])))
    outcome = train(encoder, make_pairs(), TrainConfig(**{**CONFIG, "steps": 2}), quiet)
    assert math.isfinite(outcome.last_loss)
    assert not [name for name, weight in encoder.named_parameters() if torch.equal(weight, start[name])]


# Ranks and processes

SPAWNED = [("bert", None, 0), ("llama", PLAN, 1), ("llama", None, 2), ("llama", None, 3)]


def _rank(rank: int, world_size: int, folder: Path, out: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=world_size)
    for family, plan, stage in SPAWNED if world_size > 1 else SPAWNED[1:2]:
        encoder, outcome = trained(folder, family, plan, zero_stage=stage)
        torch.save((weights(encoder), outcome.last_loss), out / f"{family}-{stage}-{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_are_one_rank_with_twice_the_batch(folder: Path, tmp_path: Path) -> None:
    run_ranks(_rank, 2, folder, tmp_path)
    for family, plan, stage in SPAWNED:
        start = weights(trained(folder, family, plan, steps=0, epochs=0)[0])
        one, outcome = trained(folder, family, plan, zero_stage=stage)
        two, loss = torch.load(tmp_path / f"{family}-{stage}-0.pt")
        assert_same(two, torch.load(tmp_path / f"{family}-{stage}-1.pt")[0])
        assert_same_training(start, weights(one), two)
        assert loss == pytest.approx(outcome.last_loss, rel=1e-5)


def test_a_warm_process_trains_like_a_fresh_one(folder: Path, tmp_path: Path) -> None:
    trained(folder, "bert", zero_stage=3)
    trained(folder, "llama", zero_stage=2, dtype="bfloat16")
    with pytest.raises(TrainingDiverged):
        train(broken(folder), make_pairs(), TrainConfig(**{**CONFIG, "zero_stage": 3}), quiet)
    warm, _ = trained(folder, *SPAWNED[1][:2], zero_stage=SPAWNED[1][2])
    run_ranks(_rank, 1, folder, tmp_path, ranks=1)
    assert_same(weights(warm), torch.load(tmp_path / "llama-1-0.pt")[0])


def live_bytes() -> int:
    """Of this process's tensors that hold data, gradients that no Python object has asked for yet included."""
    gc.collect()
    kinds = (Tensor, nn.Parameter)
    tensors = [o for o in gc.get_objects() if type(o) in kinds and o.layout == torch.strided and not o.is_meta]
    tensors += [o.grad for o in tensors if o.is_leaf and o.grad is not None]
    return sum({s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in tensors)}.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stage", [1, 3])
def test_memory_does_not_grow(folder: Path, stage: int) -> None:
    size = sum(weight.nbytes for weight in weights(trained(folder, zero_stage=stage)[0]).values())
    before = live_bytes()
    trained(folder, zero_stage=stage)
    assert live_bytes() - before < size / 10


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stage", [1, 3])
def test_memory_is_free_after_an_error_that_somebody_holds(folder: Path, stage: int) -> None:
    """As a trial that ran out of memory is, which is tried again in the same process."""
    encoder, before = broken(folder), live_bytes()
    config = TrainConfig(**{**CONFIG, "zero_stage": stage})
    with pytest.raises(TrainingDiverged) as held:
        train(encoder, make_pairs(), config, quiet)
    assert live_bytes() < before
    assert held.value


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_no_trace_of_deepspeed_is_left(folder: Path, stage: int) -> None:
    encoder = load_encoder(str(folder / "tiny-bert"))
    modules = {name: (module, set(vars(module))) for name, module in encoder.named_modules()}
    linear = nn.functional.linear
    train(encoder, make_pairs(), TrainConfig(**{**CONFIG, "zero_stage": stage, "dropout": 0.3}), quiet)
    for name, module in encoder.named_modules():
        assert modules[name] == (module, set(vars(module)))
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert type(module._parameters) is dict
        assert not module.training
        assert not isinstance(module, nn.Dropout) or module.p == 0.1
    assert all(type(p) is nn.Parameter and not vars(p) for p in encoder.parameters())
    assert nn.functional.linear is linear


def test_nothing_is_compiled() -> None:
    engine.start_distributed()
    import deepspeed.comm.comm

    assert deepspeed.comm.comm.cdb is None or deepspeed.comm.comm.cdb.shm_comm_op is None


# Stages, dtypes, options


def test_stages_agree(folder: Path) -> None:
    start = weights(load_encoder(str(folder / "tiny-bert")))
    runs = [weights(trained(folder, "bert", zero_stage=stage)[0]) for stage in range(4)]
    for run in runs[1:]:
        assert_same_training(start, runs[0], run)


@pytest.mark.parametrize("stage", [0, 2])
def test_bfloat16_learns(folder: Path, stage: int) -> None:
    _, first = trained(folder, steps=1, dtype="bfloat16", zero_stage=stage)
    encoder, last = trained(folder, steps=12, dtype="bfloat16", zero_stage=stage)
    assert last.last_loss < first.last_loss - 0.05
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("lora_rank", [0, pytest.param(4, marks=pytest.mark.slow)])
def test_a_single_process_trains_in_bfloat16_like_deepspeed(folder: Path, lora_rank: int) -> None:
    """Stage 1 on one rank is PyTorch's own, stage 2 DeepSpeed's; both step float32 copies of the weights."""
    options: dict[str, Any] = {"dtype": "bfloat16", "lora_rank": lora_rank, "gradcache_queries": 3, "weight_decay": 0.1}
    runs = [weights(trained(folder, "llama", PLAN, zero_stage=stage, **options)[0]) for stage in (1, 2)]
    start = weights(load_encoder(str(folder / "tiny-llama")))
    moved = [torch.cat([(run[n].float() - start[n]).flatten() for n in run]) for run in runs]
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.9


@pytest.mark.parametrize("stage", [1, 2])
def test_rotary_frequencies_stay_in_float32(folder: Path, stage: int) -> None:
    encoder = load_encoder(str(folder / "tiny-llama"), "bfloat16")
    config = TrainConfig(**{**CONFIG, "dtype": "bfloat16", "zero_stage": stage})
    engine.start_distributed()
    with engine.running_engine(encoder, config) as running:
        for module in (encoder, running.module):
            assert {b.dtype for b in module.buffers() if b.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize(("family", "stage"), [("llama", 0), ("llama", 3), ("mpnet", 0), ("mpnet", 3)])
def test_checkpointing_changes_nothing(family: str, stage: int, folder: Path) -> None:
    """transformers' MPNet cannot, so its blocks are wrapped here."""
    plain, _ = trained(folder, family, PLAN, zero_stage=stage)
    spared, _ = trained(folder, family, PLAN, zero_stage=stage, gradient_checkpointing=True)
    assert_same(weights(plain), weights(spared), atol=1e-5)


def test_the_seed_decides(folder: Path) -> None:
    runs = [weights(trained(folder, "bert", seed=seed, dropout=0.1)[0]) for seed in (1, 1, 2)]
    assert_same(runs[0], runs[1])
    assert distance(runs[0], runs[2]) > 1e-2


def test_hard_negatives_are_used(folder: Path) -> None:
    without, _ = trained(folder, hard_negatives=0)
    assert distance(weights(without), weights(trained(folder)[0])) > 1e-2


@pytest.mark.parametrize(("dropout", "same"), [(0.0, True), (0.4, False)])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_dropout_is_what_the_config_says(folder: Path, family: str, dropout: float, same: bool) -> None:
    encoder = load_encoder(str(folder / f"tiny-{family}"))
    engine.start_distributed()
    ids, mask = torch.arange(4, 24).reshape(2, 10), torch.ones(2, 10, dtype=torch.long)
    expected = encoder(ids, mask)

    with engine.running_engine(encoder, TrainConfig(**{**CONFIG, "dropout": dropout})) as running:
        assert running.module.training
        embedded, again = running([(ids, mask), (ids, mask)]).split(2)
        assert torch.equal(embedded, expected) == torch.equal(embedded, again) == same


def test_no_steps_leave_the_model_as_it_is(folder: Path) -> None:
    encoder, outcome = trained(folder, steps=0, epochs=0, batch_size=1000)
    assert_same(weights(encoder), weights(load_encoder(str(folder / "tiny-llama"))))
    assert outcome.steps == 0
    assert math.isnan(outcome.last_loss)


# What goes wrong


@pytest.mark.parametrize("stage", [0, 3])
def test_a_loss_that_is_not_a_number(folder: Path, stage: int) -> None:
    with pytest.raises(TrainingDiverged, match="the loss became nan at step 1 of 5"):
        train(broken(folder), make_pairs(), TrainConfig(**{**CONFIG, "zero_stage": stage}), quiet)


def test_a_last_step_that_breaks_the_weights(folder: Path) -> None:
    engine.start_distributed()

    def break_them() -> None:
        with engine.running_engine(load_encoder(str(folder / "tiny-llama")), TrainConfig(**CONFIG)) as running:
            with torch.no_grad():
                next(running.module.parameters())[0] = math.inf

    with pytest.raises(TrainingDiverged, match=r"embed_tokens.weight is not finite after the last step"):
        break_them()


def test_batches_that_cannot_be(folder: Path) -> None:
    with pytest.raises(InputError, match=r"train.batch_size is 32, but there are only 30 training pairs"):
        trained(folder, batch_size=32)
    with pytest.raises(InputError, match="divisible by the 3 workers, got 8"):
        trainer.count_steps(TrainConfig(**CONFIG), 30, world_size=3)


def test_steps_and_learning_rate() -> None:
    config = TrainConfig(epochs=2.5, batch_size=8, warmup_ratio=0.25, learning_rate=1.0)
    assert trainer.count_steps(config, 35, world_size=2) == 10
    assert trainer.count_steps(TrainConfig(epochs=0.01, batch_size=8), 35, 1) == 1
    rates = [trainer.learning_rate(config, step, 8) for step in range(8)]
    np.testing.assert_allclose(rates, [1 / 3, 2 / 3, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert trainer.learning_rate(TrainConfig(warmup_ratio=1), 3, 4) == pytest.approx(1e-4 * 4 / 5)


def test_config_of_deepspeed() -> None:
    config = TrainConfig(batch_size=32, zero_stage=2, max_grad_norm=0.5, weight_decay=0.1)
    settings = engine.deepspeed_config(config, world_size=4, dtype="bfloat16", parameters=1000)
    assert settings["train_batch_size"] == 32
    assert settings["train_micro_batch_size_per_gpu"] == 8
    assert settings["gradient_clipping"] == 0.5
    assert settings["bf16"]["enabled"]
    assert settings["zero_optimization"]["stage"] == 2
    assert settings["zero_optimization"]["reduce_bucket_size"] == 1000
    assert settings["optimizer"]["params"]["weight_decay"] == 0.1


def test_batches_cover_an_epoch_with_each_query_and_its_passages(folder: Path) -> None:
    pairs = make_pairs()
    encoder = load_encoder(str(folder / "tiny-llama"))
    examples = examples_of(encoder, pairs, TrainConfig(**CONFIG), None)
    texts = list(dict.fromkeys(itertools.chain(pairs.positives, *pairs.negatives)))
    found = itertools.islice(batches(examples, TrainConfig(**CONFIG)), 6)
    queries = list(dict.fromkeys(pairs.queries))
    seen: list[set[str]] = [set(), set()]
    for number, batch in enumerate(found):
        assert batch.passages.shape == batch.scores.shape == (8, 3)
        for i, group, scores in zip(batch.queries, batch.passages, batch.scores, strict=True):
            pair = next(p for p, (q, d) in enumerate(zip(pairs.queries, pairs.positives, strict=True))
                        if q == queries[i] and d == texts[group[0]])  # fmt: skip
            known = min(2, len(pairs.negatives[pair]))
            assert {texts[j] for j in group[1 : 1 + known]} <= set(pairs.negatives[pair])
            places = [0, *(1 + pairs.negatives[pair].index(texts[j]) for j in group[1 : 1 + known])]
            given = [pairs.scores[pair][place] for place in places]
            np.testing.assert_array_equal(scores, [*given, *[math.nan] * (2 - known)])
            seen[number // 3].add(queries[i])
    assert len(seen[0]) > 20
    assert seen[0] != seen[1]


def test_reports(folder: Path) -> None:
    reports: list[dict[str, Any]] = []
    encoder = load_encoder(str(folder / "tiny-llama"))
    outcome = train(encoder, make_pairs(), TrainConfig(**CONFIG), reports.append)
    assert [(r["phase"], r["step"], r["steps"]) for r in reports] == [("train", 4, 5), ("train", 5, 5)]
    assert all(math.isfinite(r["loss"]) for r in reports)
    assert 0 < outcome.engine_seconds < outcome.seconds
