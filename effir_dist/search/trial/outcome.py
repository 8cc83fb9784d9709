"""The record of a trial that ended without a score."""

from __future__ import annotations

import socket

from effir_dist.core.files import now
from effir_dist.models.families.base import ModelDict
from effir_dist.runs.records import TrialRecord, TrialSpec


def failed_record(
    model_config: ModelDict, spec: TrialSpec, reason: str, started: str, dimension: int = 0, retried: str = ""
) -> TrialRecord:
    """started: ISO time. dimension: as for `TrialSpec.facts`. retried: why it had been tried again with less memory."""
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
    )
