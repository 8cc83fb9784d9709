"""Held-out data sets score the finished front, and no byte of them is read before."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import effir_dist
from effir_dist.core import config as c
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig
from effir_dist.models import pretrained as checkpoints_module
from effir_dist.models.pruning import PruningPlan
from effir_dist.runs.records import TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search import checks
from effir_dist.search.strategy import space_file
from tests.search.test_search import OPTIONS, finish, start
from tests.tiny import write_collection

IN_OPEN, IN_ISDIR = 0x20, 0x40000000
OPENED: list[str] = []


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("held") / "never-read", documents=40, queries=24, seed=7)


def note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and "never-read" in str(arguments[0]):
        OPENED.append(str(arguments[0]))


def test_checks_scores_and_trials_open_no_held_out_file(
    tmp_path: Path, checkpoints: dict[str, Path], collection: Path, held_out: Path
) -> None:
    from effir_dist.search.trial.preparation import prepare
    from effir_dist.search.trial.scoring import score_saved
    from effir_dist.search.trial.trial import run_trial

    sys.addaudithook(note)
    values = {"model.path": str(checkpoints["bert"]), "data.paths": [str(collection)], "data.held_out": [str(held_out)]}
    config = c.replace(RunConfig(), {**values, "train.epochs": 0, "prune.calibration_texts": 4})
    source = checkpoints_module.find("minilm", str(checkpoints["bert"]))
    space = space_file.parse_space({"drop_mlp": {"max": 2}}, "x")
    checks.check(space, config, source.config)
    run = Run.create(tmp_path / "run", c.to_dict(config), {"space": {}})
    prepare(run, config, ["activation"])
    run_trial(run, config, TrialSpec(0, {}, {}, PruningPlan(dropped_mlp=(1,))), lambda _: None)
    score_saved(run, config, "0000", "test")
    assert OPENED == []
    found = score_saved(run, config, "0000", "held_out")
    assert {Path(path).name for path in OPENED} == {"corpus.jsonl", "queries.jsonl", "test.tsv", "train.tsv", "dev.tsv"}
    assert run.split_scores("held_out")["0000"].datasets.keys() == {"never-read"}
    assert found.data[0]["sha256"]
    table = effir_dist.load_run(run.folder)
    assert table.trials["held_out_ndcg_at_10"].tolist() == [pytest.approx(found.values["ndcg_at_10"])]
    assert set(table.scores["split"]) == {"search", "test", "held_out"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"data.held_out": ["{toy}"]}, "data sets that are not in data.paths"),
        ({"data.held_out": ["{other}/toy"]}, "the search scores on a data set so named; rename one"),
        ({"data.held_out": ["/nowhere"]}, "the data folder '/nowhere' does not exist"),
        ({"data.held_out": ["{held}"], "data.test_split": "final"}, "has no split 'final', only: dev, test, train"),
        ({"search.quality_sets": ["toi"]}, "search.quality_sets names 'toi', which is not scored; did you mean 'toy'?"),
    ],
)
def test_wrong_data_sets_are_named(
    tmp_path: Path, collection: Path, held_out: Path, values: dict[str, Any], said: str
) -> None:
    write_collection(tmp_path / "toy", documents=4, queries=3)
    places = {"toy": collection, "other": tmp_path, "held": held_out}
    filled = {
        k: [v.format(**places) for v in value] if isinstance(value, list) else value for k, value in values.items()
    }
    with pytest.raises(InputError) as error:
        checks.check_sets(c.replace(RunConfig(), {"data.paths": [str(collection)], **filled}))
    assert said in str(error.value)


def test_quality_is_the_mean_over_the_chosen_data_sets() -> None:
    from effir_dist.evaluate.evaluation import Evaluation
    from effir_dist.search.trial.scoring import means

    scores = {
        n: Evaluation(dict.fromkeys(("ndcg_at_10", "recall_at_100", "mrr_at_10"), v), {}, 0.0)
        for n, v in zip("abc", (0.2, 0.4, 0.9), strict=True)
    }
    assert means(scores, ())["ndcg_at_10"] == pytest.approx(0.5)
    chosen = means(scores, ("a", "b"))
    assert chosen["ndcg_at_10"] == pytest.approx(0.3)


def test_the_report_takes_its_means_over_the_chosen_data_sets(tmp_path: Path) -> None:
    from tests.synthetic import synthetic_run

    run = synthetic_run(tmp_path / "run", 8, search={"search.quality_sets": ["fiqa"]})
    table = effir_dist.load_run(run.folder).scores
    both = table.pivot(index=["trial", "split"], columns="dataset", values=["ndcg_at_10", "low", "difference_high"])
    for name in ("ndcg_at_10", "low", "difference_high"):
        pd.testing.assert_series_equal(both[name]["*"], both[name]["fiqa"], check_names=False)


@contextmanager
def watched(folders: list[Path]) -> Iterator[list[tuple[float, str]]]:
    """When the kernel says that a file in these folders was opened, by any process: (time, name)."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(0)
    assert descriptor >= 0
    for folder in folders:
        assert libc.inotify_add_watch(descriptor, str(folder).encode(), IN_OPEN) >= 0
    events: list[tuple[float, str]] = []

    def read() -> None:
        while True:
            data = os.read(descriptor, 4096)
            while data:
                _, mask, _, size = struct.unpack_from("iIII", data)
                name, data = data[16 : 16 + size].rstrip(b"\0").decode(), data[16 + size :]
                if name == "stop":
                    return
                if not mask & IN_ISDIR:
                    events.append((time.time(), name))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield events
    finally:
        (folders[0] / "stop").touch()
        thread.join(10)
        (folders[0] / "stop").unlink()
        os.close(descriptor)


@pytest.mark.slow
def test_a_whole_search_with_all_of_it(
    tmp_path: Path, checkpoints: dict[str, Path], collection: Path, held_out: Path
) -> None:
    """Three objectives, a constraint, measured speed, a held-out data set that no process opens before its turn, then
    repeats of the front."""
    space = tmp_path / "space.yaml"
    space.write_text("drop_mlp: {max: 2}\nmodel.dimension: [32, 16]\n")
    goal = ["search.objectives=[index_bytes,parameters,ndcg_at_10]", "search.constraints=['parameters <= 0.95']"]
    arguments = ["--model", str(checkpoints["bert"]), "--data", str(collection), "--held-out", str(held_out)]
    arguments += ["--space", str(space), "--name", "mine", "--trials", "5", "score.speed=true", *goal, *OPTIONS]
    run = Run(tmp_path / "runs/mine")
    with watched([held_out, held_out / "qrels"]) as events:
        output = finish(start(tmp_path, *arguments), tmp_path)
    last = max(path.stat().st_mtime for path in run.folder.glob("trials/*/result.json"))
    tested = max(path.stat().st_mtime for path in run.folder.glob("trials/*/test.json"))
    assert {name for _, name in events} >= {"corpus.jsonl", "queries.jsonl", "test.tsv"}
    assert min(when for when, _ in events) > max(last, tested)
    assert "the search ended: all 5 trials are done" in output

    records = run.results()
    assert all(r.values["parameters_fraction"] <= 0.95 for r in records[1:])
    assert all(r.values["query_speedup"] > 0 and r.speed_protocol["device"] for r in records)
    assert {r.facts.dimension for r in records} == {32, 16}
    assert (tmp_path / "runs/mine/trials/0000/model.safetensors").exists(), "off the front, and kept to compare by"
    front = pd.read_csv(run.report_folder / "front.csv", dtype={"trial": str})
    assert front["held_out_ndcg_at_10"].notna().all()

    finish(start(tmp_path, "--resume", "runs/mine", "--repeat", "1"), tmp_path)
    repeats = [r for r in run.results() if r.spec.repeat_of]
    assert {r.spec.repeat_of for r in repeats} == set(front["trial"])
    table = pd.read_csv(run.report_folder / "trials.csv", dtype={"trial": str}).set_index("trial")
    assert (table.loc[front["trial"], "seeds"] == 2).all()
    assert json.loads((run.trial_folder(repeats[0].trial) / "test.json").read_text())["ndcg_at_10"] >= 0
