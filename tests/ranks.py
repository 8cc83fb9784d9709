"""Ranks of a training as processes of their own, forked from one that has imported what all of them need."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from torch.multiprocessing import start_processes

IMPORTED = ["pytest", "deepspeed", "transformers.models.auto.modeling_auto", "effir_dist.training.trainer"]


def run_ranks(rank: Callable[..., None], *arguments: Any, ranks: int = 2) -> None:
    """Call `rank(number, *arguments)` in as many new processes, and wait. Raises what one of them raised."""
    multiprocessing.set_forkserver_preload(IMPORTED)
    start_processes(rank, arguments, ranks, start_method="forkserver")
