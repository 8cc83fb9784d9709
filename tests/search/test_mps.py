"""CUDA's multi-process service of a search: started, used, left, and never left behind. The daemon is a stand-in."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from effir_dist.core.errors import InputError
from effir_dist.core.settings import ResourceConfig
from effir_dist.search.cluster import mps, mps_keeper
from tests import ROOT
from tests.mps import install, program
from tests.search.test_search import OPTIONS, finish, start, wait_for

SHARED = ResourceConfig(gpus_per_trial=0.125)
HOLDER = """
import sys, time
from effir_dist.search.cluster import mps
with mps.service(print):
    sys.stdout.flush()
    time.sleep(600)
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return install(tmp_path, monkeypatch)


def pipes() -> Path:
    return Path(os.environ[mps.PIPES])


def processes(folder: Path) -> list[psutil.Process]:
    """The daemon of a folder of pipes, and its server."""
    return [psutil.Process(int((folder / f"{name}.pid").read_text())) for name in (mps.TOOL, "server")]


def ended(found: list[psutil.Process], seconds: float = 300) -> bool:
    return not psutil.wait_procs(found, timeout=seconds)[1]


def until(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_is_there_for_what_is_started_and_gone_afterwards(programs: Path) -> None:
    said: list[str] = []
    with mps.for_search(SHARED, None, said.append):
        folder, found = pipes(), processes(pipes())
        assert all(process.is_running() for process in found)
        assert mps.answers(folder)
        assert os.environ[mps.LOGS] == str(folder.parent / "logs")
    assert said == [f"trials share a GPU by CUDA's multi-process service, started for this search in {folder.parent}"]
    assert ended(found)
    assert not folder.parent.exists()
    assert mps.PIPES not in os.environ


@pytest.fixture
def others(programs: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's daemon, in the default folder."""
    folder = tmp_path / "nvidia-mps"
    folder.mkdir()
    daemon = subprocess.Popen([mps.TOOL, "-f"], env={**os.environ, mps.PIPES: str(folder)})
    until(lambda: mps.answers(folder))
    yield daemon
    found = processes(folder)
    daemon.terminate()
    daemon.wait()
    assert ended(found)


@pytest.mark.parametrize("named", [False, True])
def test_somebody_elses_is_used_and_left(
    named: bool, others: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if named:
        monkeypatch.setenv(mps.PIPES, str(tmp_path / "nvidia-mps"))
    said: list[str] = []
    with mps.service(said.append) as shared:
        assert shared
        assert (mps.PIPES in os.environ) == named
    assert said[0].endswith("nvidia-mps, which is there and stays")
    assert others.poll() is None


def test_another_users_is_not_used(
    others: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.getuid() == 0:
        os.chown(tmp_path / "nvidia-mps" / f"{mps.TOOL}.pid", 4242, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 4242)
    with mps.service(lambda _: None) as shared:
        assert shared
        assert pipes().parent.name.startswith("effir-mps-")
    assert others.poll() is None


def test_a_folder_that_is_named_and_in_which_nobody_answers_is_not_used(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless its tool is not here, as in a container that was given the pipes alone."""
    monkeypatch.setenv(mps.PIPES, str(tmp_path))
    with mps.service(lambda _: None) as shared:
        assert shared
        assert pipes() != tmp_path
    assert pipes() == tmp_path
    (programs / mps.TOOL).unlink()
    with mps.service(lambda _: None) as shared:
        assert shared
        assert pipes() == tmp_path


def test_the_files_of_a_daemon_that_died_are_no_daemon(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "nvidia-mps").mkdir()
    (tmp_path / "nvidia-mps" / f"{mps.TOOL}.pid").write_text("2147483647\n")
    with mps.service(lambda _: None):
        assert pipes().parent.name.startswith("effir-mps-")


@pytest.mark.parametrize("killed", ["the search", "the keeper"])
def test_nothing_is_left_of_it_when_a_process_is_killed(killed: str, programs: Path) -> None:
    code = [sys.executable, "-c", HOLDER]
    search = subprocess.Popen(code, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert search.stdout
    folder = Path(search.stdout.readline().split()[-1])
    found = processes(folder / "pipes")
    keeper = found[0].parent()
    assert keeper
    os.kill(search.pid if killed == "the search" else keeper.pid, signal.SIGKILL)
    assert ended(found)
    search.kill()
    search.wait()
    search.stdout.close()
    assert ended([keeper])
    assert folder.exists() == (killed == "the keeper")
    shutil.rmtree(folder, ignore_errors=True)


def test_a_daemon_that_dies_is_told_of_and_leaves_no_server(programs: Path) -> None:
    said: list[str] = []
    with mps.service(said.append):
        found = processes(pipes())
        (pipes().parent / "logs" / "control.log").write_text("Device 0 fell off the bus\n")
        found[0].kill()
        until(lambda: found[0].status() == psutil.STATUS_ZOMBIE)
        assert found[1].is_running()
    assert said[1] == (
        "the multi-process service ended before the search, and trials took turns since: Device 0 fell off the bus"
    )
    assert ended(found)


def test_a_daemon_that_will_not_quit_is_made_to(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPS_IGNORES", "")
    monkeypatch.setattr(mps, "QUIT_SECONDS", 0.5)
    with mps.service(lambda _: None):
        folder, found = pipes().parent, processes(pipes())
    assert ended(found)
    assert not folder.exists()


def test_one_that_does_not_start_is_said_and_trials_take_turns(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPS_FAILS", "no device is supported")
    said: list[str] = []
    with mps.service(said.append) as shared:
        assert not shared
        assert mps.PIPES not in os.environ
    reason = "nvidia-cuda-mps-control ended with 1: no device is supported"
    assert said == [f"trials that share a GPU take turns on it: {reason}"]


DRIVER = """
#include <stdlib.h>
int cuInit(int flags) { return 0; }
int cuDeviceGet(int *device, int number) { *device = 7; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) {
    return device == 7 && getenv("CUDA_MPS_PIPE_DIRECTORY") ? atoi(getenv("CUDA_ANSWERS")) : 1;
}
"""


@pytest.mark.parametrize("number", ["0", "805"])
def test_one_by_which_cuda_does_not_start_is_not_used(
    number: str, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every trial would fail; the driver is a stand-in."""
    (tmp_path / "driver.c").write_text(DRIVER)
    library = ["cc", "-shared", "-fPIC", "-o", str(tmp_path / "libcuda.so.1"), str(tmp_path / "driver.c")]
    subprocess.run(library, check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_ANSWERS", number)
    said: list[str] = []
    with mps.service(said.append) as shared:
        assert shared == (number == "0")
    if not shared:
        reason = "nvidia-cuda-mps-control answers, but cuDevicePrimaryCtxRetain fails with error 805"
        assert said == [f"trials that share a GPU take turns on it: {reason}"]


@pytest.mark.parametrize(
    ("smi", "tool", "sentence"),
    [
        ("Default", False, "take turns on it: nvidia-cuda-mps-control, which comes with NVIDIA's driver, is not"),
        ("Enabled", True, "take turns on it: a GPU is parted by MIG, where each part needs a service of its own"),
        ("Exclusive_Process", False, r"takes one process only .*is not installed; nvidia-smi -c DEFAULT, or --gpus"),
    ],
)
def test_a_machine_without_it(smi: str, tool: bool, sentence: str, programs: Path) -> None:
    program(programs / "nvidia-smi", f"#!/bin/sh\necho {smi}\n")
    if not tool:
        (programs / mps.TOOL).unlink()
    said: list[str] = []
    try:
        with mps.for_search(SHARED, None, said.append):
            assert mps.PIPES not in os.environ
    except InputError as error:
        said.append(str(error))
    (found,) = said
    assert re.search(sentence, found)


@pytest.mark.parametrize(
    ("resources", "address"),
    [(ResourceConfig(), None), (ResourceConfig(gpus_per_trial=0.5, mps=False), None), (SHARED, "127.0.0.1:6379")],
)
def test_it_is_not_started_where_it_is_not_asked_for(
    resources: ResourceConfig, address: str | None, programs: Path
) -> None:
    said: list[str] = []
    with mps.for_search(resources, address, said.append):
        assert mps.PIPES not in os.environ
    assert len(said) == (address is not None)


def test_the_daemon_counts_the_gpus_as_trials_do() -> None:
    folder = Path("/f")
    for chosen, kept in (("2,3", None), ("", None), ("GPU-5ab, GPU-6cd", "GPU-5ab, GPU-6cd"), ("GPU-5ab,1", None)):
        found = mps_keeper.environment(folder, {"CUDA_VISIBLE_DEVICES": chosen, "A": "b"})
        assert found.get("CUDA_VISIBLE_DEVICES") == kept
        assert (found["A"], found[mps.PIPES], found[mps.LOGS]) == ("b", "/f/pipes", "/f/logs")


@pytest.mark.slow
def test_a_search_has_it_and_leaves_nothing_of_it(
    programs: Path, tmp_path: Path, checkpoints: dict[str, Path], collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command itself, two trials at a time on a GPU that only Ray believes in; killed, and gone on with."""
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 1}')
    run, space = tmp_path / "runs" / "mine", tmp_path / "space.yaml"
    space.write_text("drop_mlp: {max: 2}\nwidth_ratio: {low: 0.5, high: 1.0, step: 0.25}\n")
    where = ["--model", str(checkpoints["bert"]), "--data", str(collection), "--space", str(space), "--name", "mine"]
    process = start(tmp_path, *where, "--trials", "4", "--gpus-per-trial", "0.5", *OPTIONS)
    try:
        wait_for(process, lambda: len([*run.glob("trials/*/log")]) >= 2, tmp_path)
        first = service_of(tmp_path)
        found = processes(first / "pipes")
    finally:
        process.kill()
        process.wait()
    assert ended(found)
    until(lambda: not first.exists())

    output = finish(start(tmp_path, "--resume", "runs/mine"), tmp_path)
    second = service_of(tmp_path)
    assert second != first
    assert not second.exists()
    assert "2 trials share a GPU" in output
    records = [json.loads(file.read_text()) for file in run.glob("trials/*/result.json")]
    assert [(record["state"], record["gpus"]) for record in records] == [("complete", 0.5)] * 4


def service_of(folder: Path) -> Path:
    """The folder of the last service that a command in `folder` said it started; its lines are wrapped."""
    return Path(re.findall(r"/tmp/effir-mps-\w{8}", (folder / "output").read_text().replace("\n", ""))[-1])
