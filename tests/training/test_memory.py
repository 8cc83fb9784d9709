"""The prediction of memory: against what torch saves and what engines hold, and what `--dry-run` makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from effir_dist.core.config import replace
from effir_dist.core.settings import RunConfig, TrainConfig
from effir_dist.models.encoder import load_encoder
from effir_dist.models.families.registry import FAMILIES, backbone
from effir_dist.models.pruning import count_parameters
from effir_dist.training import memory
from effir_dist.training.batches import batches, examples_of
from effir_dist.training.collate import Collator
from effir_dist.training.engine import running_engine, start_distributed, step
from effir_dist.training.gradcache import backward
from effir_dist.training.lora import adapted
from tests.tiny import FAMILY_NAMES
from tests.training.test_training import live_bytes, make_pairs

TEXTS, LONGEST = 3, 40


def tiny(name: str, blocks: int) -> Any:
    """Sizes of which no two are equal by chance."""
    sizes = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4}
    row = FAMILIES[name]
    own = {"head_dim": 2 * row.tiny["head_dim"]} if "head_dim" in row.tiny else {}  # D is twice a tiny model's
    values = {**sizes, **row.tiny, **own, "max_position_embeddings": 512, "num_hidden_layers": blocks}
    options = {"attn_implementation": row.attention_implementation, **row.load_options}
    model = AutoModel.from_config(AutoConfig.for_model(name, **row.own(values)), **options)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for key in [key for key, value in vars(module).items() if "dropout" in key and isinstance(value, float)]:
            setattr(module, key, 0.0)
    return model.to(torch.bfloat16).train()


def saved_bytes(model: Any) -> int:
    """Of all tensors, parameters aside, that a forward pass keeps for the backward pass."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no other takes its place
        return tensor

    ids, mask = torch.randint(3, 300, (TEXTS, LONGEST)), torch.ones(TEXTS, LONGEST, dtype=torch.long)
    mask[0, -5:] = 0
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    options = FAMILIES[model.config.model_type].call_options
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**inputs, **options)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_block_saves_what_the_formula_says(name: str) -> None:
    one, two = (saved_bytes(tiny(name, blocks)) for blocks in (1, 2))
    row = FAMILIES[name]
    expected = row.saved_bytes(row.usual(tiny(name, 1).config.to_dict()), 2, LONGEST)
    assert (two - one) / (TEXTS * LONGEST) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("stage", "dtype"),
    [
        (0, "float32"),
        (2, "bfloat16"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, "float32"), (0, "bfloat16"), (3, "bfloat16"))),
    ],
)
def test_an_engine_holds_what_the_formula_says(stage: int, dtype: str, checkpoints: dict[str, Path]) -> None:
    """Weights, gradients and the optimizer's state, after a backward pass; buckets are full only on the way."""
    start_distributed()
    encoder = load_encoder(str(checkpoints["llama"]), dtype)
    before = live_bytes() - sum(parameter.nbytes for parameter in encoder.parameters())
    train = {"train.batch_size": 4, "train.dtype": dtype, "train.zero_stage": stage}
    config = replace(RunConfig(), train)
    with running_engine(encoder, config.train) as engine:
        examples = examples_of(encoder, make_pairs(), config.train, None)
        collator, batch = Collator(encoder, examples, config.train), next(batches(examples, config.train))
        backward(engine, collator.collate(batch), config.train)
        step(engine, config.train)
        backward(engine, collator.collate(batch), config.train)
        held = live_bytes() - before
    predicted = memory.predict(encoder.model_config, config, dtype)
    lasting = predicted.weights + predicted.optimizer + predicted.gradients
    if stage == 3:  # it keeps its bucket; weights are gathered only while they are used
        lasting += predicted.buckets - 2 * count_parameters(encoder.model_config)
    assert held == pytest.approx(lasting, rel=0.1)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_adapters_are_counted(name: str, checkpoints: dict[str, Path]) -> None:
    encoder = load_encoder(str(checkpoints[name]))
    config = TrainConfig(lora_rank=3)
    with adapted(encoder, config):
        found = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    assert memory.lora_parameters(encoder.model_config, 3) == found


def test_chunks_and_checkpointing_take_less() -> None:
    model, config = backbone("qwen3-0.6b").config, replace(RunConfig(), {"train.batch_size": 8192})
    whole = memory.predict(model, config, "bfloat16").peak
    small = memory.predict(model, replace(config, {"train.batch_size": 64}), "bfloat16").peak
    chunks = memory.predict(model, replace(config, {"train.gradcache_queries": 64}), "bfloat16").peak
    again = memory.predict(model, replace(config, {"train.gradient_checkpointing": True}), "bfloat16").peak
    # From the second chunk on the sum of the gradients is there beside activations: 4 bytes a parameter.
    beside = 4 * count_parameters(model)
    assert small + beside <= chunks < 1.02 * (small + beside) < again < whole / 4


def test_the_plan_says_what_would_fit() -> None:
    model = backbone("mistral-7b").config
    config = replace(RunConfig(), {"train.batch_size": 64, "resources.gpu_memory": 80.0})
    lines = memory.summary(model, config)
    assert lines[0].startswith("memory: at most 2")
    warning = "warning: a GPU has 80 GB, of which 10% stay free: "
    assert lines[1] == f"{warning}train.lora_rank=16 train.gradcache_queries=16 would fit"
    fits = replace(config, {"train.lora_rank": 16, "train.gradcache_queries": 16})
    assert memory.predict(model, fits, "bfloat16").peak < 72e9
    assert len(memory.summary(model, fits)) == 1
    several = replace(config, {"resources.workers_per_trial": 8, "resources.gpu_memory": 48.0})
    assert "train.zero_stage=" in memory.summary(model, several)[1]
    assert "nothing short of more workers" in memory.summary(model, replace(config, {"resources.gpu_memory": 1.0}))[1]
    assert memory.summary(model, replace(config, {"train.steps": 0, "train.epochs": 0.0})) == []
