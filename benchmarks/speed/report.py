"""`reports/speed.md` from the JSON of every machine measured: a table a question, the machines beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.speed import questions, results
from benchmarks.speed.questions import QUESTIONS
from benchmarks.speed.results import Machine, Result

HEADER = """# Speed

Made by `python -m benchmarks` from the JSON files in `reports/speed/`, which hold every variant, round and number.
Do not edit it. A ratio is our rate divided by the other's, the median over interleaved rounds. In brackets are the
least and the largest of a round. It is bold where it meets its goal or has none. What the figures mean:
[docs/results/speed.md](../docs/results/speed.md). What was tried: [docs/experiments.md](../docs/experiments.md).
"""


def render(folder: Path) -> str:
    """The report of all JSON files in `folder`."""
    found = results.read(folder)
    subjects = dict.fromkeys([*QUESTIONS, *(result.subject for result in found)])
    of = {subject: [result for result in found if result.subject == subject] for subject in subjects}
    sections = [_section(subject, rows) for subject, rows in of.items() if rows]
    machines = list(dict.fromkeys(result.machine for result in found))
    return "\n".join([HEADER, *_glance(of, machines), *sections, _machines(machines)])


def _glance(of: Mapping[str, Sequence[Result]], machines: Sequence[Machine]) -> list[str]:
    """The least and the largest ratio of each question on each machine."""
    rows = []
    for subject, found in of.items():
        asked = questions.question(subject)
        ratios = [asked.ratios([result for result in found if result.machine == machine]) for machine in machines]
        if any(ratios):
            rows.append([asked.glance, *map(_span, ratios)])
    return [_markdown([["least and largest ratio", *(machine.name for machine in machines)], *rows])] if rows else []


def _span(ratios: Sequence[float]) -> str:
    if not ratios:
        return ""
    least, largest = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return least if least == largest else f"{least} to {largest}"


def _section(subject: str, rows: Sequence[Result]) -> str:
    """What was measured, rows of one name beneath each other; then what was not."""
    asked = questions.question(subject)
    names = list(dict.fromkeys(row.name for row in rows))
    measured = sorted((row for row in rows if row.per_second is not None), key=lambda row: names.index(row.name))
    parts = [f"## {asked.title}\n", *([f"{asked.told}\n"] if asked.told else [])]
    parts += [_markdown(asked.table(measured))] if measured else []
    missing = _missing(rows)
    return "\n".join([*parts, *(["Not measured:\n", *missing, ""] if missing else [])])


def _missing(rows: Sequence[Result]) -> list[str]:
    """A line a reason: all that did not run for it, a variant once for all rows of a machine."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        for name, why in row.failed.items():
            what = row.name if name == "all" or row.per_second is None else name
            found.setdefault((row.machine.name, why), {})[what] = None
        for told in row.facts.get("left out", []):
            what, _, why = told.partition(": ")
            found.setdefault((row.machine.name, why), {})[what] = None
    return [f"- on {machine}: {'; '.join(names)} ({why})" for (machine, why), names in found.items()]


def _markdown(table: questions.Table) -> str:
    head, *rows = table
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines]) + "\n"


def _machines(machines: Sequence[Machine]) -> str:
    rows = [[machine.name, machine.described, "<br>".join(machine.runs)] for machine in machines]
    return "## Where and when\n\n" + _markdown([["machine", "what it is", "measured by"], *rows])
