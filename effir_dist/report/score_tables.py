"""nDCG@10 of every trial on every data set, and its difference from the unpruned model, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from effir_dist.core.measures import MEASURES, QUALITY, SIZE, SIZE_SHARE, TRIAL_SECONDS
from effir_dist.evaluate.intervals import many_draws, over_trainings, seeds_part, widened
from effir_dist.runs.objectives import goal_of, is_unpruned
from effir_dist.runs.sizes import FIELDS, total

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from effir_dist.runs.records import RungScore
    from effir_dist.runs.run_folder import Run

MEAN = "*"
"""The name of the mean over data sets, beside the data sets' own."""
INTERVAL = ("low", "high", "difference", "difference_low", "difference_high")
COLUMNS = ("trial", "split", "dataset", QUALITY, *INTERVAL)


def scores_table(
    queries: pd.DataFrame,
    unpruned: str | None,
    chosen: Sequence[str] = (),
    repeats: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Columns COLUMNS, of per-query scores: a row a trial, split and data set, and one (`*`) for the mean over them.

    chosen: the data sets that the mean is over, by default all. repeats: trial -> itself and the trials that trained
    its plan again with other seeds; its rows are then of all of them, means and intervals over seeds and queries.
    Differences are paired by query, and NaN without an unpruned trial. Trials are compared on the queries that the
    unpruned one (else the first) was scored on; one that was scored on others has no row.
    """
    import pandas as pd

    groups = {trial: members for trial, members in (repeats or {}).items() if len(members) > 1}
    parts = [_split(str(s), part, unpruned, chosen, groups) for s, part in queries.groupby("split", sort=False)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))


def _split(
    split: str, queries: pd.DataFrame, unpruned: str | None, chosen: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    wide = queries.pivot(index=["dataset", "query_id"], columns="trial", values=QUALITY)
    reference = unpruned if unpruned in wide else wide.columns[0]
    same = (wide.notna().to_numpy() == wide[[reference]].notna().to_numpy()).all(axis=0)
    own = queries[queries["trial"] == reference]
    # In the order of the file: the draws are then those of intervals.py for the same file.
    wide = wide.loc[pd.MultiIndex.from_frame(own[["dataset", "query_id"]]), same]
    scores = {str(name): part.to_numpy(float).T for name, part in wide.groupby(level="dataset")}
    trials = list(wide.columns)
    places = {trial: [trials.index(t) for t in members if t in trials] for trial, members in groups.items()}
    pooled = {trials.index(trial): columns for trial, columns in places.items() if trial in trials}
    draws = many_draws(scores, pooled=pooled)
    means = {name: values.mean(axis=1) for name, values in scores.items()}
    over = [name for name in chosen if name in scores] or list(scores)
    for part in (means, draws):
        part[MEAN] = np.mean([part[name] for name in over], axis=0)
    baseline = trials.index(unpruned) if unpruned in trials else None
    names = (MEAN, *sorted(scores))
    parts = [_dataset(split, name, trials, means[name], draws[name], pooled, baseline) for name in names]
    return pd.concat(parts, ignore_index=True)


def _dataset(
    split: str,
    name: str,
    trials: list[str],
    own: np.ndarray,
    draws: np.ndarray,
    pooled: Mapping[int, Sequence[int]],
    baseline: int | None,
) -> pd.DataFrame:
    """The rows of one data set. own [N]: means over queries, of one training each; draws [DRAWS, N]; pooled: as for
    `many_draws`; baseline: which of the N trials is the unpruned one."""
    import numpy as np
    import pandas as pd

    trainings, means = [own[[*pooled.get(c, (c,))]] for c in range(len(own))], over_trainings(own, pooled)
    seeds = np.array([seeds_part(each) for each in trainings])
    low, high = widened(means, np.quantile(draws, [0.025, 0.975], axis=0), seeds)
    table = pd.DataFrame({"trial": trials, "split": split, "dataset": name, QUALITY: means})
    table = table.assign(low=low, high=high)
    if baseline is None:
        return table.assign(**dict.fromkeys(INTERVAL[2:], float("nan")))
    seeds = np.array([seeds_part(each, trainings[baseline]) for each in trainings])
    seeds[baseline] = 0.0  # from itself
    differences = means - means[baseline]
    bounds = np.quantile(draws - draws[:, [baseline]], [0.025, 0.975], axis=0)
    least, most = widened(differences, bounds, seeds)
    return table.assign(difference=differences, difference_low=least, difference_high=most)


def rungs_table(run: Run) -> pd.DataFrame:
    """A row for each score below full training: trial, rung, share of the training, what was pruned, score and cost;
    and whether the trial was then trained in full.

    These scores compare within a rung only, not with a record's: `rung_ndcg_at_10` is of less data, `queries` and
    `documents`, and of less training; `of_unpruned` is its share of the unpruned model's on the same rung.
    """
    import pandas as pd

    scored = [(trial, rung) for trial in run.trials() for rung in run.rungs(trial)]
    own = (SIZE, SIZE_SHARE, QUALITY, TRIAL_SECONDS)
    wanted = [m.name for m in MEASURES.values() if m.objective and m.measured]
    wanted += [name for name in goal_of(run.config).objectives if name not in (*own, *wanted)]
    more = [name for name in wanted if any(name in rung.values for _, rung in scored)]
    unpruned = {rung.rung: rung.values[QUALITY] for _, rung in reversed(scored) if is_unpruned(rung.values)}
    rows = [
        {"trial": trial, **_rung(rung, more, unpruned.get(rung.rung)), "trained_in_full": run.finished(trial)}
        for trial, rung in scored
    ]
    return pd.DataFrame(rows)


def _rung(rung: RungScore, more: Sequence[str], unpruned: float | None) -> dict[str, int | float | str | None]:
    size = total(rung.sizes)
    return {
        "rung": rung.rung,
        "share": rung.share,
        "dropped_mlp": ",".join(map(str, rung.facts.dropped_mlp)),
        **{name: rung.values.get(name) for name in (SIZE, SIZE_SHARE)},
        "width_ratio": rung.facts.width_ratio,
        f"rung_{QUALITY}": rung.values[QUALITY],
        "of_unpruned": rung.values[QUALITY] / unpruned if unpruned else None,
        **dict(zip(FIELDS[:2], (size.queries, size.documents) if size else (None, None), strict=True)),
        "cost": rung.cost,
        **{name: rung.values.get(name) for name in (TRIAL_SECONDS, *more)},
    }
