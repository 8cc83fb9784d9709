"""`python -m effir_dist.search.cluster.mps_keeper FOLDER SECONDS`: a multi-process service that ends with its parent.

The daemon would outlive a search that is killed. This process starts it, says so in a line, and waits for the end of
its standard input, which comes with the end of whoever holds the other side, by whatever cause. Then the daemon and its
servers end, and the folder goes. SECONDS: which a daemon has that is asked to quit.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from effir_dist.search.cluster.mps import LOGS, PIPES, READY, TOOL, answers

START_SECONDS = 20.0
PROBE_SECONDS = 60.0
"""For CUDA to start, on a machine of many GPUs."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Of Linux's prctl: a signal when the parent dies, and descendants become ours when theirs does."""
_KERNEL = ctypes.CDLL(None)


def environment(folder: Path, base: Mapping[str, str]) -> dict[str, str]:
    """Of the daemon. It counts GPUs by itself: with `CUDA_VISIBLE_DEVICES=2` it would call that one 0, and a trial that
    asks for 2 would get none. Names of GPUs (UUIDs) are the same for all, so a choice by them stays."""
    found = {**base, PIPES: str(folder / "pipes"), LOGS: str(folder / "logs")}
    chosen = found.pop("CUDA_VISIBLE_DEVICES", "")
    if chosen and all(name.strip().startswith("GPU-") for name in chosen.split(",")):
        found["CUDA_VISIBLE_DEVICES"] = chosen
    return found


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The daemon, in the foreground; it ends with this process, were that killed."""
    for name in ("pipes", "logs"):
        (folder / name).mkdir()
    with (folder / "logs" / "output").open("wb") as output:
        return subprocess.Popen(
            [TOOL, "-f"],
            env=environment(folder, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=lambda: _KERNEL.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        )


def wait(daemon: subprocess.Popen[bytes], folder: Path) -> str:
    """`READY` once the daemon answers; why it does not, where it ended or takes too long."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if daemon.poll() is not None:
            return f"{TOOL} ended with {daemon.returncode}{_last_line(folder)}"
        if answers(folder / "pipes"):
            return _tried(folder) or READY
        time.sleep(0.1)
    return f"{TOOL} did not answer in {START_SECONDS:g} s{_last_line(folder)}"


def _tried(folder: Path) -> str:
    """Why CUDA does not start by a daemon that answers, as where a container may not start its server; empty where it
    does. Every trial would fail so."""
    command = [sys.executable, "-m", "effir_dist.search.cluster.cuda_probe"]
    variables = {PIPES: str(folder / "pipes"), LOGS: str(folder / "logs")}
    try:
        done = subprocess.run(
            command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{TOOL} answers, but CUDA does not start by it in {PROBE_SECONDS:g} s{_last_line(folder)}"
    said = (done.stderr.strip().splitlines() or ["it ended"])[-1]
    return f"{TOOL} answers, but {said}{_last_line(folder)}" if done.returncode else ""


def _last_line(folder: Path) -> str:
    files = sorted((folder / "logs").iterdir(), key=lambda file: file.name == "control.log")
    lines = [line for file in files for line in file.read_text(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1].strip()}" if lines else ""


def stop(daemon: subprocess.Popen[bytes], folder: Path, seconds: float) -> None:
    """End the daemon and its servers: asked first, then made to, since a client may still hold on."""
    processes, alive = psutil.Process().children(recursive=True), daemon.poll() is None
    if alive:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # those that stay are made to
            subprocess.run(
                [TOOL],
                input=b"quit\n",
                env=environment(folder, os.environ),
                capture_output=True,
                timeout=seconds,
                check=False,
            )
    _, processes = psutil.wait_procs(processes, timeout=seconds if alive else 0)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, processes = psutil.wait_procs(processes, timeout=seconds)


def main() -> None:
    """Keep the service of one folder until standard input ends."""
    folder, seconds, daemon = Path(sys.argv[1]), float(sys.argv[2]), None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    _KERNEL.prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        daemon = start(folder)
        said = wait(daemon, folder)
        print(said, flush=True)
        if said == READY:
            sys.stdin.buffer.read()
            if daemon.poll() is not None:
                what = "the multi-process service ended before the search, and trials took turns since"
                with contextlib.suppress(BrokenPipeError):  # the search may be gone
                    print(f"{what}{_last_line(folder)}", flush=True)
    except OSError as error:
        print(f"{TOOL} cannot be started: {error}", flush=True)
    finally:
        if daemon:
            stop(daemon, folder, seconds)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
