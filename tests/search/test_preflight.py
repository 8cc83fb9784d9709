"""`--preflight`: each check fails for its own reason, in a sentence, and none of them can hang."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from effir_dist.core import config as config_module
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig
from effir_dist.data import sets
from effir_dist.models import pretrained
from effir_dist.search import command as search_command
from effir_dist.search.cluster import mps
from effir_dist.search.cluster.nodes import Node
from effir_dist.search.cluster.resources import Resources
from effir_dist.search.cluster.worker import Job
from effir_dist.search.preflight import command as preflight_command
from effir_dist.search.preflight import gpu_checks, network, node_checks, trial
from effir_dist.search.preflight.command import Asked
from effir_dist.search.preflight.findings import Finding, attempt, table, to_json
from effir_dist.search.preflight.node_checks import CHECKS, Request
from effir_dist.search.preflight.processes import RayNode, declared
from effir_dist.search.strategy.space import Space
from effir_dist.search.trial.faults import TrialFault
from effir_dist.training import memory
from tests import ROOT
from tests.mps import install


@pytest.fixture
def request_here(checkpoints: dict[str, Path], collection: Path, tmp_path: Path) -> Request:
    """What this machine, as the driver, asks of its nodes."""
    places = {"model.path": str(checkpoints["bert"]), "data.paths": [str(collection)]}
    config = config_module.replace(RunConfig(), places)
    scratch = tmp_path / "runs" / ".preflight-test"
    scratch.mkdir(parents=True)
    (scratch / node_checks.STARTED).write_text("here")
    return Request(
        node="host1 (10.0.0.1)",
        config=config,
        scratch=str(scratch),
        versions=node_checks.versions(),
        data={str(collection): sets.fingerprint(str(collection))["sha256"]},
        weights=node_checks.weight_files(pretrained.find("", str(checkpoints["bert"]))),
        trial_bytes=1 << 20,
    )


def run_all(request: Request, seconds: float = 60.0) -> dict[str, Finding]:
    """Check -> finding, through plain data as between two machines."""
    plain = json.loads(json.dumps(request.plain()))
    return {row["check"]: Finding(**row) for row in node_checks.run_all(plain, seconds)}


def test_a_node_like_the_driver_passes_every_check(request_here: Request) -> None:
    found = run_all(request_here)
    assert {name: each.state for name, each in found.items()} == {check.name: "ok" for check in CHECKS}, found
    assert {"ray", "torch", "transformers", "deepspeed", "effir_dist", "optuna"} <= request_here.versions.keys()
    wrote = node_checks.written_by(request_here.node, Path(request_here.scratch))
    assert wrote.read_text() == request_here.node
    assert wrote.name == "host1-10.0.0.1-"


@pytest.mark.parametrize(
    ("check", "change", "reason"),
    [
        ("versions", {"versions": {"torch": "1.0"}}, r"^torch is [0-9.]+\S* and should be 1.0, as where the search"),
        ("versions", {"versions": {"no-such-package": "2.1"}}, "^no-such-package is not installed and should be 2.1"),
        ("versions", {"versions": {"effir_dist's sources": "0" * 12}}, "sources is [0-9a-f]{12} and should be 0{12}"),
        ("weights", {"weights": {"model.safetensors": 7}}, "are {.*}, and {'model.safetensors': 7} where the"),
        ("data", {"data": {"DATA": "f" * 64}}, r"the data set .* is another one here \(sha256 .*\(f{12}\)"),
        ("disk", {"cache_bytes": 1 << 60}, r"has [0-9.]+ GiB free, and a trial may need 1073741824.50 GiB there"),
        ("runs folder", {"scratch": "/nowhere/runs/.preflight"}, "^/nowhere/runs is another folder here than where"),
        ("runs folder", {"trial_bytes": 1 << 60}, "GiB free, and a trial may need"),
    ],
)
def test_what_differs_is_named(
    request_here: Request, collection: Path, check: str, change: dict[str, object], reason: str
) -> None:
    text = json.dumps(change).replace('"DATA"', json.dumps(str(collection)))
    found = run_all(dataclasses.replace(request_here, **json.loads(text)))
    failed = [each for each in found.values() if each.state == "failed"]
    assert [each.check for each in failed] == [check]
    with pytest.raises(InputError, match=reason):
        raise InputError(failed[0].reason)


def test_weights_that_are_cut_off_and_data_that_is_gone(request_here: Request, tmp_path: Path) -> None:
    model = Path(shutil.copytree(request_here.config.model.path, tmp_path / "model"))
    (model / "model.safetensors").write_bytes(b"")
    config = config_module.replace(request_here.config, {"model.path": str(model)})
    gone = {str(tmp_path / "gone"): "0" * 64}
    found = run_all(dataclasses.replace(request_here, config=config, data=gone))
    assert "not a readable safetensors file" in found["weights"].reason
    assert str(tmp_path / "gone") in found["data"].reason


def test_a_check_that_hangs_ends_with_a_reason_and_the_others_are_told(
    request_here: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    checks = [node_checks.Check("stuck", lambda _: str(never.wait())), CHECKS[0]]
    monkeypatch.setattr(node_checks, "CHECKS", checks)
    found = run_all(request_here, seconds=0.2)
    never.set()
    assert "did not end within 0 s; is a network or a file system out of reach?" in found["stuck"].reason
    assert found["versions"].state == "skipped"


def test_an_error_of_any_kind_is_a_finding() -> None:
    def broken() -> str:
        raise ImportError("libcudart.so.12: cannot open shared object file")

    found = attempt("host1", "faiss", broken, 60)
    assert (found.state, found.reason) == ("failed", "ImportError: libcudart.so.12: cannot open shared object file")


def test_the_table_folds_what_is_well_everywhere_and_the_record_holds_all() -> None:
    findings = [Finding(f"host{i}", "faiss", "ok") for i in (1, 2, 3)]
    findings += [Finding("host1", "disk", "ok", "9 GiB"), Finding("host2", "disk", "failed", "/tmp is full")]
    assert table(findings) == [
        "node   check  state   reason",
        "all 3  faiss  ok",
        "host1  disk   ok      9 GiB",
        "host2  disk   failed  /tmp is full",
    ]
    record = to_json(findings)
    assert record["ok"] is False
    assert len(record["findings"]) == 5
    assert record["findings"][-1] == {"node": "host2", "check": "disk", "state": "failed", "reason": "/tmp is full"}


def test_gpu_memory_is_held_against_the_prediction(request_here: Request) -> None:
    asks = dataclasses.replace(request_here, gpu_bytes=30e9)
    assert gpu_checks.check_memory(asks, [(79 * 10**9, 80 * 10**9)] * 2) == "2 GPUs, 79.0 GB free, 30.0 GB predicted"
    message = r"GPU 1 has 37.0 of 80.0 GB free, 10% of them are spare, and its trials take up to 30.0 GB"
    with pytest.raises(InputError, match=message):
        gpu_checks.check_memory(asks, [(79 * 10**9, 80 * 10**9), (37 * 10**9, 80 * 10**9)])


def test_what_is_predicted_of_a_gpu(request_here: Request, tmp_path: Path) -> None:
    """Of all trials that share it, or of scoring the neurons where that takes more; nothing where there is none."""
    source = pretrained.find("", request_here.config.model.path)

    def predicted(takes: Resources | None, **settings: object) -> float:
        config = config_module.replace(request_here.config, {k.replace("__", "."): v for k, v in settings.items()})
        return preflight_command._gpu_bytes(Asked(config, Space(), source, tmp_path, None), takes)

    whole, half = (Resources(1, 4.0, gpus, 1) for gpus in (1.0, 0.5))
    one = memory.predict(source.config, request_here.config, "bfloat16").peak
    assert predicted(whole) == one
    assert predicted(half) == 2 * one
    assert predicted(None) == predicted(Resources(1, 4.0, 0.0, 1)) == 0
    untrained = {"train__epochs": 0, "train__steps": 0}
    assert predicted(whole, **untrained) == 0
    assert predicted(whole, **untrained, prune__ranking="slimming") > 0


def test_how_trials_that_share_a_gpu_compute_is_told_of_each_node(
    request_here: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpu_checks.shared_by(request_here) == ""
    config = config_module.replace(request_here.config, {"resources.gpus_per_trial": 0.25})
    shared = dataclasses.replace(request_here, config=config)
    install(tmp_path, monkeypatch)
    assert gpu_checks.shared_by(shared) == ", no multi-process service: trials take turns"
    with mps.service(lambda _: None):
        assert gpu_checks.shared_by(shared) == f", multi-process service in {mps.pipes()}"


def test_fewer_gpus_than_ray_counts(request_here: Request) -> None:
    with pytest.raises(InputError, match=r"sees \d+ GPUs, and Ray counts 99; is the CUDA driver there"):
        gpu_checks.run(request_here.plain(), 99)


@pytest.mark.gpu
def test_the_gpus_of_this_machine(request_here: Request) -> None:
    assert "GPUs, " in gpu_checks.run(request_here.plain(), 1)
    with pytest.raises(InputError, match="GPU 0 has .* GB free"):
        gpu_checks.run(dataclasses.replace(request_here, gpu_bytes=1e15).plain(), 1)


def test_a_node_that_cannot_be_reached_is_named() -> None:
    port = network.listen("127.0.0.1")
    closed = network.free_port("127.0.0.1")
    assert network.unreachable({"host1": ("127.0.0.1", port)}) == ""
    lost = network.unreachable({"host1": ("127.0.0.1", port), "host2": ("127.0.0.1", closed)})
    assert lost.startswith("host2 (")
    assert "refused" in lost


def test_the_trial_is_the_users_but_for_its_length() -> None:
    asked = {"train.steps": 500, "train.zero_stage": 2, "train.batch_size": 48, "resources.workers_per_trial": 2}
    config = config_module.replace(RunConfig(), {**asked, "data.max_queries": 5, "search.time_budget": 60})
    small = trial.two_steps(config)
    assert small.train == dataclasses.replace(config.train, steps=2)
    assert (small.resources, small.model) == (config.resources, config.model)
    assert (small.data.max_queries, small.data.max_train_pairs, small.search.time_budget) == (5, 192, 0)
    untrained = config_module.replace(config, {"train.steps": 0, "train.epochs": 0})
    assert trial.two_steps(untrained).train == untrained.train


def test_a_trial_that_fails_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = [RayNode(f"id{i}", f"host{i}", f"10.0.0.{i}", Node(2.0)) for i in (1, 2)]
    monkeypatch.setattr(trial, "nodes", lambda: known)
    driver = trial.OneTrial(trial.make_run(tmp_path, RunConfig(), {}), RunConfig(), Resources(1, 1.0, 0.0, 1))
    assert isinstance(driver.next_job(), Job)
    driver.ended("0000", TrialFault("host", "RuntimeError: NCCL error", ("id2",)))
    assert driver.error == "RuntimeError: NCCL error (on host2 (10.0.0.2))"
    assert driver.next_job() is None


def test_declared_hosts_are_those_of_an_on_premise_file(tmp_path: Path) -> None:
    tree = yaml.safe_load((ROOT / "clusters" / "onprem.yaml").read_text())
    tree["provider"] |= {"head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]}
    (tmp_path / "file.yaml").write_text(yaml.safe_dump(tree))
    assert declared(str(tmp_path / "file.yaml")) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert declared(str(ROOT / "clusters" / "a100.yaml")) == []
    assert declared(str(tmp_path / "nothing.yaml")) == []


def test_what_is_printed_is_in_one_file(tmp_path: Path) -> None:
    """To a pipe Python prints late: Tune's messages were in the terminal, after the block that sends them to a log."""
    code = "from pathlib import Path; from effir_dist.search.cluster.worker import output_to\nprint('before')\n"
    code += "with output_to(Path('log')):\n    print('within')\nprint('after')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "before\nafter\n"
    assert (tmp_path / "log").read_text() == "within\n"


@pytest.mark.slow
def test_this_machine_alone(
    tmp_path: Path,
    checkpoints: dict[str, Path],
    collection: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The command as a user gives it, for a search that is called `mine`; nothing of it is begun."""
    given = ["--model", str(checkpoints["bert"]), "--data", str(collection), "--runs", str(tmp_path / "runs")]
    given += ["--name", "mine", "--cpus-per-trial", "1", "train.batch_size=4", "train.steps=5000", "--preflight"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(sys, "argv", ["search", *given, "--preflight-json", "found.json"])
    search_command.main()
    record = json.loads((tmp_path / "found.json").read_text())
    assert record["ok"], record
    assert {"resources", *(check.name for check in CHECKS), "layer scores", "trial"} <= {
        each["check"] for each in record["findings"]
    }
    assert record["findings"][-1]["reason"].startswith("2 steps by 1 worker on ")
    assert "all checks passed" in capfd.readouterr().out
    assert not (tmp_path / "runs").exists()
