"""Speed and memory of a pruned model by one fixed protocol, next to the unpruned model in the same process.

Seconds differ from machine to machine, and on one machine from hour to hour. So both models run in turns on the same
token ids, and trials of different machines are compared by the ratio. A single query gives the latency, a batch of
documents the throughput. Lengths, batch size and repeats are `score.speed_*`.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from effir_dist.core.settings import ScoreConfig
from effir_dist.models.encoder import Encoder

WARM_UP = 2
"""Passes of each model that are not timed."""
LEAST_SECONDS = 0.02
"""A faster pass is timed several times in a row, for the resolution of the clock."""


@dataclass(frozen=True)
class _Timed:
    pruned: float
    unpruned: float
    """Seconds of a pass, medians."""
    ratio: float
    """unpruned / pruned: the median over pairs that ran one after the other."""
    quartiles: list[float]
    """The lower and the upper quartile of that ratio."""


@dataclass(frozen=True)
class Speed:
    """What a record holds of speed and memory."""

    values: Mapping[str, float] = field(default_factory=dict)
    """Measure -> number (core/measures.py)."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """What it was measured with, and the unpruned model's own figures."""


def measure(encoder: Encoder, unpruned: Encoder, config: ScoreConfig) -> Speed:
    """Both encoders on one device, in the dtype that they serve in. Dropout and training are off; nothing of the
    encoders changes."""
    query = _ids(encoder, 1, config.speed_query_length)
    documents = _ids(encoder, config.speed_batch, config.speed_document_length)
    with torch.inference_mode():
        one = _in_turns(encoder, unpruned, query, config.speed_repeats)
        many = _in_turns(encoder, unpruned, documents, config.speed_repeats)
    values = {
        "query_latency_ms": 1e3 * one.pruned,
        "query_speedup": one.ratio,
        "batch_documents_per_second": config.speed_batch / many.pruned,
        "document_speedup": many.ratio,
        "memory_bytes": peak_tensor_bytes(encoder, documents),
        "full_memory_bytes": peak_tensor_bytes(unpruned, documents),
    }
    return Speed(values, _protocol(encoder, config, one, many))


def _protocol(encoder: Encoder, config: ScoreConfig, one: _Timed, many: _Timed) -> dict[str, Any]:
    device = encoder.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return {
        "query_tokens": config.speed_query_length,
        "document_tokens": config.speed_document_length,
        "documents": config.speed_batch,
        "warm_up": WARM_UP,
        "repeats": config.speed_repeats,
        "dtype": str(next(encoder.parameters()).dtype).removeprefix("torch."),
        "device": name,
        "query_speedup_quartiles": one.quartiles,
        "document_speedup_quartiles": many.quartiles,
        "unpruned_query_latency_ms": 1e3 * one.unpruned,
        "unpruned_documents_per_second": config.speed_batch / many.unpruned,
    }


def _ids(encoder: Encoder, count: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random token ids [B, T], the same in every trial, and a mask without padding."""
    words = np.random.default_rng(0).integers(0, int(encoder.model_config["vocab_size"]), (count, length))
    ids = torch.from_numpy(words).to(encoder.device)
    return ids, torch.ones_like(ids)


def _in_turns(encoder: Encoder, unpruned: Encoder, batch: tuple[torch.Tensor, torch.Tensor], repeats: int) -> _Timed:
    def once(model: Encoder) -> Callable[[], Any]:
        return lambda: model(*batch)

    both = (once(encoder), once(unpruned))
    for run in both:
        for _ in range(WARM_UP):
            seconds = _seconds(run, 1, encoder.device)
    times = max(1, min(50, round(LEAST_SECONDS / max(seconds, 1e-6))))
    pairs = []
    for turn in range(repeats):
        # They take turns to be first, so that neither always finds the other's data in the caches.
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        found = {which: _seconds(both[which], times, encoder.device) / times for which in order}
        pairs.append((found[0], found[1]))
    table = np.array(pairs)
    pruned, full = np.median(table, axis=0).tolist()
    low, middle, high = np.quantile(table[:, 1] / table[:, 0], [0.25, 0.5, 0.75]).tolist()
    return _Timed(pruned, full, middle, [low, high])


def _seconds(run: Callable[[], Any], times: int, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(times):
        run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_tensor_bytes(encoder: Encoder, batch: tuple[torch.Tensor, torch.Tensor]) -> int:
    """Bytes of the weights and, at their peak, of the tensors that encode `batch`. The same on every machine.

    Workspace of kernels and reserves of the allocator are left out.
    """
    weights = sum(t.numel() * t.element_size() for t in (*encoder.parameters(), *encoder.buffers()))
    with torch.no_grad(), _Live() as live:
        encoder(*batch)
    return weights + live.most


class _Live(TorchDispatchMode):
    """Counts the bytes of all storages that operations allocate and that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What shares an argument's storage is a view of it, or the argument itself.
        old = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and id(tensor.untyped_storage()) not in old:
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: Any) -> None:
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.now -= size
