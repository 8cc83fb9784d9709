"""Texts of the live view: times, plans and progress in a few letters."""

from __future__ import annotations

from effir_dist.core.measures import TRIAL_SECONDS
from effir_dist.core.values import Progress
from effir_dist.models.facts import PlanFacts
from effir_dist.runs.records import RungScore, TrialRecord


def duration(seconds: float, coarse: bool = False) -> str:
    """192 -> '3m12s', or '3m' if `coarse`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{round(whole / 60)}m" if coarse else f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def seconds_of(scored: TrialRecord | RungScore) -> float:
    """What a trial, or its way to a rung, took; 0 where that is not known."""
    return float(scored.values.get(TRIAL_SECONDS) or 0.0)


def seconds_text(scored: TrialRecord | RungScore) -> str:
    """The same in words: '12 s'."""
    return f"{seconds_of(scored):.0f} s"


def dropped_text(facts: PlanFacts) -> str:
    """What is dropped: '-2 MLP (0,3) -1 attn (2)', or 'none'."""
    kinds = (("MLP", facts.dropped_mlp), ("attn", facts.dropped_attention))
    gone = [f"-{len(n)} {kind} ({','.join(map(str, n))})" for kind, n in kinds if n]
    return " ".join([*gone, *facts.other_operations]) or "none"


def reason_text(record: TrialRecord) -> str:
    """Why a trial failed, in one line."""
    return " ".join((record.reason or "no reason given").split())


def progress_text(progress: Progress) -> str:
    """How far a trial is: 'train 40/120 loss 0.312'."""
    step = progress.get("step")
    steps = "" if step is None else f"{step}/{progress['steps']}" if progress.get("steps") else f"{step}"
    loss = f"loss {progress['loss']:.3f}" if progress.get("loss") is not None else ""
    return " ".join(filter(None, [str(progress.get("phase", "starting")), steps, loss]))
