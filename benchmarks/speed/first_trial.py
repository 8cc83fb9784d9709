"""Seconds from the command to the first trial: a search of the built-in data is started and interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MARKS = {
    "checked_seconds": "config.yaml",
    "ray_and_imports_seconds": "importance/log",
    "layers_scored_seconds": "importance/importance.json",
    "first_trial_seconds": "trials/0000/log",
}
"""What has been done since the command began -> the file of the run that is there then."""
LOOK_SECONDS = 0.01


def measure() -> dict[str, float]:
    """Seconds since the command began, by MARKS; the last is when a worker began with the first trial.

    Raises RuntimeError where the search ended before.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "effir_dist.search", "--runs", folder, "--name", "run"]
        begun = time.perf_counter()
        with (
            open(Path(folder) / "out", "wb") as out,
            subprocess.Popen(command, stdout=out, stderr=out) as search,
        ):
            try:
                return {name: _seen(Path(folder) / "run" / file, search) - begun for name, file in MARKS.items()}
            finally:
                search.send_signal(signal.SIGINT)


def _seen(file: Path, search: subprocess.Popen[bytes]) -> float:
    """When a file is there."""
    while not file.exists():
        if search.poll() is not None:
            raise RuntimeError(f"the search ended with exit code {search.returncode} before there was {file.name}")
        time.sleep(LOOK_SECONDS)
    return time.perf_counter()
