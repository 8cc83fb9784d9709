"""Environment variables of processes that compute beside others, set before torch and Ray read them."""

from __future__ import annotations

import os

SHARED = {"OMP_WAIT_POLICY": "PASSIVE", "RAY_worker_niceness": "0"}
"""OpenMP's threads sleep where they wait for each other: one that spins takes the core from the one it waits for. Ray's
workers have normal priority: with Ray's own, 15, one busy process leaves them a thirtieth of its core."""


def share_the_machine() -> None:
    """Let computing go on beside other processes; what the user's environment says stays.

    For processes that have not loaded OpenMP, which reads its variable when torch is imported, and for the Ray and
    the processes that they start.
    """
    for name, value in SHARED.items():
        os.environ.setdefault(name, value)
