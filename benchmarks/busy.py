"""Training on a machine that is busy with something else: python -m benchmarks.busy [--steps 12] [--rounds 2]

MiniLM is trained in a Ray worker with two threads on two cores, alone and beside busy loops, with the environment that
`core/environment.py` sets and with what Ray and OpenMP do otherwise, interleaved. Every training has a Ray of its own.
Prints seconds of the steps, and how many times as long they take beside the loops.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

CORES = 2
BATCH = 32
LENGTH = 128
OTHERWISE = {"RAY_worker_niceness": "15", "GOMP_SPINCOUNT": "300000"}
"""What Ray and GNU's OpenMP take where nobody says anything: a thread spins so often before it sleeps."""
KINDS: dict[str, dict[str, str]] = {"with ours": {}, "without": OTHERWISE}


def train(steps: int) -> float:
    """Seconds of that many steps, after one for warming up. In a Ray worker."""
    from benchmarks.speed import trained, training
    from benchmarks.speed.frame import Options

    with trained.scratch() as folder:
        model = trained.minilm(Path(folder))
        for count in (1, steps):
            case = training.Case("minilm", model, BATCH, count, {}, LENGTH)
            with training.ours(case, Options(threads=CORES), trained.pairs(BATCH * count)) as (variant, _):
                begun = time.perf_counter()
                variant.run()
                taken = time.perf_counter() - begun
    return taken


def in_a_worker(steps: int) -> float:
    """The same in a Ray of its own, as a trial is run there."""
    from effir_dist.search.cluster import calls, connection
    from effir_dist.search.cluster.resources import Resources

    with connection.cluster(None):
        return float(calls.call(train, Resources(1, CORES, 0, 1), steps)())


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Processes of normal priority that do nothing, without a pause."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measured(environment: dict[str, str], loops: int, steps: int) -> float:
    """Seconds of the steps in a new process with this environment, beside so many busy loops."""
    known = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", *OTHERWISE)}
    command = [sys.executable, "-m", "benchmarks.busy", "--one", "--steps", str(steps)]
    with busy_loops(loops):
        done = subprocess.run(command, env={**known, **environment}, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Print the table, a line a training as it is done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.busy", description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--loops", type=int, default=1, help="busy processes (default: %(default)s)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if args.one:
        print(in_a_worker(args.steps))
        return
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(args.rounds):
        for loops in (0, args.loops):
            for name, environment in KINDS.items():
                taken = measured(environment, loops, args.steps)
                found.setdefault((name, loops), []).append(taken)
                print(f"{name}, {loops} busy: {args.steps} steps in {taken:.1f} s", flush=True)
    for name in KINDS:
        alone, beside = (statistics.median(found[name, loops]) for loops in (0, args.loops))
        print(f"{name}: alone {alone:.1f} s, beside {args.loops} busy {beside:.1f} s, {beside / alone:.1f} times")


if __name__ == "__main__":
    main()
