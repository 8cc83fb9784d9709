"""The record of a trial that ended without a score."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from effir_dist.core.files import now
from effir_dist.models.families.base import ModelDict
from effir_dist.runs.records import RungScore, TrialRecord, TrialSpec


def failed_record(
    model_config: ModelDict,
    spec: TrialSpec,
    reason: str,
    started: str,
    dimension: int = 0,
    retried: str = "",
    rungs: Sequence[RungScore] = (),
    earlier_seconds: float = 0.0,
) -> TrialRecord:
    """started: ISO time. dimension: as for `TrialSpec.facts`. retried: why it had been tried again with less memory.
    rungs: what it scored before. earlier_seconds: what it took before it was started, where that is known."""
    return TrialRecord(
        spec=spec,
        state="failed",
        reason=reason,
        facts=spec.facts(model_config, dimension),
        values=spec.values(model_config, dimension),
        started=started,
        finished=now(),
        host=socket.gethostname(),
        retried=retried,
        rungs=tuple(rungs),
        earlier_seconds=earlier_seconds,
    )
