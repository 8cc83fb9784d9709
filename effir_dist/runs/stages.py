"""Trials of a stage beside the others: what they are called, and of a trial and its full recovery which one counts."""

from __future__ import annotations

from collections.abc import Iterable

from effir_dist.core.measures import QUALITY
from effir_dist.runs.records import TrialRecord
from effir_dist.runs.trial_spec import FULL_RECOVERY


def stage_text(stage: str, continues: str) -> str:
    """'base' or 'recovery of 0005'; empty for the search's own trials. Both are as in a TrialSpec."""
    return f"recovery of {continues}" if stage == FULL_RECOVERY else stage


def outdone(records: Iterable[TrialRecord]) -> set[str]:
    """Of each trial and its full recovery the one that scored worse: they are the same plan, so a front lists one.

    Objectives alone do not tell: a speed that is measured twice differs. records: scored, one a trial (`pooled`).
    """
    known = {record.trial: record for record in records}
    found = set()
    for record in known.values():
        before = known.get(record.spec.continues)
        if before is not None:
            better = record.values[QUALITY] > before.values[QUALITY]
            found.add(before.trial if better else record.trial)
    return found
