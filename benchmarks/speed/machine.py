"""What a measurement was made on."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

UNITS = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512f", "avx2")
"""Of a processor's flags, those that decide how fast matrices are multiplied."""
PACKAGES = ("torch", "transformers", "sentence-transformers", "deepspeed", "faiss-cpu", "faiss-gpu", "peft")


def describe() -> dict[str, Any]:
    """Processor, GPU and versions, as plain data."""
    import torch

    cpu = _cpu()
    found = {
        "cpu": cpu.get("model name", platform.processor()),
        "matrix_units": [unit for unit in UNITS if unit in cpu.get("flags", "").split()],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES if _version(name)},
    }
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        found["gpu"] = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
    return found


def run(command: str) -> dict[str, Any]:
    """What one measuring was: when, of which commit, on how busy a machine."""
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {"command": command, "date": date, "commit": _commit(), "load": load()}


def load() -> float:
    """Processes that wanted a core, mean of the last minute."""
    return os.getloadavg()[0]


def _cpu() -> dict[str, str]:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().split("\n\n")[0].splitlines() if file.is_file() else []
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    """The commit measured; empty where this is no checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def waits(work: Callable[[], object]) -> int:
    """How often Python waits for the GPU in a piece of work, by torch's own count; where, goes to stderr."""
    import torch

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = Counter(f"{w.filename}:{w.lineno}" for w in found if "synchroniz" in str(w.message))
    print("waits:", dict(places.most_common(12)), file=sys.stderr, flush=True)
    return places.total()


def allocated() -> int:
    """Bytes of tensors on the GPU; from now on their most is looked for. 0 without one."""
    import torch

    if not torch.cuda.is_available():
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def used_since(begin: int) -> dict[str, float]:
    """What was in use at most on top of the `begin` bytes of weights and optimizers; nothing without a GPU."""
    import torch

    return {"working_bytes": float(torch.cuda.max_memory_allocated() - begin)} if torch.cuda.is_available() else {}
