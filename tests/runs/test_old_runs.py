"""Runs and exports of version 0.1.0 (tests/fixtures/README.md): read, reported, resumed and loaded by today's code."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import effir_dist
from effir_dist.core import config
from effir_dist.core.settings import RunConfig
from effir_dist.runs.records import TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search.trial.costs import Clock
from effir_dist.search.trial.trial import _Checkpoints
from tests import ROOT, driven
from tests.fixtures.make_old import MORE, TEXTS, outcome
from tests.search.test_search import finish, start

FIXTURES = ROOT / "tests" / "fixtures"
STOPPED = "0014"
"""The trial that was training when its search was killed."""
RENAMED: dict[str, tuple[str, dict[Any, Any]]] = {
    "train.chunk": ("train.gradcache_queries", {}),
    "train.before_pruning": ("train.order", {False: "prune_then_tune", True: "tune_then_prune"}),
}
"""Old name of a setting -> today's, and old values -> today's."""


def today(suggested: dict[str, Any]) -> dict[str, Any]:
    """Suggested values by today's names."""
    known = {name: RENAMED.get(name, (name, {})) for name in suggested}
    return {new: values.get(suggested[old], suggested[old]) for old, (new, values) in known.items()}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the old run, its model and its data, in a folder of this machine."""
    for name in ("old_run", "old_model", "old_data"):
        shutil.copytree(FIXTURES / name, tmp_path / name)
    folder = (tmp_path / "runs" / "old").resolve()
    folder.parent.mkdir()
    (tmp_path / "old_run").rename(folder)
    text = (folder / "config.yaml").read_text()
    for word, name in (("@MODEL@", "old_model"), ("@DATA@", "old_data")):
        text = text.replace(word, str(tmp_path.resolve() / name))
    (folder / "config.yaml").write_text(text)
    return folder


def raw(run: Path, name: str) -> dict[str, dict[str, Any]]:
    """Trial -> what its file of this name holds, without any of our code."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(run.glob(f"trials/*/{name}"))}


def models(run: Path) -> list[str]:
    """What each trial tries: the pruned model and its settings, whichever version wrote the trial."""
    found = []
    for trial, tree in raw(run, "rungs.json").items():
        suggested, facts = today(raw(run, "trial.json")[trial]["suggested"]), tree["rungs"][0]
        settings = {name: value for name, value in suggested.items() if name.startswith(("train.", "prune."))}
        found.append(json.dumps([facts["mlp_widths"], facts["dropped_attention"], settings], sort_keys=True))
    return found


def test_the_tables_of_an_old_run_are_its_records(run: Path) -> None:
    records = raw(run, "result.json")
    frames = effir_dist.load_run(run)
    assert [*frames.trials["trial"]] == [*records]
    names = (
        "state",
        "parameters",
        "parameters_fraction",
        "width_ratio",
        "ndcg_at_10",
        "recall_at_100",
        "mrr_at_10",
        "train_seconds",
        "total_seconds",
    )
    for name in names:
        assert [*frames.trials[name]] == [record[name] for record in records.values()], name
    dropped = [",".join(map(str, record["dropped_mlp"])) for record in records.values()]
    assert [*frames.trials["dropped_mlp"]] == dropped
    assert [*frames.front["trial"]] == ["0009", "0010"]  # of fewer parameters, 0010 is the best but for 0009
    means = frames.queries.groupby("trial")["ndcg_at_10"].mean()
    assert {**means} == pytest.approx({trial: record["ndcg_at_10"] for trial, record in records.items()})
    for name in today(dict.fromkeys(("train.chunk", "train.before_pruning", "prune.ranking"))):
        assert [*frames.trials[name]] == [today(record["suggested"])[name] for record in records.values()]


def test_an_old_run_is_reported_with_the_trials_that_were_only_screened(run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "effir_dist.report", str(run)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rungs = pd.read_csv(run / "report" / "rungs.csv", dtype={"trial": str})
    known = raw(run, "rungs.json")
    assert [*rungs["trial"]] == [*known]
    assert [*rungs["rung_ndcg_at_10"]] == [tree["rungs"][0]["ndcg_at_10"] for tree in known.values()]
    page = (run / "report" / "report.html").read_text()
    assert all(f'"{trial}"' in page for trial in raw(run, "result.json"))


def test_a_dry_run_of_an_old_run_says_what_is_left(run: Path) -> None:
    command = [sys.executable, "-m", "effir_dist.search", "--resume", str(run), "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "6,112 parameters" in done.stdout
    assert "4 trials" in done.stdout


def test_a_search_that_goes_on_tries_new_plans_of_the_old_meaning(run: Path) -> None:
    """Outcomes are a formula's, so this holds on every machine. What the old code would have tried differs: the sampler
    is another one."""
    old = Run.open(run)
    old.write_config({**old.config, "search": {**old.config["search"], "screening_cost": "flops"}})
    before = {tree["key"] for tree in raw(run, "trial.json").values()}
    found: list[tuple[TrialSpec, float]] = []

    def known(spec: TrialSpec, share: float) -> dict[str, float]:
        found.append((spec, share))
        return outcome(vars(spec.facts(driven.MODEL)), int(share == 1))

    with pytest.MonkeyPatch.context() as patch:
        model = run.parents[1] / "old_model" / "config.json"
        patch.setattr(driven, "MODEL", json.loads(model.read_text()))
        driven.drive(Run.open(run), known, most=MORE)
    assert found[0][0].trial == STOPPED
    assert not any(spec.plan.keep_norms for spec, _ in found)
    new = [spec.key for spec, share in found if share < 1 and spec.trial != STOPPED]
    assert len(new) == len({*new}) > 1
    assert before.isdisjoint(new)


def test_the_trial_that_was_stopped_goes_on_from_its_checkpoint(run: Path) -> None:
    [spec] = [spec for spec in Run.open(run).pending() if spec.trial == STOPPED]
    state = _Checkpoints(Run.open(run), spec, Clock()).load()
    assert state is not None
    assert len(state.losses) == 4


def test_an_old_run_goes_on_without_the_norms_behind_its_dropped_layers(run: Path) -> None:
    """Whether those stay was no question then; all plans of a run must mean the same."""
    resumed = Run.open(run)
    specs = [*resumed.pending(), *(record.spec for record in resumed.results())]
    assert any(spec.plan.dropped_mlp for spec in specs)
    assert not any(spec.plan.keep_norms for spec in specs)
    for _ in range(2):
        settings = config.from_dict(resumed.config)
        assert not settings.prune.keep_norms
        resumed.write_config(config.to_dict(settings))
    assert config.from_dict(config.to_dict(RunConfig())).prune.keep_norms


@pytest.mark.slow
def test_an_old_search_is_resumed_to_its_end(run: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for name in ("result.json", "rungs.json") for p in run.glob(f"trials/*/{name}")}
    output = finish(start(tmp_path, "--resume", "runs/old"), tmp_path)
    assert "Traceback" not in output
    assert {path: path.read_bytes() for path in before} == before
    records = effir_dist.load_run(run).trials
    assert len(records) == 9
    assert (records["state"] == "complete").all()
    assert len(models(run)) == len({*models(run)}) >= 15
    old, new = json.loads((FIXTURES / "old_run_resumed.json").read_text()), raw(run, "result.json")[STOPPED]
    assert new["steps"] == old["steps"] == 40
    assert new["mlp_widths"] == old["mlp_widths"]
    assert new["earlier_seconds"] > 0, "it goes on from the old checkpoint"
    assert math.isfinite(new["train_loss"]), "processors round differently: 0.3 to 0.6 of this model of random weights"
    front = pd.read_csv(run / "report" / "front.csv", dtype={"trial": str})
    assert front["test_ndcg_at_10"].notna().all()


def test_an_old_export_loads_and_gives_the_embeddings_that_it_gave() -> None:
    encoder = effir_dist.load(str(FIXTURES / "old_export"))
    with np.load(FIXTURES / "old_embeddings.npz") as expected:
        for kind in ("query", "document"):
            np.testing.assert_allclose(encoder.encode(TEXTS, kind), expected[kind], atol=1e-6)
