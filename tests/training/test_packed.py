"""Training on packed texts on a CPU: the gradients of padded ones, and where it is chosen."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from effir_dist.core.settings import TrainConfig
from effir_dist.models.encoder import load_encoder
from effir_dist.models.kernels import attention, packed
from effir_dist.training import collate, trainer
from effir_dist.training.batches import batches, examples_of
from effir_dist.training.collate import Collator
from effir_dist.training.engine import running_engine, start_distributed
from effir_dist.training.gradcache import backward
from effir_dist.training.step_cost import AMX_CORE, CORE, GPU, Model, grouping
from tests.tiny import MODEL_NAMES, REPLACEABLE, pruned, tiny_checkpoint, windowed
from tests.training.test_training import make_pairs, quiet

CONFIG = TrainConfig(steps=1, batch_size=8, dtype="float32", hard_negatives=1)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: tiny_checkpoint(folder, name, **windowed(name)) for name in MODEL_NAMES}


@pytest.mark.parametrize("name", [*REPLACEABLE, "mpnet"])
def test_packed_texts_have_the_gradients_of_padded_ones(name: str, checkpoints: dict[str, Path]) -> None:
    """Of a pruned model, with windows that end within the texts, to 1e-4 of their norm."""
    start_distributed()
    encoder = pruned(load_encoder(str(checkpoints[name])))
    examples = examples_of(encoder, make_pairs(), CONFIG, None)
    batch = next(batches(examples, CONFIG))
    found = []
    with running_engine(encoder, CONFIG) as engine:
        backbone = engine.module.encoder.backbone
        for packs in (False, True):
            step = Collator(engine.module.encoder, examples, CONFIG, packs=packs, groups=1 + packs).collate(batch)
            with packed.for_training(backbone) if packs else attention.for_training(backbone):
                loss = backward(engine, step, CONFIG)
            found.append([loss.flatten(), *(p.grad.flatten() for p in engine.module.parameters())])
            engine.module.zero_grad()
    padded, unpadded = map(torch.cat, found)
    assert padded[1:].norm() > 0.1
    assert (unpadded - padded).norm() < 1e-4 * padded[1:].norm()


def gradient(path: Path, dtype: str, packs: bool) -> torch.Tensor:
    """Of three batches together, in float32."""
    config = replace(CONFIG, dtype=dtype)
    encoder = load_encoder(str(path), dtype)
    examples = examples_of(encoder, make_pairs(), config, None)
    with running_engine(encoder, config) as engine:
        backbone, collator = engine.module.encoder.backbone, Collator(encoder, examples, config, packs=packs)
        with packed.for_training(backbone) if packs else attention.for_training(backbone):
            for batch in itertools.islice(batches(examples, config), 3):
                backward(engine, collator.collate(batch), config)
        return torch.cat([engine.masters[p].grad.flatten() for p in engine.module.parameters()])


@pytest.mark.parametrize("name", ["llama", "mpnet"])
def test_in_bfloat16_packed_gradients_are_no_further_from_exact_ones(name: str, checkpoints: dict[str, Path]) -> None:
    start_distributed()
    exact = gradient(checkpoints[name], "float32", packs=False)
    padded, unpadded = (gradient(checkpoints[name], "bfloat16", packs) for packs in (False, True))
    assert 0 < (padded - exact).norm() < 0.2 * exact.norm()
    assert (unpadded - exact).norm() <= 1.5 * (padded - exact).norm()


@pytest.mark.parametrize(("name", "dropout"), [("llama", 0.0), ("llama", 0.1), ("gemma2", 0.0)])
def test_a_cpu_packs_where_it_can(
    name: str, dropout: float, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a formula that always says yes: not with dropout, and not what has an attention that is not ours."""
    start_distributed()
    monkeypatch.setattr(collate, "grouping", lambda lengths, model, device, packable: (packable, 1))
    config = TrainConfig(steps=1, batch_size=8, dtype="float32", dropout=dropout)
    encoder = load_encoder(str(checkpoints[name]))
    examples = examples_of(encoder, make_pairs(), config, None)
    with running_engine(encoder, config) as engine:
        chosen = trainer.fitted_collator(engine, encoder, examples, config, None)
        assert chosen.packs == (name == "llama" and not dropout)
        trainer.run_steps(engine, encoder, examples, config, None, trainer.Progress(quiet, 1, config, None))


SMOLLM2, MINILM = Model(30, 3_540_000, 7_080_000), Model(6, 1_770_000, 3_540_000)


def test_texts_are_packed_where_padding_or_groups_cost_more_than_their_attentions() -> None:
    lengths = np.random.default_rng(0).integers(5, 256, 64)
    for core in (CORE, AMX_CORE):
        assert grouping(lengths, SMOLLM2, core, packable=True) == (True, 1)
    thin = Model(6, 7_000, 14_000)
    assert grouping(np.arange(4, 12), thin, CORE, packable=True) == (False, 1)


def test_what_groups_cost_decides_how_many_there_are() -> None:
    """By the bytes of the gradients, where matrix products are fast, and by the operators that they start."""
    lengths = np.random.default_rng(0).integers(5, 256, 64)
    count = {core: grouping(lengths, SMOLLM2, core, packable=False)[1] for core in (CORE, AMX_CORE, GPU)}
    assert count[CORE] > count[AMX_CORE]
    frozen = Model(30, 3_540_000, 50_000)
    assert grouping(lengths, frozen, AMX_CORE, packable=False)[1] > count[AMX_CORE]
    assert grouping(lengths, MINILM, GPU, packable=False)[1] < 8
    assert grouping(np.full(64, 100), SMOLLM2, CORE, packable=False) == (False, 1)
