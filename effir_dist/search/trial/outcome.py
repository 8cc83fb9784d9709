"""The record of a trial that ended without a score."""

from __future__ import annotations

import socket
from typing import Any

from effir_dist.core.files import now
from effir_dist.models.facts import plan_facts
from effir_dist.models.families.backbones import ModelDict


def failed_record(
    model_config: ModelDict, head: dict[str, Any], reason: str, started: str, dimension: int = 0
) -> dict[str, Any]:
    """The record of a trial that ended without a score. started: ISO time. dimension: as for `plan_facts`."""
    facts = plan_facts(model_config, head, dimension)
    ended = {"started": started, "finished": now(), "host": socket.gethostname()}
    return {**head, "state": "failed", "reason": reason, **facts, **ended}
