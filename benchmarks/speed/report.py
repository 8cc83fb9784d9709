"""`reports/speed.md` from the JSON of every machine measured: ratios first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from effir_dist.core.files import read_json

HEADER = """# Speed

Made by `python -m benchmarks` from the JSON files in `reports/speed/`; do not edit. Ratios come first: our rate by the
other's, the median over interleaved rounds, in brackets the least and the largest of a round. Rates are medians. What
each figure means, and what was tried and did not pay, is in [docs/speed.md](../docs/speed.md).
"""


def render(folder: Path) -> str:
    """The report of all JSON files in `folder`."""
    return "\n".join([HEADER, *(_machine(read_json(file)) for file in sorted(folder.glob("*.json")))])


def _machine(result: dict[str, Any]) -> str:
    found = result["machine"]
    place = found.get("gpu") or found["cpu"]
    units = ", ".join(found["matrix_units"]) or "none"
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        f"## {place}",
        "",
        f"Processor: {found['cpu']}, {found['cores']} cores, {found['threads']} threads used, vector and matrix units: "
        f"{units}. Python {found['python']}, {versions}.",
    ]
    for subject in dict.fromkeys(row["subject"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["subject"] == subject]
        lines += ["", f"### {subject}", "", *dict.fromkeys(_run(row["run"]) for row in rows), "", *_table(rows)]
    return "\n".join(lines) + "\n"


def _run(run: dict[str, Any]) -> str:
    load = f"{run['load']:.1f} processes wanted a core when it began"
    return f"`{run['command']}`, {run['date']}, commit {run['commit'] or 'unknown'}; {load}."


def _table(rows: list[dict[str, Any]]) -> list[str]:
    head = ["| what | ours against | rate | per second | also |", "|---|---|---|---|---|"]
    return [*head, *("| " + " | ".join(_cells(row)) + " |" for row in rows)]


def _cells(row: dict[str, Any]) -> list[str]:
    ratios = [_ratio(name, *values, row["goals"].get(name)) for name, values in row["ratios"].items()]
    rates = [f"{name} {_rate(row, found)}" for name, found in row["variants"].items()]
    more = [f"{name}: {_number(value)}" for name, value in row["facts"].items()]
    for name, found in row["variants"].items():
        more += [f"{name} {key}: {_number(value)}" for key, value in found["numbers"].items()]
    failed = [f"{name} did not run ({why})" for name, why in row["failed"].items()]
    ours = row["variants"].get(row["ours"])
    share = f"{_number(ours['per_second'])} {row['unit']}/s" if ours else "-"
    return [row["name"], "<br>".join(ratios) or "-", share, "<br>".join(rates), "<br>".join([*more, *failed])]


def _ratio(name: str, middle: float, low: float, high: float, goal: float | None) -> str:
    verdict = "" if goal is None else f", goal {goal:g}: {'met' if middle >= goal else 'not met'}"
    return f"**{middle:.2f}** [{low:.2f}, {high:.2f}] x {name}{verdict}"


def _rate(row: dict[str, Any], found: dict[str, Any]) -> str:
    flops = found["flops_per_second"]
    return f"{_number(found['per_second'])}" + (f" ({flops / 1e12:.3g} TFLOP/s)" if flops else "")


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
