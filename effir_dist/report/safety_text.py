"""What a report says of the smallest safe model, in words: for the terminal, the page and the model card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effir_dist.core.measures import MEASURES, QUALITY
from effir_dist.evaluate.intervals import Interval
from effir_dist.report.safety import LEAST_QUERIES, Safety
from effir_dist.runs.pareto import shares_text

if TYPE_CHECKING:
    import pandas as pd

LABEL = MEASURES[QUALITY].label
SETTING = "search.safe_loss"
LIMITS = {"test": "data.max_test_queries", "search": "data.max_queries"}
"""Whose queries -> the setting that limits their number."""


def difference_text(found: Interval) -> str:
    """'-0.011 [-0.019, +0.002]'."""
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def card_text(safety: Safety, trial: str) -> str:
    """What a model card says of a trial; empty where it was not judged, or by too few queries."""
    found = safety.safe(trial)
    if found is None:
        return ""
    verdict = "safe" if found else "not safe"
    bound = f"its lower bound is {'' if found else 'not '}above {-safety.limit:g}"
    return f"By this search's measure it is **{verdict}**: {_against(safety, trial)[:-1]}; {bound}. {_luck(safety)}"


def safety_lines(safety: Safety, front: pd.DataFrame) -> list[str]:
    """What a terminal shows: the smallest safe model and what speaks for it, or why there is none.

    front: rows of a table of trials, the judged ones among them.
    """
    if refused := _refusal(safety):
        return [f"No model is called safe: {refused}."]
    if not safety.smallest:
        return _none_lines(safety, front)
    lines = [
        f"Smallest safe model: {_name(safety.smallest, front)}.",
        _against(safety, safety.smallest),
        f"Safe: the whole interval is above {-safety.limit:g} ({SETTING}).",
        _luck(safety),
    ]
    larger = _larger_unsafe(safety)
    return lines + ([f"Larger and not safe: {', '.join(larger)}. So luck may have helped."] if larger else [])


def _refusal(safety: Safety) -> str:
    """Why nothing can be judged; empty where it can."""
    if not safety.reference:
        return "no unpruned model was scored"
    if not safety.front:
        return "no pruned model is on the front"
    if not safety.split:
        return "there are no scores by query"
    if not safety.judged:
        return f"no pruned model of the front was scored on the {safety.split} queries of unpruned {safety.reference}"
    if not safety.enough:
        whose = f"{safety.queries} {safety.split} queries"
        return f"{whose} are too few, {LEAST_QUERIES} are needed ({LIMITS[safety.split]} or more data)"
    return ""


def _none_lines(safety: Safety, front: pd.DataFrame) -> list[str]:
    """No judged model is safe: which comes nearest, and how many queries would tell."""
    nearest, count = safety.nearest, len(safety.judged)
    needed = safety.queries_needed(nearest)
    tried = f"{count} models were judged" if count > 1 else "one was judged"
    lines = [
        f"No pruned model is safe: {tried}, and no interval is above {-safety.limit:g} ({SETTING}).",
        f"The nearest: {_name(nearest, front)}.",
        _against(safety, nearest),
    ]
    more = f"With that difference, about {needed:,} queries would make it safe." if needed else ""
    return lines + ([more] if more else [])


def _against(safety: Safety, trial: str) -> str:
    whose = f"the unpruned {safety.reference}, on {safety.queries:,} {safety.split} queries"
    return f"{LABEL} {difference_text(safety.judged[trial])} against {whose}."


def _luck(safety: Safety) -> str:
    """What the choice among several models does to the statement."""
    if safety.split != "test":
        return "The search chose by the same queries, so a model looks better than it is. There are no test scores."
    count = len(safety.judged)
    chosen = "The search did not use the test queries."
    return chosen if count == 1 else f"{chosen} But {count} models were judged, and one of many may pass by luck."


def _larger_unsafe(safety: Safety) -> list[str]:
    """Judged models that are larger than the smallest safe one and are not safe themselves."""
    trials = [*safety.judged]
    return [trial for trial in trials[: trials.index(safety.smallest)] if not safety.safe(trial)]


def _name(trial: str, front: pd.DataFrame) -> str:
    """'0018, blocks 83 % (total 92 %)'."""
    row: Any = front[front["trial"] == trial].to_dict("records")[0]
    return f"{trial}, {' '.join(shares_text(row).split())}"
