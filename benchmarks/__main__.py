"""All speed benchmarks: python -m benchmarks [--gpu] [--minutes 8] [--only encoding,search] [--small]

Writes reports/speed/cpu.json or gpu.json, a row at a time, and reports/speed.md from what is in that folder. With --gpu
it needs torch, transformers, deepspeed and this project, and no Ray; what else is compared with is left out where it is
missing. A machine without the packages of MiniLM and the built-in data needs the folder that `python -m
benchmarks.carry` makes.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.speed import frame, gpu, machine, models, report, watched
from effir_dist.core.errors import InputError, command
from effir_dist.core.files import read_json, write_json_atomic, write_text_atomic

BEGUN = time.monotonic()
FOLDER, SMALL = Path("reports/speed"), Path("runs/small/speed")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    shown = argparse.RawDescriptionHelpFormatter
    result = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=shown)
    result.add_argument("--gpu", action="store_true", help="measure on the GPU (default: on the CPU)")
    result.add_argument("--minutes", type=float, default=0, help="in which all ends (default: 8 with --gpu, else 15)")
    result.add_argument("--seconds", help=argparse.SUPPRESS)
    result.add_argument("--only", default=",".join(frame.SUBJECTS), help="subjects (default: %(default)s)")
    result.add_argument("--small", action="store_true", help="tiny sizes, to see that everything runs; on any machine")
    result.add_argument(
        "--missing", action="store_true", help="with --gpu: the cases alone that the JSON does not have"
    )
    result.add_argument("--threads", type=int, default=1, help="of the CPU (default: %(default)s)")
    result.add_argument("--out", type=Path, help=f"folder of the JSON (default: {FOLDER}; with --small {SMALL})")
    result.add_argument("--table", action="store_true", help="measure nothing: write the report of what is there")
    return result


@command
def main() -> None:
    arguments = parser().parse_args()
    if arguments.seconds is not None:
        raise InputError(f"--seconds {arguments.seconds} is now --minutes, a sixtieth of it")
    folder = arguments.out or (SMALL if arguments.small else FOLDER)
    if not arguments.table:
        run(arguments, folder)
    write_text_atomic(folder.with_suffix(".md"), report.render(folder))
    print(f"wrote {folder.with_suffix('.md')}", flush=True)


def run(arguments: argparse.Namespace, folder: Path) -> None:
    """Measure every subject asked for. The JSON is written anew after each row, and keeps what is not measured anew."""
    import torch

    subjects = arguments.only.split(",")
    unknown = [name for name in subjects if name not in frame.SUBJECTS]
    if unknown:
        raise InputError(f"--only names {unknown[0]!r}; known: {', '.join(frame.SUBJECTS)}")
    if arguments.gpu and not (arguments.small or torch.cuda.is_available()):
        raise InputError("--gpu needs a CUDA GPU, and torch sees none; leave it out, or add --small to rehearse it")
    if arguments.gpu:
        models.check_here()
    torch.set_num_threads(arguments.threads)
    options = frame.Options(arguments.gpu, arguments.small, arguments.threads)
    seconds = 60 * (arguments.minutes or (8 if arguments.gpu else 15)) - (time.monotonic() - BEGUN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what measures ends with this process
    kept = Kept(folder / f"{'gpu' if options.gpu else 'cpu'}.json")
    keys = [key for key in gpu.keys(subjects) if not (arguments.missing and key in kept.measured)]
    found = watched.rows(keys, options, seconds, _say) if options.gpu else _cpu(subjects, options, seconds)
    run_of = machine.run(" ".join(["python -m benchmarks", *sys.argv[1:]]))
    for row in found:
        kept.add(row | {"run": run_of | {"load_after": machine.load()}})


class Kept:
    """The rows of a file: those of earlier runs until what they are of is measured anew."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: list[dict[str, Any]] = read_json(file)["rows"] if file.is_file() else []
        self.measured = {_of(row) for row in self.rows if row["variants"]}
        self._anew: set[str] = set()

    def add(self, row: dict[str, Any]) -> None:
        """Write the file with one more row. What there was no time for leaves earlier figures as they are."""
        what = _of(row)
        if not row.get("begun", True) and what in self.measured:
            return
        if what not in self._anew:
            self.rows = [old for old in self.rows if not _replaced(old, row)]
            self._anew.add(what)
        order = list(frame.SUBJECTS)
        self.rows = sorted([*self.rows, row], key=lambda each: order.index(each["subject"]))
        write_json_atomic(self.file, {"machine": machine.describe(), "rows": self.rows})


def _of(row: dict[str, Any]) -> str:
    """What a row is of: a case on a GPU, a subject on a CPU."""
    return str(row.get("key", row["subject"]))


def _replaced(old: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether a row takes an earlier one's place. Those of versions that named no cases are of their whole subject."""
    if old["subject"] != row["subject"]:
        return False
    return _of(old) == _of(row) or (_of(old) == row["subject"] and row.get("begun", True))


def _cpu(subjects: list[str], options: frame.Options, seconds: float) -> Iterator[dict[str, Any]]:
    """Subject by subject, each with its share of the time that is left."""
    until = time.perf_counter() + seconds
    for number, subject in enumerate(subjects):
        shares = [frame.SUBJECTS[name] for name in subjects[number:]]
        if importlib.util.find_spec(f"benchmarks.speed.{subject}") is None:
            _say(f"{subject}: not here")
            continue
        share = (until - time.perf_counter()) * shares[0] / sum(shares)
        try:
            yield from frame.rows(subject, options, share, _say)
        except frame.ERRORS as error:
            _say(f"{subject}: stopped by {frame.reason(error)}")


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    main()
