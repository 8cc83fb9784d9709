"""The front that a strategy finds on the emulator, trained for real: is what the emulator promises true?

    python -m benchmarks.search.live reports/search/smollm2 --strategy "guided set group screened" --cost 20

Searches on the emulator (seconds), then trains each plan of the front that the search shows by the table's own code:
as a row of the table. Appends to live.csv in --out: what was predicted and what was measured. The same command goes on
where it stopped. Options behind these are those of `benchmarks.search.table`: the table's --backbone, --data, --model.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search import plans, table
from benchmarks.search.grounds import Ground, ground
from benchmarks.search.plans import Point
from benchmarks.search.strategies import STRATEGIES
from benchmarks.search.summary import append
from benchmarks.search.world import Job


def front(own: Ground, strategy: str, seed: int, cost: float, workers: int) -> list[Point]:
    """What a search shows at its end, smallest first."""
    return own.world.run(STRATEGIES[strategy](own.world, seed), cost, workers).front


def predicted(own: Ground, point: Point) -> dict[str, Any]:
    """What the emulator says of a plan: its size, what it is worth and what the search was told, as nDCG@10."""
    known, world = own.table.plan(point), own.world
    full = own.table.unpruned()[f"ndcg_{own.table.top}"]
    size, worth = world.expected(point)
    told = world.told(Job(point, True))
    test = float(world.emulator.told([known], f"test_{own.table.top}")[0])
    found = {"size": size, "worth": worth * full, "told": told, "told_test": test}
    return {"key": point.key, **{name: round(value, 6) for name, value in found.items()}}


def measured(row: dict[str, Any], top: int) -> dict[str, Any]:
    """What a row of the table's says of a trained plan."""
    names = {"untrained": "ndcg_0", "ndcg": f"ndcg_{top}", "test": f"test_{top}"}
    return {name: row.get(column, "") for name, column in names.items()}


def parse(argv: list[str] | None = None) -> tuple[argparse.Namespace, argparse.Namespace]:
    """Ours, and the table's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search.live", description=__doc__)
    parser.add_argument("folder", type=Path, help="of the table")
    parser.add_argument("--strategy", choices=list(STRATEGIES), required=True, metavar="STRATEGY")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--search-workers", type=int, default=1)
    parser.add_argument("--cost", type=float, default=20.0, help="of the search, in full trials of the unpruned model")
    parser.add_argument("--out", type=Path, default=Path("reports/search/live.csv"))
    parser.add_argument("--most", type=int, default=0, help="train only so many, evenly spread over sizes (0: all)")
    args, rest = parser.parse_known_args(argv)
    return args, table.parse([str(args.folder), *rest])


def main(argv: list[str] | None = None) -> None:
    """Search on the emulator, train for real, append."""
    args, of_table = parse(argv)
    own = ground(args.folder)
    found = front(own, args.strategy, args.seed, args.cost, args.search_workers)
    if args.most and len(found) > args.most:
        found = [found[i] for i in np.linspace(0, len(found) - 1, args.most).round().astype(int)]
    search = {"table": own.table.name, "strategy": args.strategy, "seed": args.seed, "cost": args.cost}
    search["workers"] = args.search_workers
    done = _done(args.out, search)
    left = [point for point in found if point.key not in done]
    print(f"{len(found)} plans of the front, {len(found) - len(left)} trained before", flush=True)
    if left:
        _train(left, own, of_table, search, args.out)


def _train(left: list[Point], own: Ground, of_table: argparse.Namespace, search: dict[str, Any], out: Path) -> None:
    from benchmarks.search import work

    bench = work.load(of_table, table.settings(of_table))
    neurons = np.load(of_table.out / "neurons.npz")[plans.RANKING]
    for point in left:
        row = work.row(bench, point, neurons, of_table.stops, True)
        line = {**search, **predicted(own, point), **measured(row, own.table.top)}
        append(out, line)
        print(f"{point.key}: worth {line['worth']}, told {line['told']}, measured {line['ndcg']}", flush=True)


def _done(out: Path, search: dict[str, Any]) -> set[str]:
    """Plans of this search's front that were trained before."""
    if not out.is_file():
        return set()
    with out.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["test"]]
    return {row["key"] for row in rows if all(row[name] == str(value) for name, value in search.items())}


if __name__ == "__main__":
    main()
