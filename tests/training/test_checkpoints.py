"""A training that dies goes on from its checkpoint and ends where it would have: any stage, any number of ranks."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from effir_dist.core import config as c
from effir_dist.core.settings import RunConfig, TrainConfig
from effir_dist.models.encoder import Encoder, load_encoder, prune_encoder
from effir_dist.models.pruning import PruningPlan
from effir_dist.report.progress import seconds_of
from effir_dist.runs.records import TrialRecord, TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search.trial.costs import PARTS
from effir_dist.search.trial.preparation import prepare
from effir_dist.search.trial.trial import run_trial
from effir_dist.training import preemption, train_state
from effir_dist.training.train_state import TrainState, read_state, write_state
from effir_dist.training.trainer import train
from tests import ROOT
from tests.ranks import run_ranks
from tests.synthetic import record
from tests.tiny import tiny_checkpoint, write_collection
from tests.training.test_training import assert_same, assert_same_training, make_pairs, quiet, weights

PLAN = PruningPlan(dropped_mlp=(1,))
TRAIN = TrainConfig(steps=12, batch_size=8, learning_rate=1e-3, dtype="float32", hard_negatives=2, checkpoint_steps=4)


class Killed(Exception):
    pass


class Keeper:
    """Checkpoints in a folder; dies right after the first one, if told so."""

    def __init__(self, folder: Path, dies: bool = False, warned: bool = False) -> None:
        self.path, self.dies, self.warned = folder / "state", dies, warned
        self.saved: list[int] = []

    def load(self) -> TrainState | None:
        return read_state(self.path, "key")

    def save(self, state: TrainState) -> None:
        write_state(self.path, state, "key")
        self.saved.append(len(state.losses))
        if self.dies:
            raise Killed

    def urgent(self) -> bool:
        return self.warned


def student(path: Path) -> Encoder:
    return prune_encoder(load_encoder(str(path)), PLAN, None)


def trained(path: Path, config: TrainConfig, keeper: Keeper | None = None) -> tuple[Encoder, float]:
    encoder = student(path)
    return encoder, train(encoder, make_pairs(), config, quiet, checkpoints=keeper).last_loss


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"zero_stage": 0}, marks=pytest.mark.slow),
        pytest.param({"zero_stage": 1}, marks=pytest.mark.slow),
        {"zero_stage": 2, "dropout": 0.2},
        {"zero_stage": 3},
        {"zero_stage": 0, "dtype": "bfloat16"},
        pytest.param({"zero_stage": 2, "dtype": "bfloat16"}, marks=pytest.mark.slow),
        pytest.param({"zero_stage": 3, "dtype": "bfloat16"}, marks=pytest.mark.slow),
        pytest.param({"zero_stage": 1, "lora_rank": 4}, marks=pytest.mark.slow),
        {"zero_stage": 3, "lora_rank": 4, "gradient_checkpointing": True},
    ],
    ids=str,
)
def test_resumed_is_uninterrupted(changes: dict[str, Any], checkpoints: dict[str, Path], tmp_path: Path) -> None:
    config = replace(TRAIN, **changes)
    whole, loss = trained(checkpoints["llama"], config)
    with pytest.raises(Killed):
        trained(checkpoints["llama"], config, Keeper(tmp_path, dies=True))
    assert len(Keeper(tmp_path).load().losses) == 4
    keeper = Keeper(tmp_path)
    resumed, again = trained(checkpoints["llama"], config, keeper)
    assert keeper.saved == [8]
    assert_same(weights(resumed), weights(whole), atol=1e-6)
    assert again == pytest.approx(loss, rel=1e-6)
    assert distance_moved(weights(student(checkpoints["llama"])), weights(whole)) > 1e-3


@pytest.mark.parametrize("stage", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_a_training_that_stops_on_its_way_and_goes_on_is_one(
    stage: int, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Rungs of 3 and 7 of the steps, with a score's worth of evaluation in between."""
    config, keeper = replace(TRAIN, zero_stage=stage, checkpoint_steps=0), Keeper(tmp_path)
    whole, loss = trained(checkpoints["llama"], config)
    for until in (3, 7, 0):
        encoder = student(checkpoints["llama"])
        outcome = train(encoder, make_pairs(), config, quiet, checkpoints=keeper, until=until)
        encoder.encode(["ka"])
        assert outcome.steps == (until or config.steps)
    assert keeper.saved == [3, 7]
    assert outcome.last_loss == pytest.approx(loss, rel=1e-6)
    assert_same(weights(encoder), weights(whole), atol=1e-6)
    with pytest.raises(ValueError, match="must save its state: pass checkpoints"):
        train(student(checkpoints["llama"]), make_pairs(), config, quiet, until=3)


def distance_moved(start: dict[str, torch.Tensor], end: dict[str, torch.Tensor]) -> float:
    return max((start[name].float() - end[name].float()).abs().max().item() for name in start)


def _rank(rank: int, path: Path, folder: Path, config: TrainConfig) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    encoder, _ = trained(path, config, Keeper(folder))
    torch.save(weights(encoder), folder / f"{rank}.pt")
    dist.destroy_process_group()


IN_HALF = {"dtype": "bfloat16", "gradcache_queries": 1}
"""Chunks of the same texts on one rank and on two: their sums in float32 are then the same."""


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"zero_stage": 1}, marks=pytest.mark.slow),
        pytest.param({"zero_stage": 2}, marks=pytest.mark.slow),
        {"zero_stage": 3},
        pytest.param({"zero_stage": 1, **IN_HALF}, marks=pytest.mark.slow),
        pytest.param({"zero_stage": 2, **IN_HALF}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_another_number_of_ranks_goes_on(changes: dict[str, Any], checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """One rank up to step 4, two ranks to step 8 (their last checkpoint), one rank to the end."""
    path, config = checkpoints["llama"], replace(TRAIN, **changes)
    start, whole = weights(student(path)), weights(trained(path, config)[0])
    with pytest.raises(Killed):
        trained(path, config, Keeper(tmp_path, dies=True))
    run_ranks(_rank, path, tmp_path, config)
    two = torch.load(tmp_path / "0.pt")
    assert_same(two, torch.load(tmp_path / "1.pt"))
    assert_same_training(start, whole, two)
    assert len(Keeper(tmp_path).load().losses) == 8
    assert_same_training(start, whole, weights(trained(path, config, Keeper(tmp_path))[0]))


def test_a_state_of_another_trial_is_left_alone(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        trained(checkpoints["llama"], TRAIN, Keeper(tmp_path, dies=True))
    assert read_state(tmp_path / "state", "another key") is None
    assert read_state(tmp_path / "none", "key") is None


def test_a_write_that_is_killed_leaves_the_former_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large state is parts and, last, the file that names them: killed at any of its files."""
    monkeypatch.setattr(train_state, "PART_BYTES", 40)
    path, write = tmp_path / "checkpoint.safetensors", train_state.write_bytes_atomic

    def state(value: float) -> TrainState:
        return TrainState([value], value, {f"weight/{i}": torch.full((5,), value) for i in range(5)})

    write_state(path, state(1.0), "key")
    parts = {*train_state.parts_folder(path).iterdir()}
    assert len(parts) == 3  # two tensors each, and one
    for killed_at in range(4):
        left = [killed_at]

        def killed(target: Path, data: bytes, left: list[int] = left) -> None:
            if not left[0]:
                raise Killed
            left[0] -= 1
            write(target, data)

        monkeypatch.setattr(train_state, "write_bytes_atomic", killed)
        with pytest.raises(Killed):
            write_state(path, state(2.0), "key")
        found = read_state(path, "key")
        assert found is not None
        assert found.losses == [1.0]
        assert all((tensor == 1.0).all() for tensor in found.tensors.values())
        assert len(found.tensors) == 5
    monkeypatch.setattr(train_state, "write_bytes_atomic", write)
    write_state(path, state(3.0), "key")
    found = read_state(path, "key")
    assert found is not None
    assert all((tensor == 3.0).all() for tensor in found.tensors.values())
    assert not parts & {*train_state.parts_folder(path).iterdir()}


def test_a_finished_trial_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_state, "PART_BYTES", 40)
    run = Run.create(tmp_path / "run", {})
    tensors = {f"weight/{i}": torch.zeros(5) for i in range(5)}
    write_state(run.checkpoint_path("0000"), TrainState([1.0], 1.0, tensors), "key")
    run.clear_pending("0000")
    assert read_state(run.checkpoint_path("0000"), "key") is not None
    run.write_result(record(0, 0.5))
    assert [p.name for p in run.trial_folder("0000").iterdir()] == ["result.json"]


def test_a_node_that_is_about_to_go_saves_at_once_and_once(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, warned=True)
    trained(checkpoints["llama"], replace(TRAIN, checkpoint_steps=0), keeper)
    assert keeper.saved == [4]
    keeper = Keeper(tmp_path / "none")
    trained(checkpoints["llama"], replace(TRAIN, checkpoint_steps=0), keeper)
    assert keeper.saved == []


# A trial


def make_run(folder: Path, collection: Path, checkpoint: Path) -> tuple[Run, RunConfig, TrialSpec]:
    values = {"model.path": str(checkpoint), "data.paths": [str(collection)], "train.batch_size": 4, "train.steps": 200}
    config = c.replace(RunConfig(), {**values, "train.checkpoint_steps": 4, "train.dtype": "float32"})
    run = Run.create(folder, c.to_dict(config))
    prepare(run, config, ["activation"])
    return run, config, TrialSpec(0, {}, {}, PLAN)


TRIAL = """
import json, sys
from effir_dist.core import config as c
from effir_dist.runs.records import TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search.trial.trial import run_trial
run = Run.open(sys.argv[1])
spec = TrialSpec.from_json(json.loads(sys.argv[2]), "the command line")
run_trial(run, c.from_dict(run.config), spec, lambda progress: None)
"""


def test_a_trial_killed_while_it_trains(collection: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    run, config, spec = make_run(tmp_path / "run", collection, checkpoints["bert"])
    calm, _, _ = make_run(tmp_path / "calm", collection, checkpoints["bert"])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [str(run.folder), json.dumps(spec.to_json())]
    process = subprocess.Popen([sys.executable, "-c", TRIAL, *arguments], env=environment)
    path, end = run.checkpoint_path("0000"), time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run.clear_pending("0000")  # what --resume does first
    left = read_state(path, spec.key)
    assert left is not None
    assert 0 < len(left.losses) < 200
    assert 0 < left.train_seconds < left.trial_seconds
    steps: list[int] = []
    record = run_trial(run, config, spec, lambda progress: steps.append(progress.get("step", 0)))
    expected = run_trial(calm, config, spec, quiet)
    assert record.steps == 200
    assert record.train_loss == pytest.approx(expected.train_loss, rel=1e-4)
    assert record.values["ndcg_at_10"] == pytest.approx(expected.values["ndcg_at_10"], abs=1e-6)
    np.testing.assert_allclose(
        *(load_encoder(str(r.trial_folder("0000"))).encode(["a text"]) for r in (run, calm)), atol=1e-5
    )
    assert not path.exists()
    assert record.earlier_seconds == left.trial_seconds, "what the killed process did"
    assert record.values["total_seconds"] > left.trial_seconds
    assert record.values["train_seconds"] > left.train_seconds
    assert expected.earlier_seconds == 0


def test_a_trials_seconds_are_those_of_all_its_rungs(
    collection: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    run, config, spec = make_run(tmp_path / "run", collection, checkpoints["bert"])
    config = c.replace(config, {"search.rungs": [0.0, 0.5], "train.steps": 16})
    for rung in (0, 1):
        run_trial(run, config, replace(spec, rung=rung), quiet)
    record, rungs = run_trial(run, config, replace(spec, rung=2), quiet), run.rungs("0000")
    assert isinstance(record, TrialRecord)
    whole = record.values
    below = {name: sum(rung.values[name] for rung in rungs) for name in PARTS}
    assert [rung.values["train_seconds"] > 0 for rung in rungs] == [False, True]
    assert record.earlier_seconds == pytest.approx(below["total_seconds"])
    assert all(whole[name] > below[name] for name in PARTS), "each part has its own on top"
    for values in (whole, *(rung.values for rung in rungs)):
        parts = [values[name] for name in ("train_seconds", "score_seconds", "other_seconds")]
        assert sum(parts) == pytest.approx(values["total_seconds"])
    assert seconds_of(record) == whole["total_seconds"]
    older = replace(record, earlier_seconds=0.0)  # its seconds were of the last rung alone
    assert seconds_of(older) == pytest.approx(whole["total_seconds"] + below["total_seconds"])


# Memory


LIMITED = """
import json, resource, sys
import faiss
from effir_dist.core import config as c
from effir_dist.runs.records import TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search.trial.start import base_encoder
from effir_dist.search.trial.trial import run_trial
from effir_dist.training.trainer import train
from tests.training.test_training import make_pairs, quiet
run, limit = Run.open(sys.argv[1]), int(sys.argv[3])
config = c.from_dict(run.config)
train(base_encoder(config), make_pairs(), c.replace(config, {"train.batch_size": 4}).train, quiet)  # all is imported
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + limit, resource.RLIM_INFINITY))
run_trial(run, config, TrialSpec.from_json(json.loads(sys.argv[2]), "the command line"), quiet)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("megabytes", "state"), [(700, "complete"), (30, "failed"), (100_000, "unlimited")])
def test_a_trial_that_runs_out_of_memory_is_tried_with_less(megabytes: int, state: str, tmp_path: Path) -> None:
    """256 pairs at once take about 1.5 GB of activations, 32 at a time an eighth or less: the limit is the kernel's."""
    model = tiny_checkpoint(tmp_path, "llama", intermediate_size=2048)
    data = write_collection(tmp_path / "toy", documents=900, queries=900)
    values = {"model.path": str(model), "data.paths": [str(data)], "train.dtype": "float32"}
    values |= {"train.steps": 1, "train.batch_size": 256, "data.max_documents": 50, "data.max_queries": 10}
    config = c.replace(RunConfig(), values)
    run = Run.create(tmp_path / "run", c.to_dict(config))
    prepare(run, c.replace(config, {"prune.calibration_texts": 4}), ["activation"])
    arguments = [str(run.folder), json.dumps(TrialSpec(0, {}, {}, PLAN).to_json()), str(megabytes << 20)]
    # One arena: each thread of malloc's would take 64 MB of the limit, whether it uses them or not.
    one = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **one}
    done = subprocess.run([sys.executable, "-c", LIMITED, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    record = run.result("0000")
    if state == "unlimited":
        assert (record.state, record.retried) == ("complete", "")
        return
    assert record.state == state, record.reason
    assert record.retried.startswith("out of memory at a peak of")
    assert state == "complete" or record.reason.startswith("out of memory at a peak of")


# The notice


@contextlib.contextmanager
def metadata_server(answers: dict[str, str]) -> Iterator[str]:
    """A cloud's metadata on loopback: path -> answer, 404 for the rest; AWS's needs its token."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            found = answers.get(self.path)
            if "spot" in self.path and self.headers.get("X-aws-ec2-metadata-token") != answers["/latest/api/token"]:
                found = None
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write((found or "").encode())

        do_GET = do_PUT = answer

        def log_message(self, *_: Any) -> None:
            """Silence."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@pytest.mark.parametrize(
    ("cloud", "before", "notice"),
    [
        ("aws", {"/latest/api/token": "t"}, {"/latest/meta-data/spot/instance-action": '{"action": "terminate"}'}),
        (
            "google",
            {"/computeMetadata/v1/instance/preempted": "FALSE"},
            {"/computeMetadata/v1/instance/preempted": "TRUE"},
        ),
    ],
)
def test_the_clouds_notice_becomes_a_file(
    cloud: str, before: dict[str, str], notice: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(preemption.NOTICE, str(tmp_path / "notice"))
    answers = dict(before)
    with metadata_server(answers) as server:
        monkeypatch.setattr(sys, "argv", ["preemption", cloud, "--server", server, "--every", "0.05"])
        watcher = threading.Thread(target=preemption.main, daemon=True)
        watcher.start()
        watcher.join(0.5)
        assert watcher.is_alive()
        assert not preemption.noticed()
        answers.update(notice)
        watcher.join(10)
        assert not watcher.is_alive()
        assert preemption.noticed()
