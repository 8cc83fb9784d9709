"""Runs read once, one or several: which may be compared, and their trials as one table with one front."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from effir_dist.core.errors import InputError
from effir_dist.core.measures import MEASURES
from effir_dist.report.frames import RunFrames, chosen_sets, frames_from, nothing_yet
from effir_dist.runs.objectives import Goal, goal_of
from effir_dist.runs.pareto import non_dominated_losses
from effir_dist.runs.records import TrialRecord
from effir_dist.runs.run_folder import Run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Loaded:
    """A run, read once."""

    run: Run
    name: str
    """Different from the names of the other runs of the page."""
    records: list[TrialRecord]
    frames: RunFrames | None
    """None while no trial has finished."""

    @property
    def goal(self) -> Goal:
        """The objectives and constraints of the run's search."""
        return goal_of(self.run.config)

    @property
    def some_frames(self) -> RunFrames:
        """Its frames. Raises InputError while no trial has finished."""
        if self.frames is None:
            raise nothing_yet(self.run)
        return self.frames


def load(runs: list[Run]) -> list[Loaded]:
    """Read runs for a page. Raises InputError as `frames_of`, and for runs that cannot be compared."""
    names = [run.name for run in runs]
    if len({run.location for run in runs}) < len(runs):
        raise InputError("the same run is named twice; name each run once")
    distinct = names if len(set(names)) == len(names) else [run.location for run in runs]
    found = []
    for run, name in zip(runs, distinct, strict=True):
        records = run.results()
        found.append(Loaded(run, name, records, frames_from(run, records) if records else None))
    _check_comparable(found)
    return found


def _check_comparable(runs: list[Loaded]) -> None:
    chosen = [chosen_sets(r.run) for r in runs]
    for what, found in (("objectives", [r.goal.objectives for r in runs]), ("quality_sets", chosen)):
        if len(set(found)) > 1:
            lists = "; ".join(f"{r.name}: {', '.join(names) or 'all'}" for r, names in zip(runs, found, strict=True))
            raise InputError(f"these runs have different search.{what} ({lists}); compare runs with the same")
    data = {r.name: _datasets(r) for r in runs if _datasets(r)}
    if len({tuple(sorted(names)) for names in data.values()}) > 1:
        lists = "; ".join(f"{run}: {', '.join(names)}" for run, names in data.items())
        raise InputError(f"these runs were scored on different data sets ({lists}); compare runs on the same ones")


def _datasets(loaded: Loaded) -> list[str]:
    return list(dict.fromkeys(name for r in loaded.records if r.complete for name in r.datasets))


def same_queries(runs: list[Loaded]) -> bool:
    """Whether all runs were scored on the same queries and as many documents, as far as their records say."""
    seen = set()
    for loaded in runs:
        if loaded.frames is not None:
            queries = loaded.frames.queries
            queries = queries[queries["split"] == "search"]
            seen.add(frozenset(zip(queries["dataset"], queries["query_id"], strict=True)))
    return len(seen) < 2 and len(_counts(runs)) < 2


def _counts(runs: list[Loaded]) -> set[tuple[tuple[str, str], ...]]:
    """How many queries and documents the runs' scores are of, of those that say."""
    said = (r.sizes for loaded in runs for r in loaded.records if r.complete and r.sizes)
    return {tuple(sorted((name, str(size)) for name, size in sizes.items())) for sizes in said}


def common_trials(runs: list[Loaded]) -> pd.DataFrame:
    """The trials of all runs, `run` before the columns of `trials_table`; on_front is of their one front.

    Raises InputError where no run has a finished trial.
    """
    import pandas as pd

    frames = [r.frames.trials.assign(run=r.name) for r in runs if r.frames is not None]
    if not frames:
        raise nothing_yet(*(r.run for r in runs))
    table = pd.concat(frames, ignore_index=True)
    if len(frames) > 1:  # each on the front of its own run: the common one is among them
        own, objectives = table[table["on_front"]], runs[0].goal.objectives
        losses = [-MEASURES[name].better * own[name].astype(float).to_numpy() for name in objectives]
        table["on_front"] = table.index.isin(own.index[non_dominated_losses([*zip(*losses, strict=True)])])
    return table[["run", *(name for name in table.columns if name != "run")]]
