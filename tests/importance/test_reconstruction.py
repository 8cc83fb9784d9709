"""Narrowed MLPs whose output matrices are fitted anew (importance/reconstruction.py)."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from effir_dist.data.pairs import training_pairs
from effir_dist.importance import reconstruction
from effir_dist.importance.reconstruction import fitted_sublayers, prune_and_reconstruct
from effir_dist.importance.store import load_saliency
from effir_dist.models import pretrained
from effir_dist.models.encoder import Encoder, load_encoder, prune_encoder
from effir_dist.models.families.registry import family
from effir_dist.models.operations.drop import keeps_norms
from effir_dist.models.pruning import PruningPlan, make_plan
from effir_dist.runs.records import TrialSpec
from effir_dist.search.preflight.trial import two_steps
from effir_dist.search.trial.preparation import prepare, reconstruction_texts
from effir_dist.search.trial.start import base_encoder
from effir_dist.search.trial.trial import run_trial
from effir_dist.training.trainer import train
from tests.models.test_pruning import encoder_of, neuron_scores
from tests.tiny import MODEL_NAMES
from tests.training.test_distillation import make_run
from tests.training.test_training import quiet

TEXTS = [
    f"{word} and {word[::-1]}, a text of some length about {word * 2}" for word in ("kara", "loso", "mituna", "be")
]
TEXTS = [" ".join([text] * (1 + i)) for i, text in enumerate(TEXTS)]


def repeat_neurons(encoder: Encoder) -> None:
    """The second half of each MLP's neurons does what the first half does, with other output weights."""
    row = family(encoder.model_config)
    for block in encoder.backbone.get_submodule(row.blocks):
        for name in row.mlp_in:
            linear = block.get_submodule(name)
            for values in filter(lambda each: each is not None, (linear.weight, linear.bias)):
                for part in values.data.chunk(row.fused):
                    half = len(part) // 2
                    part[half:] = part[:half].clone()


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_neurons_that_repeat_others_cost_nothing(name: str, checkpoints: dict[str, Path]) -> None:
    """Without them the model gives what it gave, also for texts that it was not fitted on."""
    whole = encoder_of(checkpoints[name])
    repeat_neurons(whole)
    neurons = np.zeros((4, 48), np.float32)
    neurons[:, :24] = 1
    plan = PruningPlan(widths=[(block, 24) for block in range(4)], ranking="activation")
    cut, fitted = copy.deepcopy(whole), copy.deepcopy(whole)
    prune_encoder(cut, plan, neurons)
    assert prune_and_reconstruct(fitted, plan, neurons, TEXTS, 400, [1e-6]) is fitted
    texts = ["another text", "kara loso"]
    missed = [np.abs(each.encode(texts) - whole.encode(texts)).max() for each in (cut, fitted)]
    assert missed[0] > 1e-4
    assert missed[1] < missed[0] / 20


def test_the_ridge_is_the_one_that_held_out_texts_favour(checkpoints: dict[str, Path]) -> None:
    """Neurons that repeat others want a small one; of four texts none is held out, and the first is taken."""
    whole = encoder_of(checkpoints["llama"])
    repeat_neurons(whole)
    neurons = np.zeros((4, 48), np.float32)
    neurons[:, :24] = 1
    plan = PruningPlan(widths=[(1, 24)], ranking="activation")

    def fitted(texts: list[str], *ridges: float) -> np.ndarray:
        return prune_and_reconstruct(copy.deepcopy(whole), plan, neurons, texts, 4000, ridges).encode(TEXTS)

    many = [text[start:] for start in range(4) for text in TEXTS]
    np.testing.assert_array_equal(fitted(many, 10.0, 1e-4), fitted(many, 1e-4))
    np.testing.assert_array_equal(fitted(TEXTS, 10.0, 1e-4), fitted(TEXTS, 10.0))
    assert np.abs(fitted(many, 1e-4) - fitted(many, 10.0)).max() > 1e-4


@pytest.mark.parametrize(("rows", "inputs"), [(90, 20), (40, 120)])
@pytest.mark.parametrize("bias", [False, True])
def test_more_rows_than_inputs_or_fewer_give_the_ridge_regression(rows: int, inputs: int, bias: bool) -> None:
    """By the formula, in float64, with the ridge whose solution on the seen rows is best on the others."""
    rng = np.random.default_rng(inputs)
    x, y = rng.normal(size=(rows, inputs)), rng.normal(size=(rows, 100))
    y[:, :50] += x @ rng.normal(size=(inputs, 50))
    held, ridges = np.arange(rows) % 5 == 4, (10.0, 1e-4, 0.3)
    matrix = torch.nn.Linear(inputs, 100, bias=bias)
    old = [np.array(values.detach(), np.float64) for values in matrix.parameters()]
    error, scale = y - x @ old[0].T - (old[1] if bias else 0), np.square(x).mean()
    if bias:
        x = np.column_stack([x, np.full(rows, np.sqrt(scale))])

    def solved(a: np.ndarray, b: np.ndarray, ridge: float) -> np.ndarray:
        return np.linalg.solve(a.T @ a + len(a) * ridge * scale * np.eye(a.shape[1]), a.T @ b)

    missed = [np.square(error[held] - x[held] @ solved(x[~held], error[~held], ridge)).sum() for ridge in ridges]
    wanted = solved(x, error, ridges[int(np.argmin(missed))])
    given = [torch.tensor(values, dtype=torch.float32) for values in (x[:, :inputs], y)]
    with torch.no_grad():
        reconstruction._fit(matrix, *given, torch.tensor(held), ridges)
    assert int(np.argmin(missed)) > 0
    np.testing.assert_allclose(matrix.weight.detach(), old[0] + wanted[:inputs].T, atol=2e-4)
    if bias:
        np.testing.assert_allclose(matrix.bias.detach(), old[1] + wanted[-1] * np.sqrt(scale), atol=2e-4)


def test_a_ridge_without_a_solution_is_left_out(checkpoints: dict[str, Path]) -> None:
    """Such as none at all for a neuron that is never active."""
    whole = encoder_of(checkpoints["llama"])
    whole.backbone.get_submodule("layers.1.mlp.up_proj").weight.data[3] = 0
    plan = PruningPlan(widths=[(1, 24)], ranking="activation")
    neurons = np.arange(48, 0, -1, dtype=np.float32)[None].repeat(4, axis=0)
    texts = [text[start:] for start in range(4) for text in TEXTS]
    found = [
        prune_and_reconstruct(copy.deepcopy(whole), plan, neurons, texts, 4000, ridges).encode(TEXTS)
        for ridges in ([0.0, 1.0], [1.0])
    ]
    np.testing.assert_array_equal(*found)


def stream_behind_mlp(encoder: Encoder, block: int, ids: torch.Tensor) -> torch.Tensor:
    """Of a block whose MLP has a norm neither behind it nor within the sum: [T, D]."""
    row, found = family(encoder.model_config), []
    own = encoder.backbone.get_submodule(row.blocks)[block]
    if row.norm_placement == "post":
        hook = own.get_submodule(row.norms_behind[1]).register_forward_pre_hook(lambda _m, args: found.append(args[0]))
    else:
        first = (lambda output: output[0]) if row.block_gives_tuple else (lambda output: output)
        hook = own.register_forward_hook(lambda _m, _a, output: found.append(first(output)))
    encoder(ids, torch.ones_like(ids))
    hook.remove()
    return found[0][0]


@pytest.mark.parametrize("name", ["llama", "granite", "bert", "modernbert"])
def test_no_other_matrix_comes_nearer_to_the_stream(name: str, checkpoints: dict[str, Path]) -> None:
    """The gradient of |stream behind the MLP, pruned - unpruned|^2 + n r |change|^2 is 0 there, and where sub-layers
    before it were dropped."""
    whole, pruned = encoder_of(checkpoints[name]), encoder_of(checkpoints[name])
    neurons, ridge = neuron_scores(whole), 0.05
    parts = {"widths": ((2, 20), (3, 17)), "ranking": "activation"}
    plan = PruningPlan((0,), (1,), keep_norms=keeps_norms(whole.model_config), **parts)
    old = prune_encoder(encoder_of(checkpoints[name]), plan, neurons)
    prune_and_reconstruct(pruned, plan, neurons, [TEXTS[3]], 400, [ridge])
    ids = torch.as_tensor(whole.tokenize([TEXTS[3]], "document")[0])[None].long()
    row, inputs = family(whole.model_config), []
    for block in (2, 3):
        matrix, before = (
            each.backbone.get_submodule(row.blocks)[block].get_submodule(row.mlp_out) for each in (pruned, old)
        )
        hook = matrix.register_forward_hook(lambda _m, args, _o: inputs.append(args[0][0].detach()))
        now, goal = stream_behind_mlp(pruned, block, ids), stream_behind_mlp(whole, block, ids).detach()
        hook.remove()
        x = inputs[-1]
        factor = getattr(pruned.backbone.get_submodule(row.blocks)[block], "residual_multiplier", 1.0)
        weight = ridge * len(x) * float(x.square().mean())
        change = (matrix.weight - before.weight).square().sum()
        if matrix.bias is not None:
            change = change + (matrix.bias - before.bias).square().sum() / x.square().mean()
        objective = ((now - goal) / factor).square().sum() + weight * change
        gradient = torch.autograd.grad(objective, matrix.weight)[0]
        at_first = 2 * ((stream_behind_mlp(old, block, ids) - goal) / factor).T @ x
        assert gradient.abs().max() < 2e-3 * at_first.abs().max()
        assert (matrix.weight - before.weight).abs().max() > 1e-3


GONE = {
    "mlps": ((1, 2), ()),
    "an attention": ((), (2,)),
    "a block and an MLP": ((2, 3), (2,)),
    "the first attention": ((), (0,)),
    "the first block": ((0,), (0,)),
}


@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_what_stays_gives_what_was_dropped(name: str, gone: str, checkpoints: dict[str, Path]) -> None:
    """A text of few tokens, on which the matrices were fitted, keeps its embedding: so many tokens have a solution.

    Where a norm is within the sum, nothing is fitted for a dropped sub-layer; where one is behind it, the next one
    that stays is, so that the last must stay.
    """
    whole = encoder_of(checkpoints[name])
    row, (mlp, attention) = family(whole.model_config), GONE[gone]
    for block in whole.backbone.get_submodule(row.blocks):
        for weight in block.get_submodule(row.attention[0]).parameters():
            weight.data *= 5 if weight.dim() == 2 else 1  # a fresh model sees all tokens alike
    if row.norm_placement == "post":
        mlp = tuple(block for block in mlp if block < 3)
    plan = make_plan(whole.model_config, mlp, attention)
    cut, fitted = copy.deepcopy(whole), copy.deepcopy(whole)
    prune_encoder(cut, plan, None)
    prune_and_reconstruct(fitted, plan, None, TEXTS[:1], 400, [1e-5])
    missed = [np.abs(each.encode(TEXTS[:1]) - whole.encode(TEXTS[:1])).max() for each in (cut, fitted)]
    if row.norm_before_sum:
        assert missed[0] == missed[1] > 1e-4
    else:
        assert missed[0] > 1e-4
        assert missed[1] < missed[0] / 5


def test_the_last_that_stays_makes_up_for_those_behind_it() -> None:
    pre, post, sandwich = (family({"model_type": name}) for name in ("llama", "bert", "gemma2"))
    plan = PruningPlan((0, 1, 3), (0, 3), widths=[(2, 8)])
    assert fitted_sublayers(plan, pre, 4) == {
        (1, "attention"): [(1, "mlp")],
        (2, "mlp"): [(3, "attention"), (3, "mlp")],
    }
    assert fitted_sublayers(plan, post, 4) == {(1, "attention"): [], (2, "attention"): [], (2, "mlp"): []}
    assert fitted_sublayers(plan, sandwich, 4) == {(2, "mlp"): []}
    assert fitted_sublayers(PruningPlan(), pre, 4) == {}


@pytest.mark.parametrize("order", ["prune_then_tune", "tune_then_prune", "tune_prune_recover"])
def test_a_trial_is_fitted_where_it_is_pruned(
    order: str, collection: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    settings = {"train.order": order, "train.steps": 2, "train.recovery": 1, "prune.reconstruct_tokens": 300}
    retriever = {"model.retriever": True} if order == "tune_prune_recover" else {}
    run, config = make_run(collection, checkpoints["llama"], tmp_path / "run", **settings, **retriever)
    prepare(run, config, ["activation"])
    neurons, model = load_saliency(run)["activation"], pretrained.find_model(config.model).config
    spec = TrialSpec(2, {}, {}, make_plan(model, [1], [], 0.5, neurons, "activation"))
    assert run_trial(run, config, spec, quiet).state == "complete"

    by_hand, pairs = base_encoder(config), training_pairs(config.data, 0)
    texts = reconstruction_texts(config)
    assert set(texts) <= set(pairs.positives)
    if order == "tune_then_prune":
        train(by_hand, pairs, config.train, quiet)
    prune_and_reconstruct(by_hand, spec.plan, neurons, texts, 300)
    if order != "tune_then_prune":
        train(by_hand, pairs, config.train, quiet)
    found = load_encoder(str(run.trial_folder(spec.trial))).encode(TEXTS)
    np.testing.assert_allclose(found, by_hand.encode(TEXTS), atol=1e-5)


def test_fitting_takes_few_texts_and_a_preflight_fewer(
    collection: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """One text is enough, and of long ones the first alone."""
    _run, config = make_run(collection, checkpoints["bert"], tmp_path / "run", **{"prune.reconstruct_tokens": 4096})
    assert two_steps(config).prune.reconstruct_tokens == 256
    whole = encoder_of(checkpoints["bert"])
    plan = PruningPlan(widths=[(0, 20)], ranking="activation")
    fitted = [
        prune_and_reconstruct(copy.deepcopy(whole), plan, neuron_scores(whole), texts, 3)
        for texts in (TEXTS, TEXTS[:1])
    ]
    one, other = (each.encode(TEXTS) for each in fitted)
    np.testing.assert_array_equal(one, other)
