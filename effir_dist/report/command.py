"""The report of a run, or of several as one front: `python -m effir_dist.report runs/NAME`, also while it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from effir_dist.core.storage import place
from effir_dist.core.wrapping import wrapped
from effir_dist.report.compare import Loaded, common_trials, load
from effir_dist.report.frames import front_of
from effir_dist.report.front_text import front_text, has_noise
from effir_dist.report.progress import stopped_rungs
from effir_dist.report.report_files import write_comparison, write_run
from effir_dist.report.safety_text import safety_lines
from effir_dist.report.scored_on import scored_on_lines
from effir_dist.runs.run_folder import Run
from effir_dist.runs.tries import not_the_trials_fault

if TYPE_CHECKING:
    import pandas as pd

COMMAND, WROTE = "python -m effir_dist.export", "wrote "


def _no_front(loaded: list[Loaded], page: str) -> str:
    if any(r.goal.scored(r.records) for r in loaded):
        return f"no trial is feasible ({', '.join(c.text for c in loaded[0].goal.constraints)}); {page} has them all"
    return f"no trial is complete; {page} says why"


def _safety_lines(loaded: Loaded) -> list[str]:
    """What is said of the smallest safe model, and how to export it."""
    frames = loaded.frames
    if frames is None or frames.front.empty:
        return []
    first, *more = safety_lines(frames.safety, frames.front)
    export = f"{COMMAND} {loaded.run.folder}"
    more.append(f"Export it: {export} --safe OUT" if frames.safety.smallest else f"Export one: {export} --trial ID OUT")
    return [first, *(f"  {line}" for line in more)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m effir_dist.report",
        description="Write the page (report.html), tables and plots of a run into its report folder, also while it "
        "runs; or of several runs, as one front.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder, as runs/demo; several are compared")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--out", help="folder to write to; of several runs by default report-NAME-NAME where you are")
    instead.add_argument("--serve", action="store_true", help="write nothing: the page on 127.0.0.1, kept up to date")
    parser.add_argument("--port", type=int, default=8008, help="for --serve; 0 takes a free one (default: %(default)s)")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """The command: write the report of a run and print its front; or compare runs; or serve the page."""
    options = _parser().parse_args(arguments)
    runs = [Run.open(folder) for folder in options.runs]
    if options.serve:
        from effir_dist.report.serve import serve

        serve(runs, options.port)
        return
    write(runs, sys.stdout, options.out)


def write(runs: list[Run], screen: TextIO, out: str | None = None) -> None:
    """Write the report of a run, or of several as one front, and say on `screen` what it has. out: the folder.

    Raises InputError where no trial has finished, runs do not compare, or nothing can be written.
    """
    loaded = load(runs)
    table = common_trials(loaded)
    out = out or (f"report-{'-'.join(run.name for run in runs)}" if len(runs) > 1 else None)
    folder = place(out) if out else runs[0].report_folder
    paths = write_comparison(loaded, folder) if len(runs) > 1 else write_run(loaded[0], folder)
    best = front_of(table, loaded[0].goal) if len(runs) > 1 else loaded[0].some_frames.front.assign(run=runs[0].name)
    for line in [*_lines(runs, loaded, best, paths[0]), *_files_lines(paths)]:
        copied = COMMAND in line or line == WROTE + str(paths[0])  # so it stays one line
        print(line if copied else wrapped(line, indent="  "), file=screen)


def _lines(runs: list[Run], loaded: list[Loaded], best: pd.DataFrame, page: Path) -> Iterator[str]:
    """The front, and what there is to say of it."""
    yield from (front_text(best, loaded[0].goal) if len(best) else _no_front(loaded, f"{page}")).splitlines()
    if has_noise(best):
        yield "~ not significantly different from the line above (95 % interval, by query)"
    for run, each in zip(runs, loaded, strict=True):
        for line in _safety_lines(each) + scored_on_lines(run, each.records):
            yield f"{run.name}: {line}" if len(runs) > 1 else line
    if stopped := sum(len(stopped_rungs(run)) for run in runs):
        plans = "1 more plan was" if stopped == 1 else f"{stopped} more plans were"
        yield f"{plans} screened on part of the data and not trained in full: rungs.csv"
    yield from (line for run in runs for line in not_the_trials_fault(run))


def _files_lines(paths: list[Path]) -> list[str]:
    """Where the page is, and what lies beside it."""
    kinds: dict[str, list[str]] = {}
    for path in paths[1:]:
        kinds.setdefault(path.suffix, []).append(path.stem)
    words = {".csv": "CSV and parquet", ".png": "PNG and SVG"}
    beside = [f"{', '.join(kinds[suffix])} ({text})" for suffix, text in words.items() if suffix in kinds]
    return [f"{WROTE}{paths[0]}", f"beside it: {'; '.join(beside)}"]
