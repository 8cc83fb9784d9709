"""The report of a run, or of several as one front: `python -m effir_dist.report runs/NAME`, also while it runs."""

from __future__ import annotations

import argparse

from effir_dist.core.storage import place
from effir_dist.report.compare import Loaded, common_trials, load
from effir_dist.report.frames import front_of
from effir_dist.report.front_text import front_text, has_noise
from effir_dist.report.progress import stopped_rungs
from effir_dist.report.report_files import write_comparison, write_run
from effir_dist.report.safety_text import safety_lines
from effir_dist.report.scored_on import scored_on_lines
from effir_dist.runs.run_folder import Run
from effir_dist.runs.tries import not_the_trials_fault


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
    if frames.safety.smallest:
        more.append(f"Export it: python -m effir_dist.export {loaded.run.folder} --safe OUT")
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
    loaded = load(runs)
    table = common_trials(loaded)
    out = options.out or (f"report-{'-'.join(run.name for run in runs)}" if len(runs) > 1 else None)
    folder = place(out) if out else runs[0].report_folder
    paths = write_comparison(loaded, folder) if len(runs) > 1 else write_run(loaded[0], folder)
    goal = loaded[0].goal
    best = front_of(table, goal) if len(runs) > 1 else loaded[0].some_frames.front.assign(run=runs[0].name)
    print(front_text(best, goal) if len(best) else _no_front(loaded, f"{paths[0]}"))
    if has_noise(best):
        print("~ no significant difference from the line above: 0 is in its 95 % interval, paired by query")
    for run, each in zip(runs, loaded, strict=True):
        for line in _safety_lines(each) + scored_on_lines(run, each.records):
            print(f"{run.name}: {line}" if len(runs) > 1 else line)
    if stopped := sum(len(stopped_rungs(run)) for run in runs):
        print(f"{stopped} more plans were only screened, on a part of the data and another scale: rungs.csv")
    for run in runs:
        for line in not_the_trials_fault(run):
            print(line)
    print(f"wrote {paths[0]}")
    print(f"beside it {', '.join(path.name for path in paths[1:])}")
