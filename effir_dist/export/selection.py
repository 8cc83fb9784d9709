"""Which trial of a run to export: by id, the smallest safe one, or the best that satisfies an expression over columns.

    parameters_fraction <= 0.5
    parameters < 20e6 and test_ndcg_at_10 > 0.6
    train.learning_rate == 1e-4 and not (width_ratio < 0.5 or dropped_attention != "")

An expression compares columns of `load_run(..).trials` (trials.csv) with numbers or "text" by <=, <, >=, >, == and !=,
also as a chain (0.3 < parameters_fraction <= 0.5), joined by and, or, not and parentheses. It is parsed and never
executed: anything else is refused. A missing score satisfies no comparison but !=.
"""

from __future__ import annotations

import ast
import difflib
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from effir_dist.core.errors import InputError, suggest
from effir_dist.core.measures import QUALITY
from effir_dist.report.frames import frames_of
from effir_dist.report.safety_text import safety_lines
from effir_dist.runs.records import TrialRecord
from effir_dist.runs.run_folder import Run

COMPARISONS: dict[type, Callable[[Any, Any], bool]] = {
    ast.LtE: operator.le,
    ast.Lt: operator.lt,
    ast.GtE: operator.ge,
    ast.Gt: operator.gt,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
EXAMPLE = 'for example "parameters_fraction <= 0.5 and test_ndcg_at_10 > 0.6"'


def by_id(run: Run, trial: str) -> TrialRecord:
    """The record of a trial with a score and weights, by its id (0003, or 3).

    Raises InputError, which names the nearest ids, the trials that have weights and how to keep more.
    """
    records = _complete(run)
    wanted = trial.zfill(4) if trial.isdigit() else trial
    if wanted not in run.trials():
        raise InputError(f"{run.folder} has no trial {trial!r}; {_nearest(wanted, [r.trial for r in records])}")
    found = next((r for r in records if r.trial == wanted), None)
    if found is None:
        raise InputError(f"trial {wanted} of {run.folder} has {_why(run, wanted)}; {_with_weights(run, records)}")
    if not run.has_weights(wanted):
        raise InputError(
            f"the weights of trial {wanted} were not kept, as it is not on the front; {_with_weights(run, records)}"
        )
    return found


def safe(run: Run) -> TrialRecord:
    """The record of the smallest safe model (report/safety.py). Raises InputError where there is none."""
    _complete(run)
    frames = frames_of(run)
    if not frames.safety.smallest:
        reason = " ".join(safety_lines(frames.safety, frames.front))
        raise InputError(f"{run.folder} has nothing for --safe. {reason} Choose a model yourself, by --trial or --best")
    return by_id(run, frames.safety.smallest)


def best(run: Run, expression: str) -> TrialRecord:
    """The record of the best nDCG@10 among complete trials with weights that satisfy `expression`.

    Raises InputError for an expression that cannot be read, and where no trial satisfies it.
    """
    records = {r.trial: r for r in _complete(run)}
    table = frames_of(run).trials
    rows = [{str(k): v for k, v in row.items()} for row in table.to_dict("records") if row["trial"] in records]
    test = parse(expression, list(table.columns))
    passing = [row["trial"] for row in rows if test(row)]
    kept = [trial for trial in passing if run.has_weights(trial)]
    if not kept:
        wanted = "trial with weights" if passing else "complete trial"
        raise InputError(f"no {wanted} satisfies {expression!r}; {_with_weights(run, list(records.values()))}")
    return max((records[trial] for trial in kept), key=lambda r: r.values[QUALITY])


def parse(expression: str, columns: list[str]) -> Callable[[Mapping[str, Any]], bool]:
    """A test of a row (column -> value). Raises InputError for anything but comparisons of columns with constants."""
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"cannot read the expression {expression!r}; expected comparisons, {EXAMPLE}") from None
    return _condition(tree, columns)


def _condition(node: ast.expr, columns: list[str]) -> Callable[[Mapping[str, Any]], bool]:
    if isinstance(node, ast.BoolOp):
        parts = [_condition(value, columns) for value in node.values]
        join = all if isinstance(node.op, ast.And) else any
        return lambda row: join(part(row) for part in parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = _condition(node.operand, columns)
        return lambda row: not inner(row)
    if not isinstance(node, ast.Compare) or any(type(op) not in COMPARISONS for op in node.ops):
        raise InputError(f"{ast.unparse(node)!r} is no comparison by <=, <, >=, >, == or !=; {EXAMPLE}")
    values = [_value(part, columns) for part in (node.left, *node.comparators)]
    pairs = [(COMPARISONS[type(op)], values[i], values[i + 1]) for i, op in enumerate(node.ops)]
    source = ast.unparse(node)
    return lambda row: all(_compare(op, left(row), right(row), source) for op, left, right in pairs)


def _compare(op: Callable[[Any, Any], bool], left: Any, right: Any, source: str) -> bool:
    try:
        return bool(op(left, right))
    except TypeError:
        reason = f"{source!r} compares text with a number: {left!r} and {right!r}"
        raise InputError(f"{reason}; write text in quotes, numbers without") from None


def _value(node: ast.expr, columns: list[str]) -> Callable[[Mapping[str, Any]], Any]:
    constant = _constant(node)
    if constant is not None:
        return lambda _: constant
    if not isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
        raise InputError(f"{ast.unparse(node)!r} is neither a column nor a number nor quoted text; {EXAMPLE}")
    # ndcg_at_10[my-data] reads as a subtraction; the column's name has no spaces.
    name = ast.unparse(node).replace(" ", "")
    if name not in columns:
        raise InputError(f"unknown column {name!r}; {suggest(name, columns)}")
    return lambda row: math.nan if row[name] is None else row[name]


def _constant(node: ast.expr) -> float | str | bool | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _constant(node.operand)
        return -inner if isinstance(inner, int | float) else None
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        return node.value
    return None


def _complete(run: Run) -> list[TrialRecord]:
    records = [r for r in run.results() if r.complete]
    if not records:
        raise InputError(f"no trial of {run.folder} is complete yet; export when the search has finished one")
    return records


def _why(run: Run, trial: str) -> str:
    return f"failed ({run.result(trial).reason})" if run.finished(trial) else "not finished"


def _nearest(trial: str, known: list[str]) -> str:
    if trial.isdigit():
        near = sorted(known, key=lambda k: (abs(int(k) - int(trial)), k))[:3]
    else:
        near = difflib.get_close_matches(trial, known, n=3, cutoff=0.0)
    return f"the nearest are {', '.join(sorted(near))}"


def _with_weights(run: Run, records: list[TrialRecord]) -> str:
    kept = [r.trial for r in records if run.has_weights(r.trial)]
    keep = "a search keeps those of every trial with search.keep_weights=all"
    return f"trials with weights: {', '.join(kept) or 'none'} ({keep})"
