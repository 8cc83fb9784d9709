"""What a measurement was made on."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
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
