"""All speed benchmarks: python -m benchmarks [--gpu] [--seconds 600] [--only encoding,search] [--small]

Writes reports/speed/cpu.json or gpu.json, a row at a time, and reports/speed.md from what is in that folder. With --gpu
it needs torch, transformers, deepspeed and this project; what else is compared with is left out where it is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.speed import frame, machine, report
from effir_dist.core.errors import InputError, command
from effir_dist.core.files import read_json, write_json_atomic, write_text_atomic

FOLDER = Path("reports/speed")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    result.add_argument("--gpu", action="store_true", help="measure on the GPU (default: on the CPU)")
    result.add_argument("--seconds", type=float, default=900, help="in which all should end (default: %(default)s)")
    result.add_argument("--only", default=",".join(frame.SUBJECTS), help="subjects (default: %(default)s)")
    result.add_argument("--small", action="store_true", help="tiny sizes, to see that everything runs")
    result.add_argument("--threads", type=int, default=1, help="of the CPU (default: %(default)s)")
    result.add_argument("--out", type=Path, default=FOLDER, help="folder of the JSON (default: %(default)s)")
    result.add_argument("--table", action="store_true", help="measure nothing: write the report of what is there")
    return result


@command
def main() -> None:
    arguments = parser().parse_args()
    if not arguments.table:
        run(arguments)
    text = report.render(arguments.out)
    write_text_atomic(arguments.out.with_suffix(".md"), text)
    print(f"wrote {arguments.out.with_suffix('.md')}", flush=True)


def run(arguments: argparse.Namespace) -> None:
    """Measure every subject asked for. The JSON is written anew after each row, and keeps other subjects' rows."""
    import torch

    subjects = arguments.only.split(",")
    unknown = [name for name in subjects if name not in frame.SUBJECTS]
    if unknown:
        raise InputError(f"--only names {unknown[0]!r}; known: {', '.join(frame.SUBJECTS)}")
    if arguments.gpu and not torch.cuda.is_available():
        raise InputError("--gpu needs a CUDA GPU, and torch sees none; leave it out to measure the CPU")
    torch.set_num_threads(arguments.threads)
    options = frame.Options(arguments.gpu, arguments.small, arguments.threads)
    file = arguments.out / f"{'gpu' if arguments.gpu else 'cpu'}.json"
    run_of = machine.run(" ".join(["python -m benchmarks", *sys.argv[1:]]))
    kept = read_json(file)["rows"] if file.is_file() else []
    until = time.perf_counter() + arguments.seconds
    for number, subject in enumerate(subjects):
        shares = [frame.SUBJECTS[name] for name in subjects[number:]]
        if importlib.util.find_spec(f"benchmarks.speed.{subject}") is None:
            _say(f"{subject}: not here")
            continue
        others = [row for row in kept if row["subject"] != subject]
        seconds = (until - time.perf_counter()) * shares[0] / sum(shares)
        try:
            for row in frame.rows(subject, options, seconds, _say):
                kept = others = [*others, row | {"run": run_of | {"load_after": machine.load()}}]
                _write(file, {"machine": machine.describe(), "rows": kept})
        except frame.ERRORS as error:
            _say(f"{subject}: stopped by {frame.reason(error)}")


def _write(file: Path, result: dict[str, Any]) -> None:
    order = list(frame.SUBJECTS)
    rows = sorted(result["rows"], key=lambda row: order.index(row["subject"]))
    write_json_atomic(file, {**result, "rows": rows})


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    main()
