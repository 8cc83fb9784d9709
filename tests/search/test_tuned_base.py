"""`train.order=tune_prune_recover`, what its trials compute: held against the same steps by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from effir_dist.core import config as c
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig
from effir_dist.data.pairs import training_pairs
from effir_dist.importance.store import load_importance, load_saliency, load_work
from effir_dist.models import pretrained
from effir_dist.models.encoder import Encoder, load_encoder, prune_encoder
from effir_dist.models.pruning import PruningPlan, make_plan
from effir_dist.runs.records import TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search import checks, cost_estimate, cost_text, dry_run
from effir_dist.search.cost_estimate import data_sizes, trial_operations
from effir_dist.search.preflight.trial import two_steps
from effir_dist.search.strategy.recovering import base_specs, full_recoveries
from effir_dist.search.strategy.space import Space, teacher_settings
from effir_dist.search.trial.preparation import load_teacher, prepare, prepare_outside
from effir_dist.search.trial.start import base_encoder
from effir_dist.search.trial.trial import run_trial
from effir_dist.training.batches import Teacher, distinct
from effir_dist.training.trainer import train
from tests.tiny import tiny_checkpoint
from tests.training.test_distillation import make_run
from tests.training.test_training import quiet

TEXTS = ["some text", "kara loso"]
RECOVERS = {
    "train.order": "tune_prune_recover", "train.steps": 8, "train.learning_rate": 1e-2, "train.temperature": 0.05,
    "train.distill_embeddings": 1.0, "train.distill_similarities": 0.5,
}  # fmt: skip


def tuned(run: Run, config: RunConfig) -> None:
    """The base of a run, and what is scored on it."""
    (base,) = base_specs(run)
    assert run_trial(run, config, base, quiet).state == "complete"
    assert base_specs(run) == []
    prepare(run, config, ["activation"], teacher_settings(Space(), config))


def pruned_spec(run: Run, config: RunConfig) -> TrialSpec:
    neurons, model = load_saliency(run)["activation"], pretrained.find_model(config.model).config
    plan = make_plan(model, [load_importance(run).drop_order("mlp")[0]], [], 0.5, neurons, "activation")
    return TrialSpec(2, {}, {}, plan)


def encoded(run: Run, trial: str) -> np.ndarray:
    return load_encoder(str(run.trial_folder(trial))).encode(TEXTS)


def by_hand(run: Run, config: RunConfig, spec: TrialSpec, **training: Any) -> Encoder:
    """A pruned trial: the base's saved weights, the plan, the base's embeddings of the training texts."""
    pairs, base = training_pairs(config.data, 0), load_encoder(str(run.trial_folder("0000")))
    queries, passages = distinct(pairs, False)
    told = [base.encode([*texts], kind) for texts, kind in ((queries, "query"), (passages, "document"))]
    student = prune_encoder(load_encoder(str(run.trial_folder("0000"))), spec.plan, load_saliency(run)["activation"])
    teacher = Teacher(*(each.astype(np.float16) for each in told))
    train(student, pairs, replace(config.train, **{"steps": 2, **training}), quiet, teacher=teacher)
    return student


@pytest.mark.parametrize("more", [{}, {"train.lora_rank": 2}], ids=["all weights", "LoRA"])
def test_a_pruned_trial_starts_from_the_base_and_learns_from_it(
    collection: Path, checkpoints: dict[str, Path], tmp_path: Path, more: dict[str, Any]
) -> None:
    run, config = make_run(collection, checkpoints["llama"], tmp_path / "run", **RECOVERS, **more)
    tuned(run, config)
    base, alone = run.result("0000"), base_encoder(config)
    undistilled = replace(config.train, distill_embeddings=0.0, distill_similarities=0.0)
    train(alone, training_pairs(config.data, 0), undistilled, quiet)
    np.testing.assert_allclose(encoded(run, "0000"), alone.encode(TEXTS), atol=1e-6)
    assert (base.steps, base.spec.stage) == (8, "base")

    spec = pruned_spec(run, config)
    record = run_trial(run, config, spec, quiet)
    assert (record.state, record.steps) == ("complete", 2), "a quarter of 8"
    found = encoded(run, spec.trial)
    np.testing.assert_allclose(found, by_hand(run, config, spec).encode(TEXTS), atol=1e-5)
    untaught = by_hand(run, config, spec, distill_embeddings=0.0, distill_similarities=0.0)
    assert np.abs(found - untaught.encode(TEXTS)).max() > 1e-4

    (again,) = full_recoveries([spec], 3, config.train.seed)
    rest = run_trial(run, config, again, quiet)
    assert (rest.steps, rest.spec.continues) == (6, spec.trial)
    student, pairs = load_encoder(str(run.trial_folder(spec.trial))), training_pairs(config.data, 0)
    rest_of_it = replace(config.train, steps=6, seed=1, learning_rate=config.train.learning_rate / 2)
    train(student, pairs, rest_of_it, quiet, teacher=load_teacher(run, config.train))
    np.testing.assert_allclose(encoded(run, again.trial), student.encode(TEXTS), atol=1e-5)


def test_layers_and_neurons_are_scored_on_the_base(
    collection: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    run, config = make_run(collection, checkpoints["llama"], tmp_path / "run", **RECOVERS)
    tuned(run, config)
    raw, plain = make_run(collection, checkpoints["llama"], tmp_path / "raw", **{"train.steps": 2})
    prepare(raw, plain, ["activation"])
    assert load_importance(run).mlp != load_importance(raw).mlp
    folder = run.trial_folder("0000")
    again, of_it = make_run(collection, folder / "copy", tmp_path / "again", **{"train.steps": 2})
    save_as_checkpoint(folder, checkpoints["llama"], folder / "copy")
    prepare(again, of_it, ["activation"])
    assert load_importance(run).mlp == pytest.approx(load_importance(again).mlp, rel=1e-4)
    np.testing.assert_allclose(load_saliency(run)["activation"], load_saliency(again)["activation"], rtol=1e-3)
    assert load_work(run) == load_work(again), "training is a recovery's two steps"


def save_as_checkpoint(trial: Path, original: Path, target: Path) -> None:
    """A trial's weights as a checkpoint of transformers."""
    import shutil

    shutil.copytree(original, target)
    shutil.copy(trial / "model.safetensors", target / "model.safetensors")


def test_a_retriever_is_its_own_base(collection: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    run, config = make_run(collection, checkpoints["bert"], tmp_path / "run", **RECOVERS, **{"model.retriever": True})
    (base,) = base_specs(run)
    record = run_trial(run, config, base, quiet)
    assert (record.state, record.steps) == ("complete", 0)
    folders = (run.trial_folder("0000"), checkpoints["bert"])
    kept, whole = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in kept.items() if name in whole)
    prepare(run, config, ["activation"], teacher_settings(Space(), config))
    (run.trial_folder("0000") / "model.safetensors").unlink()
    assert run_trial(run, config, TrialSpec(1, {}, {}, PruningPlan((1,))), quiet).steps == 2, "from the checkpoint"


def test_a_teacher_from_outside_teaches_the_base_and_the_base_the_trials(
    collection: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Of another dimension: its similarities alone."""
    wide = tiny_checkpoint(tmp_path, "bert", seed=7, hidden_size=64)
    run, config = make_run(
        collection, checkpoints["llama"], tmp_path / "run", **RECOVERS, **{"train.teacher": str(wide)}
    )
    assert checks.teacher_of(config, Space(), pretrained.find_model(config.model)) is not None
    prepare_outside(run, config)
    tuned(run, config)
    outside = load_teacher(run, config.train, "base")
    taught, own = base_encoder(config), load_teacher(run, config.train)
    assert outside is not None
    assert own is not None
    assert (outside.passages.shape[1], own.passages.shape[1]) == (64, 32)
    train(taught, training_pairs(config.data, 0), replace(config.train, distill_embeddings=0.0), quiet, teacher=outside)
    np.testing.assert_allclose(encoded(run, "0000"), taught.encode(TEXTS), atol=1e-5)
    spec = pruned_spec(run, config)
    run_trial(run, config, spec, quiet)
    np.testing.assert_allclose(encoded(run, spec.trial), by_hand(run, config, spec).encode(TEXTS), atol=1e-5)


def test_what_cannot_be_is_refused(collection: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    wide = tiny_checkpoint(tmp_path, "bert", seed=7, hidden_size=64)
    own = {**RECOVERS, "train.teacher": str(wide), "train.distill_similarities": 0.0}
    _, config = make_run(collection, checkpoints["llama"], tmp_path / "run", **own)
    source = pretrained.find_model(config.model)
    with pytest.raises(InputError, match="the base learns nothing from it; .* with a teacher of 32 dimensions, not 64"):
        checks.teacher_of(config, Space(), source)
    with pytest.raises(InputError, match="is a retriever already, which is not tuned first; leave it out"):
        checks.teacher_of(c.replace(config, {"model.retriever": True}), Space(), source)
    varied = Space(parameters={"train.order": ("prune_then_tune", "tune_prune_recover")})
    with pytest.raises(InputError, match="tune_prune_recover holds for all trials of a run"):
        checks.check(varied, c.replace(config, {"train.order": "prune_then_tune"}), source.config)
    assert two_steps(config).train.order == "prune_then_tune", "a preflight has no base"
    with pytest.raises(InputError, match=r"train.recovery must be above 0, at most 1, got 0"):
        c.replace(config, {"train.recovery": 0.0})


def test_a_rung_is_a_share_of_the_recovery(collection: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    own = {**RECOVERS, "search.rungs": [0.5], "train.recovery": 0.5}
    run, config = make_run(collection, checkpoints["llama"], tmp_path / "run", **own)
    tuned(run, config)
    spec = pruned_spec(run, config)
    assert run_trial(run, config, replace(spec, rung=0), quiet).steps == 2
    assert run_trial(run, config, replace(spec, rung=1), quiet).steps == 4
    np.testing.assert_allclose(encoded(run, spec.trial), by_hand(run, config, spec, steps=4).encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize("retriever", [False, True])
@pytest.mark.parametrize("length", [{"train.steps": 7}, {"train.steps": 0, "train.epochs": 3.0}], ids=str)
def test_a_dry_run_tells_the_steps_that_are_made(
    collection: Path, checkpoints: dict[str, Path], tmp_path: Path, retriever: bool, length: dict[str, Any]
) -> None:
    own = {**RECOVERS, **length, "model.retriever": retriever, "search.trials": 2, "train.recovery": 0.4}
    run, config = make_run(collection, checkpoints["llama"], tmp_path / "run", **own)
    source = pretrained.find_model(config.model)
    text = dry_run.text(Space(), config, source.config, "m", tflops=1.0)
    sizes = data_sizes(config)
    parts = {stage: trial_operations(source.config, config, sizes, stage) for stage in ("base", "", "recovery")}
    tuned(run, config)
    spec = pruned_spec(run, config)
    records = [run.result("0000"), run_trial(run, config, spec, quiet)]
    records.append(run_trial(run, config, full_recoveries([spec], 3, 0)[0], quiet))
    steps = [record.steps for record in records]
    assert [cost_estimate.steps_of(config, sizes, stage) for stage in parts] == steps
    assert steps[0] == (0 if retriever else steps[1] + steps[2])
    shown = ["the base: the model as it is" if retriever else f"training the base: {steps[0]} steps of 4 queries"]
    shown += [f"training a trial: {steps[1]} steps of 4", f"training a full recovery: {steps[2]} steps of 4"]
    assert all(f"  {line}" in text for line in shown)
    whole = sum(sum(part or 0.0 for part in parts[stage]) for stage in ("base", "", ""))
    assert f"  in all {cost_text.operations_text(whole)}: " in text
    each = cost_text.operations_text(sum(part or 0.0 for part in parts["recovery"]))
    assert f"  and for each model of the front {each}: " in text
    assert "teacher of the trials: the base" in text
    left = dry_run.text(Space(), config, source.config, "m", records).splitlines()[-2:]
    assert left[0].startswith("predicted cost: 1 trials left, ")
    assert left[1].startswith("  and a full recovery of each model of the front, ")
    assert left[1].endswith("for the 0 of today's front that have none")
