"""One search that is killed and resumed, and what must not happen to its records meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests import ROOT

WHAT = ("driver", "workers", "all")
TRIALS = 6
PATIENCE = 600.0
"""Seconds without a word of any worker after which a search counts as hung."""
SEARCH = [
    *("--trials", str(TRIALS), "--max-concurrent", "2", "--cpus-per-trial", "1"),
    *("search.sampler=random", "search.scheduler=asha", "search.rungs=[0.0,0.5]", "search.promotion_fraction=0.5"),
    *("train.steps=8", "train.checkpoint_steps=4", "train.batch_size=4", "prune.calibration_texts=4"),
    *("model.max_document_length=64", "model.max_query_length=32"),
]
LATE = "Ray did not start on this machine in the 30 s that it gives itself"
Files = dict[str, bytes]
"""Path within the run's `trials` -> content."""


@dataclass
class Faults:
    """What must not happen, by trial or by trial and rung."""

    lost: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    twice: set[str] = field(default_factory=set)

    def compare(self, before: Files, after: Files) -> None:
        """Add what became of finished records, and of rungs' scores, between two looks."""
        for name, content in before.items():
            file = name.split("/")[1]
            if file == "result.json":
                self.lost |= {name} - {*after}
                self.changed |= {name} if after.get(name, content) != content else set()
            elif file == "rungs.json":
                known = json.loads(content)["rungs"]
                now = json.loads(after[name])["rungs"] if name in after else []
                self.lost |= {f"{name} rung {i}" for i in range(len(now), len(known))}
                self.changed |= {f"{name} rung {i}" for i, (a, b) in enumerate(zip(known, now, strict=False)) if a != b}

    def read_journal(self, lines: list[str], records: Files) -> None:
        """Add what was trained though it was scored, or to its end more than once; and equal plans in two records."""
        jobs = [line.split() for line in lines]
        self.twice |= {f"{words[1]} rung {words[2]}" for words in jobs if words[-1] == "scored"}
        ends = Counter(f"{words[1]} rung {words[2]}" for words in jobs if words[0] == "end")
        self.twice |= {what for what, count in ends.items() if count > 1}
        keys = Counter(json.loads(text)["key"] for name, text in records.items() if name.endswith("/result.json"))
        self.twice |= {f"key {key}" for key, count in keys.items() if count > 1}


@dataclass
class Search:
    """A search that is killed and resumed: `start` it, `kill` it, `finish` it."""

    name: str
    work: Path
    runs: str
    """Where its run is: a folder, or a bucket's URL."""
    lease: float
    read: Callable[[str], Files]
    faults: Faults = field(default_factory=Faults)
    known: Files = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    family: list[psutil.Process] = field(default_factory=list)

    @property
    def journal(self) -> Path:
        return self.work / f"{self.name}.journal"

    def lines(self) -> list[str]:
        return self.journal.read_text().splitlines() if self.journal.exists() else []

    def start(self) -> None:
        """Start it, or go on with it where it has begun."""
        new = ["--model", str(self.work / "tiny-bert"), "--data", str(self.work / "data"), "--name", self.name]
        new += ["--space", str(self.work / "space.yaml"), "--runs", self.runs, *SEARCH]
        begun = self.read(f"{self.name}/config.yaml")
        arguments = ["--resume", f"{self.runs}/{self.name}"] if begun else new
        command = [sys.executable, "-m", "benchmarks.kills.driver", str(self.journal), str(self.lease), *arguments]
        with (self.work / f"{self.name}.output").open("ab") as output:
            self.process = subprocess.Popen(command, cwd=self.work, env=_environment(), stdout=output, stderr=output)

    def kill(self, what: str) -> None:
        """SIGKILL the driver, its workers, or all of its processes; then look at what is left."""
        assert self.process is not None
        driver = psutil.Process(self.process.pid)
        family = driver.children(recursive=True)
        self.family += family
        chosen = {"driver": [driver], "workers": [p for p in family if _is_worker(p)], "all": [driver, *family]}[what]
        _kill(chosen)
        if what != "workers":
            self.process.wait()
            self.process = None
        self.look()

    def look(self) -> None:
        """Compare the records with those of the last look."""
        found = self.read(f"{self.name}/trials/")
        self.faults.compare(self.known, found)
        self.faults.read_journal(self.lines(), found)
        self.known = found

    def finish(self) -> int:
        """Wait for its end, and for what it left running. Returns its exit code."""
        assert self.process is not None
        code = self.process.wait(PATIENCE)
        _kill(self.family)
        self.look()
        return code

    def ray_was_late(self) -> bool:
        """Whether it ended because Ray gives its own processes 30 s to start, which a busy machine may not have."""
        return LATE in (self.work / f"{self.name}.output").read_text(errors="replace").splitlines()[-1]

    @property
    def records(self) -> int:
        return sum(name.endswith("/result.json") for name in self.known)


def _environment() -> dict[str, str]:
    known = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    known.pop("RAY_ADDRESS", None)
    return known


def _is_worker(process: psutil.Process) -> bool:
    """Whether Ray runs trials in it; its agents have such names too."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        name = " ".join(process.cmdline())
        return name.startswith("ray::") and "Agent" not in name
    return False


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)


def moment(search: Search, rng: random.Random) -> bool:
    """Wait for a random moment: some jobs after now, or while it starts. False where the search ended before it."""
    assert search.process is not None
    wanted, seen = len(search.lines()) + rng.randint(0, 12), len(search.lines())
    pause, last = rng.uniform(0, 12 if wanted == seen else 3), time.monotonic()
    while search.process.poll() is None:
        lines = len(search.lines())
        if lines > seen:
            seen, last = lines, time.monotonic()
        if seen >= wanted and time.monotonic() - last >= pause:
            return True
        if time.monotonic() - last > PATIENCE:
            raise TimeoutError(f"{search.name} says nothing for {PATIENCE:g} s; see {search.work}")
        time.sleep(0.02)
    return False


def torment(search: Search, kills: int, rng: random.Random, note: Callable[..., None]) -> None:
    """Kill a search up to so many times, then let it end. `note` gets a line a kill and one for the end."""
    search.start()
    for _ in range(kills):
        while not (well := moment(search, rng)) and search.ray_was_late():
            note(restarted=search.process and search.process.returncode, records=search.records)
            search.start()
        if not well:
            break
        what = rng.choice(WHAT)
        search.kill(what)
        note(what=what, records=search.records)
        if search.process is None:
            search.start()
    while (code := search.finish()) and search.ray_was_late():
        note(restarted=code, records=search.records)
        search.start()
    note(ended=code, records=search.records)
