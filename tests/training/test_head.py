"""Dense layers behind the pooling train with the rest, and a prompt's tokens stay out of the pooling there too."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from effir_dist.core.settings import TrainConfig
from effir_dist.models.encoder import load_encoder
from effir_dist.models.kernels import packed
from effir_dist.training import memory
from effir_dist.training.batches import batches, examples_of
from effir_dist.training.collate import Collator
from effir_dist.training.engine import running_engine, start_distributed
from effir_dist.training.gradcache import backward
from effir_dist.training.lora import adapted
from effir_dist.training.losses import retrieval_loss
from effir_dist.training.trainer import train
from tests import needs
from tests.sentence_folders import made
from tests.training.test_training import assert_same_training, make_pairs, quiet, weights

needs.module("sentence_transformers")
TRAIN = TrainConfig(steps=4, batch_size=8, learning_rate=4e-3, dtype="float32", hard_negatives=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two Dense layers, and prompts that pooling leaves out."""
    return made(tmp_path_factory.mktemp("head"), "all at once")


def text_by_text(encoder: Any, examples: Any, batch: Any) -> torch.Tensor:
    """The loss of a batch whose texts go through the model one at a time."""

    def rows(tokens: Any, indices: Any) -> torch.Tensor:
        found = []
        for index in indices:
            ids = torch.from_numpy(tokens[int(index)].astype("int64"))[None]
            states = encoder.backbone(input_ids=ids, use_cache=False).last_hidden_state[0, tokens.prompt :]
            places = torch.arange(tokens.prompt + 1, ids.shape[1] + 1).float()
            found.append(encoder.finish((places @ states / places.sum())[None]))
        return torch.cat(found)

    (targets,) = Collator(encoder, examples, TRAIN).collate(batch).targets
    queries, passages = rows(examples.queries, batch.queries), rows(examples.passages, batch.passages.ravel())
    return retrieval_loss(queries, passages, targets, TRAIN)


@pytest.mark.parametrize("packs", [False, True])
def test_gradients_of_chunks_are_those_of_single_texts(folder: Path, packs: bool) -> None:
    start_distributed()
    config = replace(TRAIN, gradcache_queries=3)
    with running_engine(load_encoder(str(folder)), config) as engine:
        encoder = engine.module.encoder
        examples = examples_of(encoder, make_pairs(), config, None)
        assert examples.queries.prompt > examples.passages.prompt > 0
        batch = next(batches(examples, config))
        wanted = text_by_text(encoder, examples, batch)
        expected = torch.autograd.grad(wanted, list(encoder.parameters()))
        step = Collator(encoder, examples, config, packs=packs, groups=2).collate(batch)
        with packed.for_training(encoder.backbone) if packs else contextlib.nullcontext():
            loss = backward(engine, step, config)
        found = [p.grad.clone() for p in encoder.parameters()]
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


ENGINES = [{"zero_stage": 2}, {"zero_stage": 3, "lora_rank": 4, "gradcache_queries": 3}]


@pytest.mark.parametrize("changes", ENGINES, ids=str)
def test_the_head_trains_in_each_engine(folder: Path, changes: dict[str, Any]) -> None:
    trained = []
    start = weights(load_encoder(str(folder)))
    plain = {name: value for name, value in changes.items() if name == "lora_rank"}
    for config in (replace(TRAIN, **plain), replace(TRAIN, **changes)):
        encoder = load_encoder(str(folder))
        train(encoder, make_pairs(), config, quiet)
        trained.append(weights(encoder))
    heads = [{name: w for name, w in each.items() if name.startswith("head")} for each in (start, *trained)]
    assert len(heads[0]) == 3
    assert_same_training(*heads)
    if plain:
        torch.testing.assert_close(trained[0]["backbone.norm.weight"], start["backbone.norm.weight"])


def test_adapters_train_beside_the_whole_head(folder: Path) -> None:
    encoder = load_encoder(str(folder))
    with adapted(encoder, replace(TRAIN, lora_rank=3)):
        found = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    assert memory.lora_parameters(encoder.model_config, 3) == found
    assert memory.lora_parameters(encoder.model_config, 0) == 0
