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
from effir_dist.importance.slimming import gated, regulariser, slimming_saliency, taylor_saliency
from effir_dist.models.encoder import Encoder, load_encoder, prune_encoder
from effir_dist.models.families.base import mlp_width
from effir_dist.models.families.registry import family
from effir_dist.models.pruning import kept_neurons, make_plan, rounded
from effir_dist.runs.run_folder import Run
from effir_dist.training.batches import Examples, batches, examples_of
from effir_dist.training.engine import start_distributed
from effir_dist.training.trainer import train
from tests.tiny import LAYOUTS
from tests.training.test_distillation import whole_loss
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
    assert not any("gate" in vars(module)["_parameters"] for module in encoder.modules())


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


def test_the_model_is_as_before(checkpoints: dict[str, Path]) -> None:
    encoder, examples = loaded(checkpoints, "llama")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    for rank in (slimming_saliency, taylor_saliency):
        rank(encoder, examples, PRUNE, replace(TRAIN, gradient_checkpointing=True))
    after = encoder.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def slow_saliency(encoder: Encoder, examples: Examples, prune: PruneConfig, train: TrainConfig, kind: str) -> Tensor:
    """[L, F]: the paper's method with the whole batch in one graph, gates as factors in hooks, and torch's Adam."""
    row = family(encoder.model_config)
    blocks = encoder.backbone.get_submodule(row.blocks)
    outs = [block.get_submodule(row.mlp_out) for block in blocks]
    gates = [torch.ones(mlp_width(encoder.model_config), requires_grad=True) for _ in outs]
    for out, z in zip(outs, gates, strict=True):
        out.register_forward_pre_hook(lambda _m, args, z=z: (args[0] * torch.relu(z), *args[1:]))
    encoder.requires_grad_(prune.slim_weights)
    weights = [{"params": list(encoder.parameters()), "lr": train.learning_rate}] if prune.slim_weights else []
    optimizer = torch.optim.Adam([{"params": gates, "lr": prune.slim_learning_rate}, *weights])
    slopes = torch.zeros(len(gates), len(gates[0]))
    for batch in itertools.islice(batches(examples, train), prune.slim_steps):
        loss = whole_loss(encoder, examples, batch, train, None)
        slopes += torch.stack(torch.autograd.grad(loss, gates, retain_graph=True)).abs() / prune.slim_steps
        optimizer.zero_grad()
        (loss + prune.slim_lambda * regulariser(gates, prune.slim_beta)).backward()
        if kind == "slimming":
            optimizer.step()
    return slopes if kind == "taylor" else torch.relu(torch.stack(gates)).detach()


CHUNKS = [
    {},
    {"gradcache_queries": 1},
    {"gradcache_queries": 3, "gradient_checkpointing": True},
    {"gradcache_tokens": 40},
    {"gradient_checkpointing": True, "max_grad_norm": 1e-3, "weight_decay": 0.5},
]


@pytest.mark.parametrize(("name", "kind"), [("llama", "slimming"), ("bert", "weights"), ("llama", "taylor")])
def test_in_chunks_and_checkpointed_it_is_the_whole_batch_at_once(
    name: str, kind: str, checkpoints: dict[str, Path]
) -> None:
    """To 1e-5, with lambda so large that it counts, and with training settings that are none of its business."""
    start_distributed()
    prune = replace(PRUNE, slim_weights=kind == "weights", slim_lambda=1e-3, slim_steps=3)
    train = replace(TRAIN, hard_negatives=2)
    examples = examples_of(load_encoder(str(checkpoints[name])), make_pairs(), train, None)
    rank = taylor_saliency if kind == "taylor" else slimming_saliency
    expected = slow_saliency(
        load_encoder(str(checkpoints[name])), examples, prune, train, kind.replace("weights", "slimming")
    )
    assert (expected - 1).abs().max() > 0.02
    for changes in CHUNKS:
        found = rank(load_encoder(str(checkpoints[name])), examples, prune, replace(train, **changes))
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5, err_msg=str(changes))


def test_bfloat16_ranks_as_float32_does(checkpoints: dict[str, Path]) -> None:
    encoder, examples = loaded(checkpoints, "llama")
    for rank in (slimming_saliency, taylor_saliency):
        exact, rounded_ = (rank(encoder, examples, PRUNE, replace(TRAIN, dtype=d)) for d in ("float32", "bfloat16"))
        encoder = load_encoder(str(checkpoints["llama"]))
        places = [np.argsort(np.argsort(found.ravel())) for found in (exact, rounded_)]
        assert np.corrcoef(*places)[0, 1] > 0.995


def test_the_taylor_score_is_the_slope_of_the_loss(checkpoints: dict[str, Path]) -> None:
    encoder, examples = loaded(checkpoints, "llama")
    scores = taylor_saliency(encoder, examples, replace(PRUNE, slim_steps=1), TRAIN)
    batch = next(batches(examples, TRAIN))
    for block, neuron in [(0, 3), (3, 40), (1, int(scores[1].argmax()))]:
        losses = []
        for step in (-1e-2, 1e-2):
            with gated(encoder) as gates, torch.no_grad():
                gates[block][neuron] += step
                losses.append(whole_loss(encoder, examples, batch, TRAIN, None).double().item())
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
