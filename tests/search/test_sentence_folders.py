"""A sentence-transformers folder goes through search, importance and evaluate as one model."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from effir_dist.core import config as c
from effir_dist.core.errors import InputError
from effir_dist.core.measures import METRICS
from effir_dist.core.settings import RunConfig
from effir_dist.evaluate import command as evaluate_command
from effir_dist.importance import command as importance_command
from effir_dist.models.encoder import load_encoder
from effir_dist.models.pruning import PruningPlan, make_plan
from effir_dist.runs.records import TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search.command import configure, dry_run_text
from effir_dist.search.command_line import parser
from effir_dist.search.trial.start import base_encoder
from effir_dist.search.trial.trial import run_trial
from tests import needs
from tests.exports import cosines, texts
from tests.sentence_folders import made, rewritten
from tests.tiny import WITHOUT_BASE, write_collection
from tests.training.test_training import quiet

needs.module("sentence_transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("folder"), "all at once")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("data") / "toy")


def evaluated(model: Path, data: Path, *more: str) -> Any:
    arguments = evaluate_command.parser().parse_args([str(model), "--data", str(data), "--split", "dev", *more])
    return evaluate_command.evaluate(arguments)


def make_run(folder: Path, data: Path, tmp_path: Path, **settings: Any) -> tuple[Run, RunConfig]:
    given = {"train.epochs": 0, "train.dtype": "float32", "score.dtype": "float32", **settings}
    args = parser().parse_args(["--model", str(folder), "--data", str(data), *(f"{k}={v}" for k, v in given.items())])
    config, _, _ = configure(args)
    return Run.create(tmp_path / "run", c.to_dict(config), {"space": {}}), config


def test_trial_0000_without_training_scores_what_evaluate_scores(folder: Path, data: Path, tmp_path: Path) -> None:
    run, config = make_run(folder, data, tmp_path)
    assert (config.model.max_query_length, config.model.max_document_length) == (48, 48)
    record = run_trial(run, config, TrialSpec(0, {}, {}, PruningPlan()), quiet)
    found = evaluated(folder, data)
    saved = evaluated(run.trial_folder("0000"), data)
    for metric in METRICS:
        assert record.values[metric] == pytest.approx(found["mean"][metric], abs=1e-9)
    assert saved["mean"] == found["mean"]
    encoder = load_encoder(str(folder))
    assert record.values["parameters"] == sum(p.numel() for p in encoder.parameters())
    assert record.facts.dimension == encoder.dimension == 20
    ours, own = load_encoder(str(run.trial_folder("0000"))).encode(texts(9)), encoder.encode(texts(9))
    np.testing.assert_allclose(cosines(ours, own), 1, atol=1e-6)


def test_a_pruned_and_trained_trial_keeps_its_dense_layers(folder: Path, data: Path, tmp_path: Path) -> None:
    changes = {"train.epochs": 1, "train.batch_size": 2, "train.learning_rate": 1e-3}
    run, config = make_run(folder, data, tmp_path, **changes, **WITHOUT_BASE)
    plan = make_plan(base_encoder(config).model_config, [1], [2])
    record = run_trial(run, config, TrialSpec(0, {}, {}, plan), quiet)
    saved = load_encoder(str(run.trial_folder("0000")))
    assert sum(p.numel() for p in saved.parameters()) == record.values["parameters"]
    assert evaluated(run.trial_folder("0000"), data)["mean"]["ndcg_at_10"] == pytest.approx(record.values["ndcg_at_10"])
    start = base_encoder(config).head.state_dict()
    assert all((saved.head.state_dict()[name] - w).abs().max() > 1e-5 for name, w in start.items())


def test_dry_run_and_importance_take_the_folder(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    count = sum(p.numel() for p in load_encoder(str(folder)).parameters())
    text = dry_run_text(parser().parse_args(["--model", str(folder), "--data", str(data), "train.batch_size=2"]))
    assert f"{count:,} parameters" in text
    given = ["--model", folder, "--data", data, "--samples", 4, "--granularity", "pooled", "--out", tmp_path]
    monkeypatch.setattr(sys, "argv", ["importance", *map(str, given)])
    importance_command.main()
    assert "whole block  drop" in capsys.readouterr().out


def test_a_model_that_we_cannot_load_is_evaluated_by_sentence_transformers(
    folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = Path(shutil.copytree(folder, tmp_path / "strange"))
    rewritten(strange, "1_Pooling/config.json", pooling_mode=["weightedmean", "lasttoken"])
    rewritten(strange, "2_Dense/config.json", in_features=64)
    weights = strange / "2_Dense" / "model.safetensors"
    save_file({"linear.weight": load_file(weights)["linear.weight"].repeat(1, 2)}, weights)
    with pytest.raises(InputError, match="pools by weightedmean and lasttoken"):
        load_encoder(str(strange))
    found = evaluated(strange, data, "--max-query-length", "12")
    assert 0 <= found["mean"]["ndcg_at_10"] <= 1
    assert found["max_query_length"] == 12
    assert "sentence-transformers itself encodes with" in capsys.readouterr().err
