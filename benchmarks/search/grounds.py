"""A table's world, ready to be searched: fitting takes a minute of a core, so it is kept in this user's cache."""

from __future__ import annotations

import copy
import hashlib
import pickle
import time
from dataclasses import dataclass, replace
from pathlib import Path

import sklearn

from benchmarks.search import emulator, features, outcomes, reference, regressions
from benchmarks.search.emulator import Emulator
from benchmarks.search.outcomes import Table
from benchmarks.search.reference import Best, best_known
from benchmarks.search.strategies import STRATEGIES
from benchmarks.search.world import World
from effir_dist.core.mapped import cache_root


@dataclass(frozen=True)
class Ground:
    """A world, the best that is known of it, and the costs at which strategies are compared."""

    world: World
    best: Best
    at: dict[str, float]

    @property
    def table(self) -> Table:
        return self.world.table


def ground(folder: Path) -> Ground:
    """That of a table. Searches in it are compared under its table's `mark`, which changes with the emulator too."""
    begun, table = time.monotonic(), outcomes.load(folder)
    table = replace(table, mark=_mark(table))
    path = cache_root() / "replay" / f"{table.name}-{table.mark}.pickle"
    if path.is_file():
        found: Ground = pickle.loads(path.read_bytes())
        return found
    world = World(table, Emulator(table))
    best = best_known(copy.deepcopy(world))  # what it asked is not kept
    ends = {name: world.run(STRATEGIES[name](world, 0), float("inf")).cost[-1] for name in ("recipe", "grid")}
    print(f"{table.name}: {len(table.rows)} rows, fitted and {best.plans} plans looked at for the best known ", end="")
    print(f"hypervolume, {best.hypervolume:.4f}, in {time.monotonic() - begun:.0f} s", flush=True)
    found = Ground(world, best, {**ends, "10": 10.0, "20": 20.0, "40": 40.0})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{time.time_ns()}")
    partial.write_bytes(pickle.dumps(found))
    partial.replace(path)
    return found


def _mark(table: Table) -> str:
    """Of the table's numbers and of what makes a world of them."""
    modules = (emulator, features, outcomes, reference, regressions)
    code = [Path(str(module.__file__)).read_text() for module in modules]
    models = [*regressions.candidates([0])]
    return hashlib.sha256("".join([table.mark, sklearn.__version__, *models, *code]).encode()).hexdigest()[:8]
