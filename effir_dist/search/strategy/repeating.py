"""`--repeat N`: which trials are to be run again with other training seeds, so that each point of the front has N."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from effir_dist.core.settings import RunConfig
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import TrialRecord, TrialSpec
from effir_dist.runs.repeats import groups, seeds_used
from effir_dist.runs.run_folder import Run


def pending_repeats(run: Run) -> list[TrialSpec]:
    """The repeats that were started and have no record, by number."""
    return [spec for spec in run.pending() if spec.repeat_of]


def repeat_specs(run: Run, config: RunConfig, wanted: int) -> list[TrialSpec]:
    """What to run so that each trial on the front has `wanted` repeats: the unfinished ones first, then new ones.

    Each names the trial that it repeats, and has a `train.seed` that none of that trial's runs had. A repeat that
    failed counts as one: its seed would fail again.
    """
    records, found = run.results(), pending_repeats(run)
    known = [*(record.spec for record in records), *found]
    number = run.next_number()
    for original in [record.spec for record in Goal.of(config.search).front(records)]:
        repeats = [spec for spec in known if spec.repeat_of == original.trial]
        for seed in _new_seeds([original, *repeats], config.train.seed, wanted - len(repeats)):
            found.append(again(original, number, seed, repeat_of=original.trial))
            number += 1
    return found


def _new_seeds(specs: Sequence[TrialSpec], own: int, count: int) -> list[int]:
    """Seeds after the run's own that none of these trials had."""
    used, found, seed = seeds_used(specs, own), list[int](), own
    while len(found) < count:
        seed += 1
        if seed not in used:
            found.append(seed)
    return found


def again(original: TrialSpec, number: int, seed: int, **more: Any) -> TrialSpec:
    """A new trial of the same plan and settings with another training seed. more: fields of it that differ too."""
    idle = None if original.idle is None else tuple(name for name in original.idle if name != "train.seed")
    suggested = {**original.suggested, "train.seed": seed}
    found = TrialSpec(number, suggested, original.distributions, original.plan, idle=idle)
    return dataclasses.replace(found, **{"stage": original.stage, "continues": original.continues, **more})


def with_repeats(records: Sequence[TrialRecord], trials: set[str]) -> list[str]:
    """Trials and their repeats, by number."""
    return sorted(r.trial for trial, group in groups(records).items() if trial in trials for r in group)


def repeats_line(records: Sequence[TrialRecord], goal: Goal, wanted: int) -> str:
    """What a user should know after repeats: whether the front moved to trials that were not repeated."""
    grouped = groups(records)
    left = [r.trial for r in goal.front(records) if len(grouped[r.trial]) < 1 + wanted]
    if not left:
        return ""
    return f"means over seeds moved the front: {', '.join(left)} lack repeats; --repeat {wanted} again"
