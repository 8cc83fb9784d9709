"""What a trial, the preparation and the scoring of the front do where memory runs out: the same with less, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from effir_dist.core.config import replace
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig
from effir_dist.search.trial.costs import peak_memory, release_memory
from effir_dist.search.trial.faults import wants_memory

T = TypeVar("T")
OUT_OF_MEMORY = "out of memory"


def failure_reason(error: BaseException) -> str | None:
    """Why a trial failed, where that is an outcome of the trial; None for anything else, such as a bug."""
    text = str(error)
    if wants_memory(error):
        return f"{OUT_OF_MEMORY} at a peak of {peak_memory() / 2**30:.1f} GiB: {text.splitlines()[0] if text else ''}"
    if isinstance(error, FloatingPointError):
        return f"not a number: {text}"
    return None


def in_less_memory(config: RunConfig) -> RunConfig:
    """Settings that compute the same in less memory, and take longer: small chunks, activations computed again."""
    share = config.worker_queries
    less: dict[str, Any] = {"train.gradient_checkpointing": True}
    if config.train.gradcache_tokens:
        less["train.gradcache_tokens"] = max(1, config.train.gradcache_tokens // 8)
    else:
        less["train.gradcache_queries"] = max(1, min(config.train.gradcache_queries or share, share) // 8)
    return replace(config, {**less, "score.batch_tokens": max(1, (config.score.batch_tokens or 4096) // 8)})


def tried_with_less(work: Callable[[RunConfig], T], config: RunConfig, what: str, advice: str) -> T:
    """work(config), and with `in_less_memory` of it where memory runs out. what: the work, in words; advice: what to do
    where memory runs out again, for which it raises InputError."""
    try:
        return work(config)
    except (RuntimeError, MemoryError) as error:
        print(f"{what}: {_out_of_memory(error)}; once more with less memory")
    release_memory()
    try:
        return work(in_less_memory(config))
    except (RuntimeError, MemoryError) as error:
        raise InputError(f"{what}: {_out_of_memory(error)}, with little memory too; {advice}") from None


def _out_of_memory(error: RuntimeError | MemoryError) -> str:
    """The reason in words. Raises the error where it is another."""
    reason = failure_reason(error)
    if reason is None or not reason.startswith(OUT_OF_MEMORY):
        raise error
    return reason
