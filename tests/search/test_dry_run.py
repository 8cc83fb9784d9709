"""`--dry-run`: sizes against counting, what a prediction is made of, and nothing that is started."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effir_dist.core import config as c
from effir_dist.core.settings import RunConfig
from effir_dist.models import pretrained
from effir_dist.models.families import registry
from effir_dist.models.families.registry import BACKBONES, SHORT_NAMES
from effir_dist.models.flops import count_flops
from effir_dist.models.pruning import count_parameters
from effir_dist.search import command, cost_estimate, cost_text, dry_run
from effir_dist.search.command_line import parser
from effir_dist.search.strategy import space as spaces
from effir_dist.search.strategy import space_file
from tests import ROOT
from tests.driven import MODEL, drive, make_run

NOTHING = cost_estimate.Sizes(None, None, None, "no data")


def parsed(tree: dict[str, Any]) -> spaces.Space:
    return space_file.parse_space(tree, "x")


def test_the_size_of_a_space_is_what_counting_gives() -> None:
    tree = {"drop_mlp": {"max": 2}, "drop_attention": {"max": 1}, "width_ratio": {"low": 0.4, "high": 1.0, "step": 0.2}}
    sets = [len([s for s in itertools.product((0, 1), repeat=6) if sum(s) <= most]) for most in (2, 1)]
    space = parsed(tree)
    assert spaces.plan_count(space, 6) == sets[0] * sets[1] * 4
    assert spaces.plan_count(parsed({"width_ratio": {"low": 0.4, "high": 1.0}}), 6) is None
    text = dry_run.text(space, RunConfig(), MODEL, "m")
    assert f"size: up to {sets[0] * sets[1] * 4:,} different plans, {sets[0] * sets[1] * 4:,} trials" in text


def test_settings_that_vary_multiply_trials_and_continuous_ones_make_no_end_of_them() -> None:
    tree = {
        "drop_mlp": {"max": 1},
        "train.batch_size": {"low": 8, "high": 64, "step": 8},
        "prune.ranking": ["taylor", "random"],
    }
    assert "size: up to 7 different plans, 112 trials" in dry_run.text(parsed(tree), RunConfig(), MODEL, "m")
    tree["train.learning_rate"] = {"low": 1e-5, "high": 1e-3, "log": True}
    text = dry_run.text(parsed(tree), RunConfig(), MODEL, "m")
    assert "size: up to 7 different plans, and no end of trials, as train.learning_rate is continuous" in text


def test_adapters_checkpointing_and_hard_negatives_count() -> None:
    def training(values: dict[str, Any], sizes: cost_estimate.Sizes = NOTHING) -> float | None:
        config = c.replace(RunConfig(), {"train.steps": 10, "model.max_query_length": 4, **values})
        return cost_estimate.trial_operations(MODEL, config, sizes)[0]

    plain = training({})
    assert plain
    assert training({"train.gradient_checkpointing": True}) == pytest.approx(plain * 4 / 3)
    assert training({"train.lora_rank": 8}) == pytest.approx(plain * 2 / 3)
    assert training({"train.hard_negatives": 1}) == pytest.approx(2 * plain, rel=0.05)
    none = cost_estimate.Sizes(100, 1, 1, has_negatives=False)
    assert training({"train.hard_negatives": 1}, none) == plain
    assert training({"train.steps": 0}) is None, "epochs of data of unknown size"
    assert training({"train.steps": 0, "train.epochs": 2.0}, none) == pytest.approx(plain * 6 / 10)


def test_reconstruction_is_counted_for_each_trial_and_not_for_the_base(collection: Path) -> None:
    own = {"data.paths": [str(collection)], "train.steps": 1, "train.batch_size": 4, "search.trials": 3}
    without = c.replace(RunConfig(), {**own, "train.order": "tune_prune_recover"})
    config = c.replace(without, {"prune.reconstruct_tokens": 1_000_000})
    found = cost_estimate.reconstruction_operations(MODEL, config)
    neurons, outputs = 6 * 1e6 * 1536**2, 6 * 2e6 * 1536 * 384
    length = config.model.document_length
    passes = 2e6 / length * count_flops(MODEL, np.array([length]))
    factors = 6 * (5 * 1536**3 / 3 + 2 * 1536**2 * 384)
    assert found == pytest.approx(neurons + outputs + factors + passes, rel=0.001)
    work = cost_estimate.reconstruction_work(MODEL, config)
    token = passes / 2e6
    assert token * cost_estimate.fitting_tokens(work, 1.0) == pytest.approx(found), "the unpruned model: all of it"
    half = token * cost_estimate.fitting_tokens(work, 0.5)
    assert half == pytest.approx(0.75 * passes + (neurons + outputs + factors) / 4, rel=0.001)
    few = c.replace(config, {"prune.reconstruct_tokens": 1000})
    dual = 6 * (1000**2 * 1536 + 2000 * 1536 * 384 + 5 * 1000**3 / 3 + 2 * 1000**2 * 384)
    assert cost_estimate.reconstruction_operations(MODEL, few) == pytest.approx(passes / 1000 + dual, rel=0.001)
    half = token * cost_estimate.fitting_tokens(cost_estimate.reconstruction_work(MODEL, few), 0.5)
    assert half == pytest.approx(0.75 * passes / 1000 + dual / 2, rel=0.001)
    sizes, space = cost_estimate.data_sizes(config), parsed({"width_ratio": {"low": 0.5, "high": 1.0}})
    parts = [cost_estimate.trial_operations(MODEL, config, sizes, stage) for stage in ("base", "", "", "")]
    text = dry_run.text(space, config, MODEL, "m")
    assert f"fitting a trial's matrices: 1,000,000 tokens: {cost_text.operations_text(found)}" in text
    whole = 3 * found + sum(part or 0.0 for each in parts for part in each)
    assert f"  in all {cost_text.operations_text(whole)}; " in text
    assert not cost_estimate.reconstruction_operations(MODEL, without)
    assert "fitting a trial" not in dry_run.text(space, without, MODEL, "m")


def screening_lines(space: spaces.Space, config: RunConfig) -> list[str]:
    lines = dry_run.text(space, config, MODEL, "m").splitlines()
    return [line for line in lines if line.startswith(("  no plan is screened", "  screening a plan"))]


def test_what_screening_costs_is_said_and_whether_it_is_done(collection: Path) -> None:
    space = parsed({"drop_mlp": {"max": 2}})
    limits = {"search.rung_queries": 6, "search.rung_documents": 30}  # half of the 12 and the 60
    own = {"data.paths": [str(collection)], "train.batch_size": 4, **limits}
    for steps, screens in ((1, False), (400, True)):
        config = c.replace(RunConfig(), {**own, "train.steps": steps})
        (line,) = screening_lines(space, config)
        train, score = map(float, cost_estimate.trial_operations(MODEL, config, cost_estimate.data_sizes(config)))
        share = (config.search.rungs[0] * train + score / 2) / (train + score)
        said = f"screening a plan costs {share:.2g} of a trial, and all of it 10% of the search"
        unsaid = f"no plan is screened, each is trained: screening costs {share:.0%} of a trial, and "
        assert line.strip().startswith(said if screens else unsaid)
    assert not screening_lines(space, c.replace(config, {"search.scheduler": "plain"}))
    assert not screening_lines(parsed({"plans": {"one": {"drop_mlp": [1]}}}), config)


def test_a_checkpoint_takes_twelve_bytes_a_trained_parameter() -> None:
    """Of 22,565,376; or of rank 8's 6 blocks x 8 x (4 x 2 x 384 of attention + 2 x (384 + 1,536) of the MLP)."""
    space, adapters = parsed({"drop_mlp": {"max": 1}}), c.replace(RunConfig(), {"train.lora_rank": 8})
    assert "a checkpoint: up to 0.27 GB, 1 s at 0.5 GB/s" in dry_run.text(space, RunConfig(), MODEL, "m")
    assert "a checkpoint: up to 0.004 GB, 0 s at 0.5 GB/s" in dry_run.text(space, adapters, MODEL, "m")


def test_data_that_is_there_is_counted_and_data_that_is_not_is_named(collection: Path) -> None:
    config = c.replace(RunConfig(), {"data.paths": [str(collection)], "train.epochs": 1.0, "train.batch_size": 4})
    sizes = cost_estimate.data_sizes(config)
    assert (sizes.pairs, sizes.queries, sizes.documents) == (12, 12, 60)
    text = dry_run.text(parsed({"drop_mlp": {"max": 1}}), config, MODEL, "m", tflops=0.001)
    assert "3 steps of 4 queries" in text
    assert "12 queries, 60 documents" in text
    assert "at 0.001 TFLOP/s" in text
    away = c.replace(config, {"data.paths": ["/nowhere/toy"]})
    assert "not known: /nowhere/toy is not on this machine yet" in dry_run.text(parsed({}), away, MODEL, "m")


def test_constraints_are_marked_and_a_run_is_told_by_its_own_seconds(tmp_path: Path) -> None:
    space = {"drop_mlp": {"max": 2}, "drop_attention": {"max": 2}}
    run = make_run(tmp_path / "run", {"search.trials": 10, "search.constraints": ["parameters <= 0.92"]}, space)
    drive(run, most=4)
    config = c.from_dict(run.config)
    lines = dry_run.text(parsed(space), config, MODEL, "m", run.results()).splitlines()
    marked = [line for line in lines if "not run: parameters <= 0.92" in line]
    assert [line.split()[:2] for line in marked] == [["0", "-2"]], "no MLP, two attentions"
    assert lines[-1] == "predicted cost: 6 trials left, 1m00s each, the median of 4 finished: 6m00s one at a time"


def test_a_plan_needs_no_weights_no_torch_and_writes_nothing(tmp_path: Path) -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['x', '--dry-run', '--backbone', 'mistral', '--data', 'nowhere', '--tflops', '4']\n"
        "runpy.run_module('effir_dist.search', run_name='__main__')\n"
        "print(sorted({'torch', 'transformers', 'ray', 'deepspeed'} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]"
    assert "seeds: search.seed 0, train.seed 0" in lines
    assert "not known: nowhere is not on this machine yet" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*sorted(BACKBONES), *sorted(SHORT_NAMES)])
def test_every_named_backbone_is_planned_without_its_checkpoint(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = registry.backbone(name)
    if not row.source.startswith("package:"):  # those are on this machine or not at all
        monkeypatch.setattr(pretrained, "find", None)
    arguments = parser().parse_intermixed_args(["--backbone", name, "--data", "nowhere", "--dry-run"])
    text = command.dry_run_text(arguments)
    assert text.startswith(f"{row.name}: {count_parameters(row.config):,} parameters")
    assert ("its sizes were not looked up" in text) == (not row.looked_up)
    monkeypatch.setitem(BACKBONES, row.name, dataclasses.replace(row, looked_up=""))
    assert "its sizes were not looked up in a published config; a search compares" in command.dry_run_text(arguments)
