"""Search strategies on models whose outcomes an emulator gives, without Ray:

    python -m benchmarks.search.replay reports/search/pydocs reports/search/medquad --out reports/search

A strategy proposes any plan; an emulator that is fitted to the table answers (`emulator`), a plan costs what the
product's formulas say (`world`), and the best hypervolume known is an evolutionary search's on the emulator
(`reference`). Each search is appended to runs.csv as it ends, strategies taking turns: a replay that was cut off is a
fair sample, and the same command goes on. At the end of each call come results.csv, curves.csv, emulators.csv (errors
on rows held out), reference.csv and search.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.pool import Pool
from pathlib import Path

from threadpoolctl import threadpool_limits

from benchmarks.search import summary
from benchmarks.search.grounds import Ground, ground
from benchmarks.search.strategies import COMPARED, STRATEGIES
from benchmarks.search.summary import Key, Searched

LONG, SLOW = 300.0, (3, 20.0)
"""Budget of random search, in full trials; seeds and budget of Optuna's GP, which takes seconds for a proposal."""


_grounds: dict[str, Ground] = {}
"""By table; processes inherit it."""


def search(key: Key, budget: float) -> Searched:
    """One search, with its budget or what its strategy is given."""
    begun, own = time.monotonic(), _grounds[key.table]
    if key.strategy.startswith("random"):
        budget = max(budget, LONG)
    if key.strategy.startswith("gp"):
        budget = min(budget, SLOW[1])
    curve = own.world.run(STRATEGIES[key.strategy](own.world, key.seed), budget, key.workers)
    return summary.searched(key, curve, budget, own.best.hypervolume, own.at, time.monotonic() - begun)


def _one_thread() -> None:
    """Of a process, also for what is imported later: each has a core of its own."""
    os.environ["OMP_NUM_THREADS"] = "1"
    threadpool_limits(1)


def _pool(processes: int) -> Pool:
    return multiprocessing.get_context("fork").Pool(processes, _one_thread)


def wanted(tables: list[str], names: list[str], workers: list[int], seeds: int) -> Iterator[Key]:
    """All searches, a seed of everything before the next."""
    for seed, count, table, name in itertools.product(range(seeds), workers, tables, names):
        if not name.startswith("gp") or seed < SLOW[0]:
            yield Key(table, _grounds[table].table.mark, count, name, seed)


def replay(keys: list[Key], args: argparse.Namespace) -> None:
    """Make the searches, in as many processes as there are to be, until the time is over."""
    begun, runs = time.monotonic(), summary.Runs(args.out / "runs.csv")
    left = [key for key in keys if key not in runs.known]
    print(f"{len(keys)} searches, {len(keys) - len(left)} known", flush=True)
    with _pool(args.processes) as pool:
        for found in pool.imap_unordered(functools.partial(search, budget=args.budget), left):
            runs.add(found)
            if args.seconds and time.monotonic() - begun > args.seconds:
                return


def write(out: Path, grounds: dict[str, Ground], marks: set[str]) -> None:
    """Tables and the picture of all searches so far; those in a table that has other numbers now are left out."""
    for own in grounds.values():
        errors = [dataclasses.asdict(error) for error in own.world.emulator.errors]
        summary.put(out / "emulators.csv", errors)
        name = own.table.name
        same = {"table": name, "plans": own.best.plans, "hypervolume": own.best.hypervolume}
        lines = [{**same, "key": p.key, "size": size, "worth": worth} for p, (size, worth) in own.best.front.items()]
        summary.put(out / "reference.csv", lines)
    summary.write(out, marks)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search.replay", description=__doc__)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("reports/search"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--budget", type=float, default=40.0, help="in full trials of the unpruned model")
    names = "strategies; `tpe` is TPE with every encoding, screened and not (default: the best of each sampler)"
    parser.add_argument("--only", nargs="+", type=named, default=[[name] for name in COMPARED], help=names)
    parser.add_argument("--again", action="store_true", help="forget what --only names before")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.0, help="start no more after so long (0: no limit)")
    args = parser.parse_args(argv)
    args.only = list(dict.fromkeys(itertools.chain.from_iterable(args.only)))
    return args


def named(text: str) -> list[str]:
    """The strategies that a name means: the one of that name, else all that begin with it."""
    found = [text] if text in STRATEGIES else [name for name in STRATEGIES if name.startswith(text + " ")]
    if not found:
        raise argparse.ArgumentTypeError(f"no strategy {text!r}; there are {', '.join(COMPARED)}")
    return found


def main(argv: list[str] | None = None) -> None:
    """Fit, replay, write."""
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    with _pool(args.processes) as pool:
        _grounds.update({own.table.name: own for own in pool.map(ground, args.tables, chunksize=1)})
    if args.again:
        summary.forget(args.out / "runs.csv", [*_grounds], args.only)
    try:
        replay(list(wanted([*_grounds], args.only, args.workers, args.seeds)), args)
    finally:
        write(args.out, _grounds, {own.table.mark for own in _grounds.values()})


if __name__ == "__main__":
    main()
