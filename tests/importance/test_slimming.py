"""Rankings of neurons: the paper's gates, the Taylor score, and that slicing first gives the masked model."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from effir_dist.core import config as c
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RANKINGS, PruneConfig, RunConfig, TrainConfig
from effir_dist.importance.slimming import _loss, gated, regulariser, slimming_saliency, taylor_saliency
from effir_dist.models.encoder import Encoder, load_encoder, prune_encoder
from effir_dist.models.families.registry import family
from effir_dist.models.pruning import kept_neurons, make_plan, rounded
from effir_dist.runs.run_folder import Run
from effir_dist.training.batches import Examples, batches, examples_of
from effir_dist.training.engine import start_distributed
from effir_dist.training.trainer import train
from tests.tiny import LAYOUTS
from tests.training.test_training import make_pairs, quiet

TRAIN = TrainConfig(steps=5, batch_size=8, learning_rate=1e-3, dtype="float32")
PRUNE = PruneConfig(slim_steps=12, slim_learning_rate=0.02)


def loaded(checkpoints: dict[str, Path], name: str) -> tuple[Encoder, Examples]:
    start_distributed()
    encoder = load_encoder(str(checkpoints[name]))
    return encoder, examples_of(encoder, make_pairs(), TRAIN, None)


def silence(encoder: Encoder, block: int, neuron: int) -> None:
    """Nothing that the neuron does reaches the stream: the loss does not depend on its gate."""
    row = family(encoder.model_config)
    with torch.no_grad():
        encoder.backbone.get_submodule(row.blocks)[block].get_submodule(row.mlp_out).weight[:, neuron] = 0


@pytest.mark.parametrize("name", LAYOUTS)
def test_gates_at_one_change_nothing_and_leave_nothing(name: str, checkpoints: dict[str, Path]) -> None:
    encoder, _ = loaded(checkpoints, name)
    before = encoder.encode(["some text"])
    with gated(encoder):
        np.testing.assert_array_equal(encoder.encode(["some text"]), before)
    assert not any(module._forward_pre_hooks for module in encoder.modules())


def test_the_regulariser_is_the_papers() -> None:
    gates = [torch.nn.Parameter(torch.tensor([1.0, 0.0, -2.0])), torch.nn.Parameter(torch.tensor([0.5]))]
    sigmoid = [1 / (1 + np.exp(-5 * z)) for z in (1.0, 0.0, 0.0, 0.5)]
    value = regulariser(gates, 5.0)
    assert value.item() == pytest.approx(sum(sigmoid))
    value.backward()
    # With the paper's lambda: about 3e-10 at z = 1, so InfoNCE decides.
    assert 1e-8 * gates[0].grad[0].item() == pytest.approx(3.3e-10, rel=0.02)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_useless_neuron_stays_at_one_unless_lambda_presses(name: str, checkpoints: dict[str, Path]) -> None:
    encoder, examples = loaded(checkpoints, name)
    silence(encoder, 2, 7)
    free = slimming_saliency(encoder, examples, replace(PRUNE, slim_lambda=0.0), TRAIN)
    pressed = slimming_saliency(encoder, examples, replace(PRUNE, slim_lambda=1e-3), TRAIN)
    assert free[2, 7] == 1.0
    assert np.abs(free - 1).max() > 0.1
    assert pressed[2, 7] == pytest.approx(1 - 12 * 0.02, abs=0.01)


@pytest.mark.parametrize("with_weights", [False, True])
def test_the_model_is_as_before(checkpoints: dict[str, Path], with_weights: bool) -> None:
    encoder, examples = loaded(checkpoints, "llama")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    scores = slimming_saliency(encoder, examples, replace(PRUNE, slim_weights=with_weights), TRAIN)
    alone = slimming_saliency(encoder, examples, PRUNE, TRAIN)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert np.array_equal(scores, alone) != with_weights


def test_the_taylor_score_is_the_slope_of_the_loss(checkpoints: dict[str, Path]) -> None:
    encoder, examples = loaded(checkpoints, "llama")
    scores = taylor_saliency(encoder, examples, replace(PRUNE, slim_steps=1), TRAIN)
    batch = next(batches(examples, TRAIN))
    for block, neuron in [(0, 3), (3, 40), (1, int(scores[1].argmax()))]:
        losses = []
        for step in (-1e-2, 1e-2):
            with gated(encoder) as gates, torch.no_grad():
                gates[block][neuron] += step
                losses.append(_loss(encoder, examples, batch, TRAIN).double().item())
        assert scores[block, neuron] == pytest.approx(abs(losses[1] - losses[0]) / 2e-2, rel=0.05, abs=1e-4)


@pytest.mark.parametrize("name", LAYOUTS)
def test_slicing_before_tuning_equals_masking_through_tuning(name: str, checkpoints: dict[str, Path]) -> None:
    """A masked neuron gets no gradient (paper, section 3.2), so the sliced model is the same for less work."""
    sliced, examples = loaded(checkpoints, name)
    masked, _ = loaded(checkpoints, name)
    row = family(sliced.model_config)
    scores = slimming_saliency(sliced, examples, PRUNE, TRAIN)
    plan = make_plan(sliced.model_config, [], [], 0.5, scores, "slimming")
    kept = kept_neurons(plan, scores)
    blocks = masked.backbone.get_submodule(row.blocks)
    for block, neurons in kept.items():
        mask = torch.zeros(scores.shape[1])
        mask[torch.as_tensor(neurons)] = 1
        hooked = blocks[block].get_submodule(row.mlp_out)
        hooked.register_forward_pre_hook(lambda _m, args, mask=mask: (args[0] * mask, *args[1:]))
    for encoder in (prune_encoder(sliced, plan, scores), masked):
        train(encoder, make_pairs(), TRAIN, quiet)
    for block, neurons in kept.items():
        rows = np.concatenate([neurons + part * scores.shape[1] for part in range(row.fused)])
        for part in row.mlp_in:
            assert_close(weight(sliced, row, block, part), weight(masked, row, block, part)[rows])
        assert_close(weight(sliced, row, block, row.mlp_out), weight(masked, row, block, row.mlp_out)[:, neurons])
    np.testing.assert_allclose(sliced.encode(["some text"]), masked.encode(["some text"]), atol=1e-4)


def weight(encoder: Encoder, row, block: int, name: str) -> Tensor:
    return encoder.backbone.get_submodule(row.blocks)[block].get_submodule(name).weight.detach()


def assert_close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=2e-4)


def test_gates_that_diverge_are_said_so(checkpoints: dict[str, Path]) -> None:
    encoder, examples = loaded(checkpoints, "bert")
    with pytest.raises(InputError, match="gates of self-slimming are not finite after step"):
        slimming_saliency(encoder, examples, replace(PRUNE, slim_learning_rate=1e37), TRAIN)


def test_widths_round_to_multiples_and_keep_their_total() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        multiple, full = int(rng.choice([8, 64, 128])), 1536
        widths = rng.integers(0, full + 1, size=6)
        result = rounded(widths, multiple, full)
        assert (result % multiple == 0).all()
        assert (result <= full).all()
        assert (np.abs(result - widths) < multiple).all()
        assert abs(int(result.sum()) - int(widths.sum())) <= multiple / 2
    np.testing.assert_array_equal(rounded(np.array([5, 3]), 1, 10), [5, 3])


def test_a_run_scores_every_ranking_that_its_space_may_ask_for(
    checkpoints: dict[str, Path], collection: Path, tmp_path: Path
) -> None:
    from effir_dist.importance.store import load_importance, load_saliency
    from effir_dist.search.trial.preparation import prepare

    values = {"model.path": str(checkpoints["qwen3"]), "data.paths": [str(collection)], "train.batch_size": 4}
    config = c.replace(RunConfig(), {**values, "prune.slim_steps": 3, "prune.calibration_texts": 5})
    run = Run.create(tmp_path / "run", c.to_dict(config))
    prepare(run, config, RANKINGS)
    importance, neurons = load_importance(run), load_saliency(run)
    assert sorted(neurons) == sorted(RANKINGS)
    assert {scores.shape for scores in neurons.values()} == {(4, 48)}
    assert len(importance.mlp) == 4
    orders = [tuple(scores.ravel().argsort()) for scores in neurons.values()]
    assert all(one != other for one, other in itertools.combinations(orders, 2))
