"""What searches of the replay came to: a row each as they end, then medians over seeds, curves and a picture."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.search.world import Curve

SHARES = (0.95, 0.98, 0.99)
COSTS = tuple(float(f"{cost:.3g}") for cost in np.geomspace(1, 300, 40))
"""Where curves are noted."""
SHOWN = {
    "random": "#999999",
    "recipe": "#222222",
    "grid": "#777755",
    "tpe": "#56b4e9",
    "nsga2": "#e69f00",
    "gp": "#cc79a7",
    "guided": "#d55e00",
}
"""How a strategy's name begins -> its colour."""


@dataclass(frozen=True)
class Key:
    """Which search."""

    table: str
    mark: str
    """Of the table's numbers."""
    workers: int
    strategy: str
    seed: int


@dataclass(frozen=True)
class Searched:
    """What a search came to. Hypervolumes are shares of the best known; infinite costs were not reached, and what a
    search had no budget for is NaN."""

    key: Key
    values: dict[str, float]
    """needs_SHARE: cost until a share was reached. at_COST, test_COST: hypervolume then, and by test scores of the
    front that the search shows. screened, trained: how many plans. seconds: of the replay."""
    curve: tuple[float, ...]
    """At `COSTS`, as far as the budget went."""


def searched(key: Key, curve: Curve, budget: float, best: float, at: dict[str, float], seconds: float) -> Searched:
    """at: the costs at which strategies are compared, by name."""
    values: dict[str, float] = {f"needs_{share:g}": curve.needs(share * best) for share in SHARES}
    for name, cost in at.items():
        known = cost <= budget
        values[f"at_{name}"] = curve.at(cost) / best if known else float("nan")
        values[f"test_{name}"] = curve.test_at(cost) / best if known else float("nan")
    values |= {"screened": curve.screened, "trained": curve.trained, "seconds": seconds}
    return Searched(key, values, tuple(curve.at(cost) / best for cost in COSTS if cost <= budget))


class Runs:
    """runs.csv: searches are appended as they end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: set[Key] = set()
        if path.is_file():
            text = path.read_text()
            path.write_text(text[: text.rfind("\n") + 1])  # without a line that was cut off
            frame = read(path)
            self.known = {Key(*row) for row in frame[_names(Key)].itertuples(index=False)}

    def add(self, found: Searched) -> None:
        line: dict[str, Any] = {**asdict(found.key), **{name: round(v, 5) for name, v in found.values.items()}}
        line["curve"] = " ".join(f"{value:.4f}" for value in found.curve)
        append(self.path, line)
        self.known.add(found.key)


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a row to a CSV file, which is made with its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(line))
        if new:
            writer.writeheader()
        writer.writerow(line)


def _names(record: type) -> list[str]:
    return [each.name for each in fields(record)]


def read(path: Path) -> pd.DataFrame:
    """runs.csv."""
    return pd.read_csv(path, dtype={"mark": str, "curve": str})


def forget(path: Path, tables: list[str], strategies: list[str]) -> None:
    """Take the searches of strategies in tables out of runs.csv."""
    if path.is_file():
        frame = read(path)
        frame[~(frame["table"].isin(tables) & frame["strategy"].isin(strategies))].to_csv(path, index=False)


def put(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write rows in the place of those of the same tables, beside those of others."""
    rows = pd.DataFrame(lines)
    if path.is_file():
        known = pd.read_csv(path)
        if "table" in known:  # else of an older version
            rows = pd.concat([known[~known["table"].isin(rows["table"])], rows])
    rows.round(5).to_csv(path, index=False)


def write(out: Path, marks: set[str]) -> None:
    """results.csv, curves.csv and search.png, of all searches in tables of these marks."""
    if not (out / "runs.csv").is_file():
        return
    runs = read(out / "runs.csv")
    runs = runs[runs["mark"].isin(marks)]
    by = ["table", "workers", "strategy"]
    groups = [(dict(zip(by, name, strict=True)), part) for name, part in runs.groupby(by, sort=False)]
    put(out / "results.csv", [{**key, **_result(part)} for key, part in groups])
    put(out / "curves.csv", [{**key, **line} for key, part in groups for line in _curve(part)])
    draw(pd.read_csv(out / "curves.csv")).savefig(out / "search.png")


def _result(part: pd.DataFrame) -> dict[str, Any]:
    """Medians over seeds; of the cost of 99 % and of what was reached at a cost the middle half too."""
    line: dict[str, Any] = {"seeds": len(part)}
    for name in [each for each in part if each.startswith("needs_")]:
        share, costs = f"{float(name.removeprefix('needs_')):.0%}", part[name].tolist()
        line[f"cost_{share}"] = quantile(costs, 0.5)
        if name == f"needs_{SHARES[-1]:g}":
            line[f"low_{share}"], line[f"high_{share}"] = quantile(costs, 0.25), quantile(costs, 0.75)
    for name in [each for each in part if each.startswith("at_")]:
        label = name.removeprefix("at_")
        line[name], line[f"low_{label}"], line[f"high_{label}"] = part[name].quantile([0.5, 0.25, 0.75])
        line[f"test_{label}"] = part[f"test_{label}"].median()
    return {**line, **{name: round(float(part[name].mean()), 1) for name in ("screened", "trained", "seconds")}}


def quantile(values: list[float], share: float) -> float:
    """As numpy's `higher`, which infinite values do not turn into NaN."""
    return sorted(values)[min(len(values) - 1, int(np.ceil(share * (len(values) - 1))))]


def _curve(part: pd.DataFrame) -> list[dict[str, float]]:
    """Median and middle half at `COSTS`."""
    curves = [[float(value) for value in text.split()] for text in part["curve"]]
    length = min(map(len, curves))
    low, middle, high = np.quantile([curve[:length] for curve in curves], (0.25, 0.5, 0.75), axis=0)
    return [
        {"cost": cost, "median": m, "low": lo, "high": hi}
        for cost, lo, m, hi in zip(COSTS, low, middle, high, strict=False)
    ]


def draw(points: pd.DataFrame) -> Figure:
    """A column a table, a row a number of workers: share of the best known hypervolume against cost."""
    tables, workers = list(dict.fromkeys(points["table"])), sorted(set(points["workers"]))
    figure = Figure(figsize=(4.8 * len(tables), 3.8 * len(workers)), dpi=110, layout="constrained")
    axes: Any = figure.subplots(len(workers), len(tables), squeeze=False)
    for row, count in zip(axes, workers, strict=True):
        for ax, table in zip(row, tables, strict=True):
            _panel(ax, points[(points["table"] == table) & (points["workers"] == count)])
            ax.set_title(f"{table}, {count} worker{'s' if count > 1 else ''}")
        row[0].set_ylabel("hypervolume, share of the best known")
    for ax in axes[-1]:
        ax.set_xlabel("cost (full trials of the unpruned model)")
    axes[0][0].legend(frameon=False, loc="lower right", fontsize=8)
    return figure


def _panel(ax: Any, points: pd.DataFrame) -> None:
    for name, line in points.groupby("strategy", sort=False):
        colour = next((c for begins, c in SHOWN.items() if str(name).startswith(begins)), "#000000")
        plain = str(name).startswith(("tpe", "nsga2", "gp", "guided")) and not str(name).endswith("screened")
        ax.fill_between(line["cost"], line["low"], line["high"], color=colour, alpha=0.12, linewidth=0)
        ax.plot(line["cost"], line["median"], color=colour, linestyle="--" if plain else "-", label=name)
    ax.axhline(0.99, color="#999999", linewidth=0.8, linestyle=":")
    ax.set(xscale="log", xlim=(1, 60), ylim=(0.75, 1.005))
    ax.grid(color="#eeeeee")
