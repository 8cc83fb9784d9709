"""Search strategies against tables of outcomes, in seconds and without Ray:

    python -m benchmarks.search.replay reports/search/pydocs reports/search/medquad --out reports/search [--only guided]

Writes results.csv (a row a table and strategy; rows of others stay), curves.csv and search.png. A plan that a table
lacks is not there to be searched: what a sampler suggests of those costs nothing and counts for nothing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.search.strategies import STRATEGIES
from benchmarks.search.world import Curve, Table, World, load

SHARES = (0.95, 0.98, 0.99)
SLOW = {"gp": (4, 16.0), "tpe": (20, 16.0), "nsga2": (20, 16.0), "guided": (20, 40.0), "random asha": (20, 120.0)}
"""How the name of a strategy that takes long to ask begins -> seeds and budget at most."""
SHOWN = {
    "random": "#999999",
    "recipe": "#222222",
    "tpe set group": "#56b4e9",
    "nsga2 set group": "#e69f00",
    "gp set group": "#cc79a7",
    "random asha 1/3": "#009e73",
    "guided": "#d55e00",
}


def curves(table: Table, name: str, seeds: int, workers: int, budget: float) -> list[Curve]:
    """A search with each seed."""
    most, limit = next((found for begins, found in SLOW.items() if name.startswith(begins)), (seeds, budget))
    world = World(table, workers, small=name.startswith(("guided", "random asha")))
    count = 1 if name == "recipe" else min(seeds, most)
    return [world.run(STRATEGIES[name](table, seed), min(budget, limit)) for seed in range(count)]


def row(name: str, found: list[Curve], best: float, best_test: float, at: dict[str, float]) -> dict[str, Any]:
    """Medians over seeds, and the middle half of the cost of 99 %; infinite where it was not reached."""
    line: dict[str, Any] = {"strategy": name, "seeds": len(found)}
    for share in SHARES:
        needs = [curve.needs(share * best) for curve in found]
        line[f"cost_{share:.0%}"] = quantile(needs, 0.5)
    line["low_99%"], line["high_99%"] = quantile(needs, 0.25), quantile(needs, 0.75)
    for label, cost in at.items():
        shares = [curve.at(cost) / best for curve in found]
        line[f"at_{label}"], line[f"low_{label}"], line[f"high_{label}"] = np.quantile(shares, (0.5, 0.25, 0.75))
        line[f"test_{label}"] = float(np.median([_test_at(curve, cost) / best_test for curve in found]))
    line["evaluations"] = " ".join(str(round(n)) for n in np.mean([c.evaluations for c in found], axis=0))
    return line


def quantile(values: list[float], share: float) -> float:
    """As numpy's `higher`, which infinite values do not turn into NaN."""
    return sorted(values)[min(len(values) - 1, int(np.ceil(share * (len(values) - 1))))]


def _test_at(curve: Curve, cost: float) -> float:
    place = int(np.searchsorted(curve.cost, cost, "right"))
    return curve.test[place - 1] if place else 0.0


def replay(
    folder: Path, names: list[str], seeds: int, workers: int, budget: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Results and curves of all strategies on one table."""
    table = load(folder)
    best, best_test = table.best(), table.hypervolume(range(len(table.points)), test=True)
    recipe = curves(table, "recipe", 1, workers, budget)
    print(f"{folder.name}: {len(table.points)} plans, {recipe[0].evaluations[-1]} of them the recipe's, ", end="")
    print(f"best hypervolume {best:.4f}", flush=True)
    at = {"recipe": recipe[0].cost[-1], "10": 10.0, "20": 20.0, "40": 40.0}
    rows, points = [], []
    for name in names:
        begun = time.monotonic()
        found = recipe if name == "recipe" else curves(table, name, seeds, workers, budget)
        rows.append({"table": folder.name, **row(name, found, best, best_test, at)})
        points += [{"table": folder.name, "strategy": name, **line} for line in _drawn(found, best)]
        line = rows[-1]
        print(
            f"  {name:<22} 99 % at {line['cost_99%']:6.1f} ({line['low_99%']:.1f} to {line['high_99%']:.1f})"
            f"  after the recipe's {at['recipe']:.1f}: {line['at_recipe']:.3f}  [{time.monotonic() - begun:.0f} s]",
            flush=True,
        )
    return pd.DataFrame(rows), pd.DataFrame(points)


def _drawn(found: list[Curve], best: float) -> list[dict[str, float]]:
    """Median and middle half at costs in even steps of their logarithm."""
    end = max(curve.cost[-1] for curve in found if curve.cost)
    lines = []
    for cost in np.geomspace(1, end, 60):
        low, middle, high = np.quantile([curve.at(cost) / best for curve in found], (0.25, 0.5, 0.75))
        lines.append({"cost": cost, "median": middle, "low": low, "high": high})
    return lines


def draw(points: pd.DataFrame) -> Figure:
    """A panel a table: share of its best hypervolume against cost."""
    tables = list(dict.fromkeys(points["table"]))
    figure = Figure(figsize=(5.4 * len(tables), 4.4), dpi=130, layout="constrained")
    axes: Any = figure.subplots(1, len(tables), squeeze=False)[0]
    for ax, table in zip(axes, tables, strict=True):
        for name, colour in SHOWN.items():
            line = points[(points["table"] == table) & (points["strategy"] == name)]
            if len(line):
                ax.fill_between(line["cost"], line["low"], line["high"], color=colour, alpha=0.15, linewidth=0)
                ax.plot(line["cost"], line["median"], color=colour, label=name)
        ax.axhline(0.99, color="#999999", linewidth=0.8, linestyle=":")
        ax.set(xscale="log", ylim=(0.8, 1.005), title=table, xlabel="cost (full trials of the unpruned model)")
        ax.grid(color="#eeeeee")
    axes[0].set_ylabel("hypervolume, share of the table's best")
    axes[0].legend(frameon=False, loc="lower right")
    return figure


def main() -> None:
    """Replay, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search.replay", description=__doc__)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("reports/search"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--budget", type=float, default=300.0)
    parser.add_argument("--only", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for folder in args.tables:
        results, points = replay(folder, args.only, args.seeds, args.workers, args.budget)
        _add(args.out / "results.csv", results)
        points = _add(args.out / "curves.csv", points)
        draw(points).savefig(args.out / "search.png")


def _add(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Write rows in the place of those of the same table and strategy, beside the others; returns all."""
    names = ["table", "strategy"]
    if path.is_file():
        known = pd.read_csv(path)
        old = known.set_index(names).index.isin(rows.set_index(names).index)
        rows = pd.concat([known[~old], rows.round(4)])
    rows.round(4).to_csv(path, index=False)
    return rows


if __name__ == "__main__":
    main()
