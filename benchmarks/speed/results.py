"""What the JSON files of `reports/speed/` hold, typed; those of earlier versions too."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effir_dist.core.files import read_json


@dataclass(frozen=True)
class Machine:
    """Where a file's rows were measured."""

    name: str
    """Short, for a table's column: "H200", "Xeon, amx_bf16"; with the file's where two are alike."""
    described: str
    runs: tuple[str, ...]
    """Commands that measured, with their day, their commit, and how many processes wanted a core when they began."""


@dataclass(frozen=True)
class Ratio:
    """Our rate by another's in the same round."""

    median: float
    least: float
    largest: float


@dataclass(frozen=True)
class Peer:
    """Something that ours is compared with."""

    name: str
    per_second: float
    ratio: Ratio
    goal: float | None


@dataclass(frozen=True)
class Result:
    """A row of a file."""

    machine: Machine
    subject: str
    name: str
    unit: str
    per_second: float | None
    """Of ours; None where it did not run."""
    preparing: float
    """Seconds that its first call took longer than those after it: compiling, mostly."""
    peers: tuple[Peer, ...]
    numbers: Mapping[str, Mapping[str, float]]
    """Variant -> what it returned."""
    facts: Mapping[str, Any]
    failed: Mapping[str, str]
    """Variant, or `all` -> why it did not run."""


def read(folder: Path) -> list[Result]:
    """All rows of all files, GPUs first."""
    trees = {file.stem: read_json(file) for file in sorted(folder.glob("*.json"))}
    names = Counter(_name(tree["machine"]) for tree in trees.values())
    found = []
    for stem, tree in sorted(trees.items(), key=lambda item: "gpu" not in item[1]["machine"]):
        name = _name(tree["machine"])
        found += _of_file(tree, name if names[name] == 1 else f"{name} ({stem})")
    return found


def _of_file(tree: dict[str, Any], name: str) -> list[Result]:
    runs = dict.fromkeys(_run(row["run"]) for row in tree["rows"])
    machine = Machine(name, _described(tree["machine"]), tuple(runs))
    return [_result(machine, row) for row in tree["rows"]]


def _name(machine: dict[str, Any]) -> str:
    if "gpu" in machine:
        many = f"{machine['ranks']} x " if machine.get("ranks", 1) > 1 else ""
        return many + machine["gpu"].split(",")[0].removeprefix("NVIDIA ")
    words = machine["cpu"].replace("(R)", "").split()
    maker = next((word for word in words if word in ("Xeon", "EPYC", "Ryzen", "Core")), machine["cpu"])
    used = "" if machine["threads"] == 1 else f", {machine['threads']} threads"
    return f"{maker}, {next(iter(machine['matrix_units']), 'no matrix units')}{used}"


def _described(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    gpu = f"{machine['gpu']}; " if "gpu" in machine else ""
    threads = f"{machine['threads']} of {machine['cores']} cores used"
    return f"{gpu}{machine['cpu']}, {threads}, Python {machine['python']}, {versions}"


def _run(run: dict[str, Any]) -> str:
    return f"`{run['command']}`, {run['date'].split()[0]}, commit {run['commit'] or 'unknown'}, load {run['load']:.1f}"


def _result(machine: Machine, row: dict[str, Any]) -> Result:
    ours = row["variants"].get(row["ours"])
    return Result(
        machine=machine,
        subject=row["subject"],
        name=row["name"],
        unit=row["unit"],
        per_second=ours["per_second"] if ours else None,
        preparing=ours["first_seconds"] - statistics.median(ours["seconds"]) if ours else 0.0,
        peers=tuple(
            Peer(name, row["variants"][name]["per_second"], Ratio(*ratio), row["goals"].get(name))
            for name, ratio in row["ratios"].items()
        ),
        numbers={name: variant["numbers"] for name, variant in row["variants"].items()},
        facts=row["facts"],
        failed=row["failed"],
    )
