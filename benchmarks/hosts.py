"""Three test hosts against one, on trials that only wait: python -m benchmarks.hosts [--trials 24] [--seconds 30]

Needs root and what `tests/hosts.py` names. The hosts share cores, so nothing is computed. Prints, as JSON,
wall seconds of N trials on three hosts and of N/3 on one, their ratio (1 is ideal), the driver's share of a processor,
and the seconds from `ray up` to the first trial.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from tests import hosts

SHARE = Path("/var/tmp/effir-benchmark")
"""The hosts share all of the file system but /tmp and their homes."""


def measure(name: str, trials: int, seconds: float, more: str = "") -> dict[str, Any]:
    """`benchmarks.cluster` on the head."""
    command = f"cd ~/effir_dist && python -m benchmarks.cluster {SHARE}/{name} --trials {trials} --seconds {seconds:g}"
    return dict(json.loads(hosts.on(1, f"{command} {more}", 3600).splitlines()[-1]))


def main() -> None:
    """Print the measurement."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts", description=__doc__)
    parser.add_argument("--trials", type=int, default=24, help="on three hosts; a third of it on one (default: 24)")
    parser.add_argument("--seconds", type=float, default=30.0, help="that a trial waits (default: 30)")
    args = parser.parse_args()
    before = time.time()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch, hosts.up(Path(scratch), SHARE):
        stamp = f"{int(before)}"
        hosts.wait_until(lambda: len(hosts.nodes()) == hosts.COUNT, "every declared node is up", 300)
        warm = measure(f"{stamp}-warm", hosts.COUNT * 2, 1.0, "--address auto")
        three = measure(f"{stamp}-three", args.trials, args.seconds, "--address auto")
        one = measure(f"{stamp}-one", args.trials // hosts.COUNT, args.seconds)
    found = {"three_hosts": three, "one_host": one, "efficiency": round(one["wall_seconds"] / three["wall_seconds"], 3)}
    print(json.dumps({**found, "seconds_from_ray_up_to_first_trial": round(warm["first_trial_started"] - before)}))


if __name__ == "__main__":
    main()
