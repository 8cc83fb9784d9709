"""`--quiet`: the result alone, without a line of Ray, DeepSpeed or our own progress."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.search.test_search import OPTIONS


def run(cwd: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    module = ["-m", f"effir_dist.{command[0]}"]
    arguments = [sys.executable, *module, *command[1:]]
    return subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


SILENCED = """
import os, sys
from effir_dist.core.output import silenced
print("before")
with silenced(True) as streams:
    print("ours")
    os.write(1, b"a library in C")
    os.system("echo a child >&2")
    print("a warning", file=streams.err)
    print("the result", file=streams.out)
print("after")
"""


def test_what_is_silenced() -> None:
    done = subprocess.run([sys.executable, "-c", SILENCED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("before\nthe result\nafter\n", "a warning\n")


def test_an_evaluation_is_its_table(tmp_path: Path, checkpoints: dict[str, Path], collection: Path) -> None:
    done = run(tmp_path, "evaluate", str(checkpoints["bert"]), "--data", str(collection), "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["data", collection.name]
    done = run(tmp_path, "evaluate", "nothing", "--data", str(collection), "--quiet")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")


@pytest.mark.slow
def test_a_search_is_its_report(tmp_path: Path, checkpoints: dict[str, Path], collection: Path) -> None:
    given = ["--model", str(checkpoints["bert"]), "--data", str(collection), "--name", "mine", "--trials", "1"]
    done = run(tmp_path, "search", *given, *OPTIONS, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    again = run(tmp_path, "report", "runs/mine")
    assert done.stdout == again.stdout, "what the report says, and nothing else"
