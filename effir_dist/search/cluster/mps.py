"""CUDA's multi-process service (MPS): processes that share a GPU compute on it at a time, instead of taking turns.

A program finds it when CUDA starts in it: in the folder that CUDA_MPS_PIPE_DIRECTORY names, else in /tmp/nvidia-mps;
where none answers there it runs without. One that a search starts has folders of its own, and ends with the search,
however that ends: `mps_keeper` sees to it. What NVIDIA says of it: https://docs.nvidia.com/deploy/mps
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from effir_dist.core.errors import InputError
from effir_dist.core.settings import ResourceConfig
from effir_dist.core.values import as_float
from effir_dist.search.cluster.resources import local_gpus
from effir_dist.training.memory import of_gpus

TOOL = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
DEFAULT_PIPES = "/tmp/nvidia-mps"
EXCLUSIVE = "Exclusive_Process"
ANSWER_SECONDS = 10.0
QUIT_SECONDS = 10.0
"""Until a daemon that was asked to quit is made to."""
STOP_SECONDS = 60.0
READY = "ready"
"""What the keeper says when programs may use the service; anything else is why it does not run."""


@contextlib.contextmanager
def for_search(resources: ResourceConfig, address: str | None, say: Callable[[str], None]) -> Iterator[None]:
    """The service, where the search's trials may share GPUs of this machine; on a cluster it is the nodes' own."""
    if not resources.may_share:
        yield
    elif address:
        say(
            "trials that share a GPU take turns on it where its node runs no multi-process service "
            "(docs/guides/clusters.md)"
        )
        yield
    elif not (resources.mps and local_gpus()):
        yield
    else:
        with service(say):
            yield


@contextlib.contextmanager
def service(say: Callable[[str], None]) -> Iterator[bool]:
    """Have it for the programs that are started in the block: one that is there, and is left, or one of our own.

    Yields whether there is one. Without one programs take turns, which is said with the reason; raises InputError where
    they cannot even do that.
    """
    named = bool(os.environ.get(PIPES))
    if (answers(pipes()) and (named or _lets_us_in(pipes()))) or (named and not shutil.which(TOOL)):
        # Without the tool as well, since a container may have the pipes alone.
        say(f"trials share a GPU by the multi-process service of {pipes()}, which is there and stays")
        yield True
        return
    reason = _why_not()
    if reason:
        _alone(reason, say)
        yield False
        return
    with _started(say) as (folder, reason):
        if reason:
            _alone(reason, say)
        else:
            say(f"trials share a GPU by CUDA's multi-process service, started for this search in {folder}")
        yield not reason


def pipes() -> str:
    """The folder in which programs that are started here look for the service."""
    return os.environ.get(PIPES) or DEFAULT_PIPES


def answers(folder: str | Path) -> bool:
    """Whether a daemon answers in a folder of pipes: files of one that died may still lie there."""
    environment = {**os.environ, PIPES: str(folder)}
    question = "get_default_active_thread_percentage\n"
    try:
        done = subprocess.run(
            [TOOL], input=question, env=environment, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and as_float((done.stdout.split() or [""])[-1]) is not None


def _lets_us_in(folder: str) -> bool:
    """Whether a daemon is root's, or of this user: another's keeps CUDA waiting for ever."""
    try:
        return Path(folder, f"{TOOL}.pid").stat().st_uid in (0, os.getuid())
    except OSError:
        return False


def _why_not() -> str:
    """Why no service can be started here; empty where one may."""
    if not shutil.which(TOOL):
        return f"{TOOL}, which comes with NVIDIA's driver, is not installed"
    if "Enabled" in of_gpus("mig.mode.current"):
        return "a GPU is parted by MIG, where each part needs a service of its own"
    return ""


def _alone(reason: str, say: Callable[[str], None]) -> None:
    """There is no service. Raises InputError where a GPU lets in one process only."""
    if any(mode == EXCLUSIVE for mode in of_gpus("compute_mode")):
        raise InputError(
            f"a GPU of this machine takes one process only (compute mode {EXCLUSIVE}), and trials are to share it "
            f"without a multi-process service: {reason}; nvidia-smi -c DEFAULT, or --gpus-per-trial 1"
        )
    say(f"trials that share a GPU take turns on it: {reason}")


@contextlib.contextmanager
def _started(say: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    """A service of our own, for what this process starts: its folder, and why it does not run, empty where it does."""
    folder = tempfile.mkdtemp(prefix="effir-mps-", dir="/tmp")  # a socket's path is short
    keeper = subprocess.Popen(
        [sys.executable, "-m", "effir_dist.search.cluster.mps_keeper", folder, str(QUIT_SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is ours: trials end before their service does
    )
    said = (keeper.stdout.readline() if keeper.stdout else "").strip()
    try:
        with environment({PIPES: f"{folder}/pipes", LOGS: f"{folder}/logs"} if said == READY else {}):
            yield folder, "" if said == READY else said or "its keeper ended"
    finally:
        try:
            for line in keeper.communicate(timeout=STOP_SECONDS)[0].splitlines():
                say(line)
        except subprocess.TimeoutExpired:
            keeper.kill()  # with it the kernel ends the daemon
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """These variables, in the block and for what it starts."""
    kept = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in kept.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})
