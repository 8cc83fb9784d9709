"""Tables and figures of docs/results/replication.md, from the runs of reports/replication/*.yaml:

    python -m benchmarks.replication [--runs runs] [--out reports/replication]

A plan with the same settings but another seed is the same variant: its queries' scores are averaged over the seeds.
Rows of runs that are not in the folder stay as they are, so that one comparison can be made again alone.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from effir_dist.evaluate.intervals import Interval, Sample, difference_interval, mean_interval
from effir_dist.runs.run_folder import Run

PREFIX = "replication-"
SEED = "train.seed"
COLOURS = {"M": "#0072b2", "A": "#d55e00", "B": "#009e73"}
NAMES = {"M": "MLPs", "A": "attentions", "B": "whole blocks"}
Variant = tuple[str, str]
"""Run without its prefix, and the plan with the settings that varied."""


def variants(folder: Path) -> tuple[dict[Variant, Sample], pd.DataFrame]:
    """Samples of every variant of every run in `folder`, and a row of facts for each."""
    scores: dict[Variant, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    facts: dict[Variant, dict[str, Any]] = {}
    for path in sorted(folder.glob(f"{PREFIX}*/config.yaml")):
        run = Run.open(path.parent)
        for record in run.results():
            varied = {k.split(".")[-1]: v for k, v in record.spec.suggested.items() if k not in ("plan", SEED)}
            plan = str(record.spec.suggested.get("plan", record.spec.stage))
            name = ", ".join([plan, *(f"{k}={v}" for k, v in varied.items())])
            variant = (run.name.removeprefix(PREFIX), name)
            known = facts.setdefault(variant, {"run": variant[0], "plan": name, "seconds": []})
            known["parameters"] = record.values["parameters"]
            known["seconds"].append(record.values["total_seconds"])
            for dataset, values in queries(run.queries_path(record.trial)).items():
                scores[variant][dataset].append(values)
    samples = {v: {name: np.stack(rows) for name, rows in sets.items()} for v, sets in scores.items()}
    return samples, pd.DataFrame([_row(facts[v], samples[v]) for v in samples])


def queries(path: Path) -> dict[str, np.ndarray]:
    """Data set -> [Q] nDCG@10, in the order of the file."""
    found: dict[str, list[float]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            found[row["dataset"]].append(float(row["ndcg_at_10"]))
    return {name: np.array(values) for name, values in found.items()}


def _row(facts: dict[str, Any], sample: Sample) -> dict[str, Any]:
    interval = mean_interval(sample)
    by_seed = np.mean([scores.mean(axis=1) for scores in sample.values()], axis=0)
    row = {**facts, "seconds": round(float(np.mean(facts["seconds"])), 1), "seeds": len(by_seed)}
    row |= {"ndcg_at_10": interval.value, "low": interval.low, "high": interval.high}
    row["spread_of_seeds"] = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else float("nan")
    return row | {f"ndcg_at_10[{name}]": float(scores.mean()) for name, scores in sample.items()}


def differences(samples: dict[Variant, Sample], pairs: pd.DataFrame) -> pd.DataFrame:
    """Rows of `pairs` (question, run, plan, other_run, other_plan) with the paired difference of the two."""
    rows = []
    for pair in pairs.fillna("").to_dict("records"):
        one, other = (pair["run"], pair["plan"]), (pair["other_run"], pair["other_plan"])
        if one in samples and other in samples:
            found = difference_interval(samples[one], samples[other])
            numbers = {"difference": found.value, "low": found.low, "high": found.high}
            rows.append({**pair, **numbers, "verdict": verdict(found)})
    return pd.DataFrame(rows)


def merged(new: pd.DataFrame, file: Path, runs: tuple[str, ...]) -> pd.DataFrame:
    """`new` after those rows of `file` whose runs (named in the columns `runs`) are not all made anew."""
    if not file.is_file():
        return new
    old = pd.read_csv(file)
    made = {tuple(row) for row in new[list(runs)].to_numpy()} if len(new) else set()
    kept = old[[tuple(row) not in made for row in old[list(runs)].to_numpy()]]
    return pd.concat([kept, new], ignore_index=True)


def verdict(found: Interval) -> str:
    """What an interval of a difference says."""
    return "noise" if found.is_noise else "better" if found.value > 0 else "worse"


def figure_of_kinds(table: pd.DataFrame, untuned: str, tuned: str, title: str, widths: str = "") -> Figure:
    """nDCG@10 against how many MLPs, attentions or blocks are dropped, and against size; without tuning and with.

    Beside the sizes after tuning, all MLPs narrowed instead: the plans "width .." of the run `widths`.
    """
    figure = Figure(figsize=(10, 7.4), dpi=130, layout="constrained")
    axes: Any = figure.subplots(2, 2, sharey="row")
    for axis, run, when in zip(axes, (untuned, tuned), ("without tuning", "tuned after pruning"), strict=True):
        rows = table[table["run"] == run]
        whole = rows[rows["plan"] == "full"].iloc[0]
        for kind, colour in COLOURS.items():
            found = rows[rows["plan"].str.fullmatch(rf"\d+{kind}")]
            found = pd.concat([rows[rows["plan"] == "full"], found])
            dropped = [int(plan[:-1]) if plan != "full" else 0 for plan in found["plan"]]
            for ax, x in ((axis[0], dropped), (axis[1], found["parameters"] / 1e6)):
                _draw(ax, x, found, colour, NAMES[kind])
        if run == tuned and widths:
            found = table[(table["run"] == widths) & table["plan"].str.startswith("width")]
            found = pd.concat([rows[rows["plan"] == "full"], found])
            _draw(axis[1], found["parameters"] / 1e6, found, "#222222", "width of all MLPs")
            axis[1].legend(frameon=False)
        for ax, label in ((axis[0], "number dropped, least important first"), (axis[1], "parameters (million)")):
            ax.axhline(whole["ndcg_at_10"], color="#999999", linewidth=0.8, linestyle=":")
            ax.set_xlabel(label)
            ax.grid(color="#eeeeee")
            ax.set_title(when, fontsize=10)
        axis[0].set_ylabel("nDCG@10")
    axes[0][0].legend(frameon=False)
    figure.suptitle(title)
    return figure


def _draw(ax: Any, x: Any, rows: pd.DataFrame, colour: str, label: str) -> None:
    error = [rows["ndcg_at_10"] - rows["low"], rows["high"] - rows["ndcg_at_10"]]
    ax.errorbar(x, rows["ndcg_at_10"], error, color=colour, marker="o", capsize=2.5, label=label)


def main() -> None:
    """Write variants.csv, differences.csv and the figures; print both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replication", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("reports/replication"))
    args = parser.parse_args()
    samples, table = variants(args.runs)
    table = merged(table.round(4), args.out / "variants.csv", ("run",))
    table.to_csv(args.out / "variants.csv", index=False)
    compared = differences(samples, pd.read_csv(args.out / "pairs.csv")).round(4)
    compared = merged(compared, args.out / "differences.csv", ("run", "other_run"))
    compared.to_csv(args.out / "differences.csv", index=False)
    for model, prefix in (("all-MiniLM-L6-v2 on SciFact and MedQuAD", ""), ("an 8.6 M Qwen3 on pydocs", "decoder-")):
        untuned, tuned = f"{prefix}kinds-untuned", f"{prefix}kinds"
        if {untuned, tuned} <= {run for run, _ in samples}:
            widths = f"{prefix}depth-width" if f"{prefix}depth-width" in set(table["run"]) else ""
            figure = figure_of_kinds(table, untuned, tuned, f"What may go from {model}", widths)
            figure.savefig(args.out / f"{tuned}.png")
    print(table.to_string(index=False))
    print(compared.to_string(index=False))


if __name__ == "__main__":
    main()
