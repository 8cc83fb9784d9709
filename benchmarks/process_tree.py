"""Wall time and peak memory of a command with all its children: python -m benchmarks.process_tree make search

Memory is the sum of the processes' proportional set sizes, sampled every half second: shared pages count once.
"""

from __future__ import annotations

import subprocess
import sys
import time

import psutil


def tree_bytes(root: psutil.Process) -> int:
    """Proportional set size of a process and its children, bytes."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return total


def main() -> None:
    """Run the command, print two figures, pass its exit code on."""
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(sys.argv[1:])
    root = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            peak = max(peak, tree_bytes(root))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.5)
    code = process.wait()
    print(f"{time.monotonic() - started:.0f} s, {peak / 2**30:.2f} GiB at most", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
