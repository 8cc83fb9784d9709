"""The report of a run, or of several as one front: `python -m effir_dist.report runs/NAME`, also while it runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from effir_dist.core.measures import MEASURES, QUALITY
from effir_dist.core.storage import place
from effir_dist.report.frames import front_of
from effir_dist.report.report_files import write_comparison, write_run
from effir_dist.report.side_by_side import Loaded, common_trials, load
from effir_dist.runs.objectives import Goal
from effir_dist.runs.run_folder import Run

if TYPE_CHECKING:
    import pandas as pd


def front_text(table: pd.DataFrame, goal: Goal | None = None) -> str:
    """A front for a terminal of 80 columns; wider with attentions dropped, other objectives, or several runs.

    With neighbours.COLUMNS, a model that is not told apart from the one above is marked.
    """
    costs = [name for name in (goal or Goal()).objectives if name not in ("parameters", QUALITY)]
    shown = table.assign(
        parameters=[f"{p:,.0f}" for p in table["parameters"]],
        share=[f"{100 * f:.1f} %" for f in table["parameters_fraction"]],
        dropped=[_shortened(d) for d in table["dropped_mlp"]],
        attention=[_shortened(d) for d in table["dropped_attention"]],
        seconds=[f"{s:.0f}" for s in table["total_seconds"]],
        alike=["~" if apart is False else "" for apart in table.get("told_apart", [None] * len(table))],
    )
    headers = {"trial": "trial", "dropped": "dropped MLPs", "attention": "attentions", "width_ratio": "width"}
    headers |= {"parameters": "parameters", "share": "share", **{n: MEASURES[n].label for n in costs}}
    headers |= {"ndcg_at_10": "nDCG@10", "test_ndcg_at_10": "test"}
    if "held_out_ndcg_at_10" in table:
        headers["held_out_ndcg_at_10"] = "held out"
    if "told_apart" in table and (table["told_apart"] == False).any():  # noqa: E712  # None where it is not known
        headers["alike"] = ""
    headers["seconds"] = "seconds"
    if not any(shown["attention"]):
        del headers["attention"]
    if table["run"].nunique() > 1:
        headers = {"run": "run", **headers}
    number = "{:.4g}".format
    return str(shown[[*headers]].to_string(index=False, header=[*headers.values()], na_rep="-", float_format=number))


def _shortened(text: str, most: int = 17) -> str:
    return text if len(text) <= most else text[: text.rfind(",", 0, most - 2) + 1] + ".."


def _no_front(loaded: list[Loaded], page: str) -> str:
    if any(r.goal.scored(r.records) for r in loaded):
        return f"no trial keeps to {', '.join(c.text for c in loaded[0].goal.constraints)}; {page} has them all"
    return f"no trial is complete; {page} says why"


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
    if len(runs) == 1 and (best["told_apart"] == False).any():  # noqa: E712
        print("~ not told apart from the line above: 0 lies in the 95 % interval of the difference, paired by query")
    stopped = [t for run in runs for t in run.trials() if run.rungs(t) and not run.finished(t)]
    if stopped:
        print(f"scored on a lower rung only, so not above: {len(stopped)} more (rungs.csv)")
    print(f"wrote {paths[0]}")
    print(f"beside it {', '.join(path.name for path in paths[1:])}")
