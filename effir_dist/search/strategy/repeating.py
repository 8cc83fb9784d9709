"""`--repeat N`: which trials are to be run again with other training seeds, so that each point of the front has N."""

from __future__ import annotations

from typing import Any

from effir_dist.core.config import settings_of
from effir_dist.core.settings import RunConfig
from effir_dist.models.pruning import PruningPlan
from effir_dist.runs.objectives import Goal
from effir_dist.runs.repeats import groups, seeds_used
from effir_dist.runs.run_folder import Run
from effir_dist.search.strategy.study import Suggestion, trial_key


def pending_repeats(run: Run) -> list[dict[str, Any]]:
    """The repeats that were started and have no record, by number."""
    return [head for head in run.pending() if head.get("repeat_of")]


def repeat_heads(run: Run, config: RunConfig, wanted: int) -> list[dict[str, Any]]:
    """What to run so that each trial on the front has `wanted` repeats: the unfinished ones first, then new ones.

    A head is as `study.Suggestion.to_dict`, with `repeat_of`, the trial that it repeats, and a `train.seed` that none
    of that trial's runs had. A repeat that failed counts as one: its seed would fail again.
    """
    records, pending = run.results(), pending_repeats(run)
    front = Goal.of(vars(config.search)).front(records)
    number, heads = run.next_number(), pending
    for trial in [record["trial"] for record in front]:
        known = [r for r in [*records, *pending] if r.get("repeat_of") == trial]
        original = next(r for r in records if r["trial"] == trial)
        used = seeds_used([original, *known], config.train.seed)
        seed = config.train.seed
        for _ in range(wanted - len(known)):
            seed = next(s for s in range(seed + 1, seed + 2 + len(used)) if s not in used)
            heads = [*heads, _head(original, number, seed)]
            number += 1
    return heads


def _head(original: dict[str, Any], number: int, seed: int) -> dict[str, Any]:
    suggested, plan = {**original["suggested"], "train.seed": seed}, PruningPlan.from_dict(original["plan"])
    key = trial_key(plan, settings_of(suggested))
    again = Suggestion(number, suggested, original["distributions"], plan, key)
    return {**again.to_dict(), "repeat_of": original["trial"]}


def with_repeats(records: list[dict[str, Any]], trials: set[str]) -> list[str]:
    """Trials and their repeats, by number."""
    return sorted(r["trial"] for trial, group in groups(records).items() if trial in trials for r in group)


def repeats_line(records: list[dict[str, Any]], goal: Goal, wanted: int) -> str:
    """What a user should know after repeats: whether the front moved to trials that were not repeated."""
    grouped = groups(records)
    left = [r["trial"] for r in goal.front(records) if len(grouped[r["trial"]]) < 1 + wanted]
    if not left:
        return ""
    return f"means over seeds moved the front: {', '.join(left)} lack repeats; --repeat {wanted} again"
