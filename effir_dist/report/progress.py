"""What a search found, as tables: the hypervolume reached at what cost, and which MLPs the models on the front drop."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import TYPE_CHECKING

from effir_dist.core.measures import TRIAL_SECONDS
from effir_dist.runs.objectives import Goal, unpruned
from effir_dist.runs.pareto import non_dominated_losses
from effir_dist.runs.records import RungScore, TrialRecord
from effir_dist.runs.run_folder import Run
from effir_dist.runs.stages import outdone

if TYPE_CHECKING:
    import pandas as pd


def hypervolume_table(
    records: Iterable[TrialRecord], goal: Goal, scale: dict[str, float], stopped: Iterable[RungScore] = ()
) -> pd.DataFrame:
    """Columns trial, cost_seconds (of it and all that ended before it, failed trials too), hypervolume.

    A row a finished trial, in the order in which they ended. scale: `Goal.scale` of these records, or of several runs.
    stopped: what trials scored that have no record; those of older versions have no time and count from the start.
    """
    import pandas as pd

    ended = sorted(records, key=lambda r: (r.finished, r.trial))
    baseline = unpruned(goal.scored(ended))
    cost, points, rows = 0.0, list[tuple[float, ...]](), []
    below = sorted(stopped, key=lambda rung: rung.finished)
    for number, record in enumerate(ended, 1):
        cost += seconds_of(record)
        while below and below[0].finished <= record.finished:
            cost += rung_seconds(below[:1])
            del below[0]
        # A repeat changes the mean of the trial that it repeats, and a full recovery may stand for the one that it
        # continues, so all points are computed anew.
        again = bool(record.spec.repeat_of or record.spec.continues)
        new = goal.scored(ended[:number] if again else [record])
        feasible = [r for r in new if not any(v > 0 for v in goal.violations(r.values, baseline).values())]
        worse = outdone(feasible)
        points = ([] if again else points) + [goal.point(r.values, scale) for r in feasible if r.trial not in worse]
        points = [points[i] for i in non_dominated_losses(points)]
        rows.append((record.trial, cost, goal.hypervolume_of(points)))
    return pd.DataFrame(rows, columns=["trial", "cost_seconds", "hypervolume"])


def seconds_of(record: TrialRecord) -> float:
    """What a trial took, on lower rungs too. Of one that failed, its last part counts from its start to its end."""
    seconds, earlier = record.value(TRIAL_SECONDS), record.earlier_seconds or rung_seconds(record.rungs)
    if seconds is not None:
        return seconds if record.earlier_seconds else seconds + earlier  # older records leave the rungs out
    try:
        start, end = (datetime.datetime.fromisoformat(time) for time in (record.started, record.finished))
        return earlier + max(0.0, (end - start).total_seconds())
    except (TypeError, ValueError):  # it failed before it began
        return earlier


def rung_seconds(rungs: Iterable[RungScore]) -> float:
    """What visits to lower rungs took, as far as they say."""
    return sum(rung.values.get(TRIAL_SECONDS, 0.0) for rung in rungs)


def stopped_rungs(run: Run) -> dict[str, list[RungScore]]:
    """Trial -> what it scored, of the trials that have no record: they stopped on a lower rung, or are on their way."""
    waiting = [trial for trial in run.trials() if not run.finished(trial)]
    return {trial: rungs for trial in waiting if (rungs := run.rungs(trial))}


def scores_without_record(run: Run) -> list[RungScore]:
    """The scores of `stopped_rungs`."""
    return [rung for rungs in stopped_rungs(run).values() for rung in rungs]


def drops_table(trials: pd.DataFrame, blocks: int, order: list[int]) -> pd.DataFrame:
    """Columns block, importance_rank (1 is the least important, dropped first), front_share, all_share.

    The shares are of the plans on the front, and of all complete trials, that drop the block's MLP; plans without a
    dropped MLP count too. importance_rank is missing where the run has no importance scores.
    """
    import pandas as pd

    scored = trials[trials["state"] == "complete"]
    gone = [{int(b) for b in text.split(",") if b} for text in scored["dropped_mlp"]]
    on_front = [plan for plan, front in zip(gone, scored["on_front"], strict=True) if front]

    def share(plans: list[set[int]], block: int) -> float:
        return sum(block in plan for plan in plans) / len(plans) if plans else float("nan")

    rank = {block: number for number, block in enumerate(order, 1)}
    rows = [(block, rank.get(block), share(on_front, block), share(gone, block)) for block in range(blocks)]
    table = pd.DataFrame(rows, columns=["block", "importance_rank", "front_share", "all_share"])
    return table.astype({"importance_rank": "Int64"})


def blocks_of(records: Iterable[TrialRecord]) -> int:
    """Blocks of the model that a run prunes; 0 while no record says."""
    return max((len(r.facts.mlp_widths) for r in records), default=0)
