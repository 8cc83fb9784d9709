"""The smallest model that is safe: surely not much worse than the unpruned one.

A pruned model of the front is safe where the lower bound of its paired difference from the unpruned model, the 95 %
interval over queries and seeds, is above minus `search.safe_loss` of nDCG@10. The unpruned model is the better one of
those that were scored: as it is, or tuned as the others are. Test queries judge where they were scored, as the search
chose by its own. Each model is judged alone: of many that are a little too bad, one in forty passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from effir_dist.core.search_settings import SearchConfig
from effir_dist.core.values import Json
from effir_dist.evaluate.intervals import Interval
from effir_dist.report.score_tables import MEAN, scores_table
from effir_dist.runs.objectives import Goal, best_unpruned, is_unpruned
from effir_dist.runs.records import TrialRecord

if TYPE_CHECKING:
    import pandas as pd

LEAST_QUERIES = 300
"""Fewer call no model safe."""
COLUMNS = ("safe_difference", "safe_low", "safe", "smallest_safe")
"""Of a front: nDCG@10 minus the unpruned model's on the queries that judge, its lower bound, whether that is enough,
and whether it is the smallest such model. The unpruned model has none of the first three."""


@dataclass(frozen=True)
class Safety:
    """Which models of a front are safe, and by what."""

    limit: float
    """`search.safe_loss`: a difference below minus this is too much."""
    reference: str = ""
    """The unpruned trial; empty where none was scored."""
    split: str = ""
    """Whose queries judge: `test` or `search`; empty where there are no scores by query."""
    queries: int = 0
    """How many."""
    judged: Mapping[str, Interval] = field(default_factory=dict)
    """Pruned trial of the front -> its difference from the unpruned one, in the order of the front."""
    front: int = 0
    """Pruned models on the front, also those that could not be judged."""

    @property
    def enough(self) -> bool:
        """Whether there are so many queries that a model may be called safe."""
        return self.queries >= LEAST_QUERIES

    def safe(self, trial: str) -> bool | None:
        """Whether a trial is; None where it was not judged, or by too few queries."""
        found = self.judged.get(trial)
        return found.low > -self.limit if found and self.enough else None

    @property
    def smallest(self) -> str:
        """The smallest safe trial, the cheapest by the search's first cost; empty where there is none."""
        return next((trial for trial in reversed([*self.judged]) if self.safe(trial)), "")

    @property
    def nearest(self) -> str:
        """The judged trial with the highest lower bound; empty where there is none."""
        return max(self.judged, key=lambda trial: self.judged[trial].low, default="")

    def queries_needed(self, trial: str) -> int | None:
        """About how many queries would call it safe if its difference stayed as it is; None: no number of them."""
        found = self.judged[trial]
        if found.value <= -self.limit:
            return None
        narrower = (found.value + self.limit) / (found.value - found.low) if found.value > found.low else math.inf
        return max(LEAST_QUERIES, math.ceil(self.queries / narrower**2))


def safe_loss_of(config: Json) -> float:
    """`search.safe_loss` of a run folder's configuration; the default where an older version wrote it."""
    return float((config.get("search") or {}).get("safe_loss", SearchConfig.safe_loss))


def judge(
    goal: Goal,
    records: Sequence[TrialRecord],
    queries: pd.DataFrame,
    limit: float,
    chosen: Sequence[str] = (),
    repeats: Mapping[str, Sequence[str]] | None = None,
) -> Safety:
    """Hold the pruned models of the records' front against the unpruned one.

    queries: per-query scores of all splits. chosen: the data sets that count, by default all. repeats: trial -> itself
    and its repeats. A trial that was scored on other queries than the unpruned one is not judged.
    """
    reference = best_unpruned(goal.scored(records))
    pruned = [r.trial for r in goal.front(records) if not is_unpruned(r.values)]
    if reference is None:
        return Safety(limit, front=len(pruned))
    split = _split(queries, reference.trial, pruned)
    wanted = [reference.trial, *pruned]
    members = {t for trial in wanted for t in (repeats or {}).get(trial, (trial,))}
    own = queries[(queries["split"] == split) & queries["trial"].isin(members)]
    table = scores_table(own, reference.trial, chosen, repeats)
    rows: Any = table[table["dataset"] == MEAN].to_dict("records")
    found = {r["trial"]: Interval(r["difference"], r["difference_low"], r["difference_high"]) for r in rows}
    judged = {trial: found[trial] for trial in pruned if trial in found}
    return Safety(limit, reference.trial, split, _count(own, reference.trial, chosen), judged, len(pruned))


def _split(queries: pd.DataFrame, reference: str, pruned: Sequence[str]) -> str:
    """`test` where the unpruned model and a pruned one were scored on it, else `search`; empty without either."""
    scored = {split: {*part["trial"]} for split, part in queries.groupby("split")}
    found = [split for split in ("test", "search") if reference in scored.get(split, ())]
    return next((split for split in found if split == "search" or scored[split] & {*pruned}), "")


def _count(queries: pd.DataFrame, trial: str, chosen: Sequence[str]) -> int:
    own = queries[queries["trial"] == trial]
    some = own[own["dataset"].isin([*chosen])] if chosen else own
    return len(some) if len(some) else len(own)


def with_safety(front: pd.DataFrame, safety: Safety) -> pd.DataFrame:
    """A front with COLUMNS; rows that were not judged have none of the first three."""
    nothing = float("nan")
    found = [safety.judged.get(trial) for trial in front["trial"]]
    columns: Any = (
        [each.value if each else nothing for each in found],
        [each.low if each else nothing for each in found],
        [safety.safe(trial) for trial in front["trial"]],
        [trial == safety.smallest for trial in front["trial"]],
    )
    return front.assign(**dict(zip(COLUMNS, columns, strict=True)))
