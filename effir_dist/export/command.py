"""`python -m effir_dist.export runs/NAME --trial ID OUT`: a trial's model as one folder that other tools load."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from effir_dist.core.errors import InputError, command
from effir_dist.core.files import TEMPORARY, disk_errors, write_json_atomic, write_text_atomic
from effir_dist.core.measures import MEASURES, QUALITY, SIZE, SIZE_SHARE
from effir_dist.core.storage import is_remote, names, place, read_locally
from effir_dist.core.values import Json
from effir_dist.core.wrapping import for_screen
from effir_dist.export.hub import push
from effir_dist.export.selection import best, by_id, safe
from effir_dist.runs.records import TrialRecord
from effir_dist.runs.run_folder import Run

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder

EPILOG = """
EXPRESSION compares columns of the run's trials.csv with numbers or "text" by <=, <, >=, >, == and !=, joined by and,
or, not and parentheses: "parameters_fraction <= 0.5", "parameters < 20e6 and test_ndcg_at_10 > 0.6". Of the complete
trials with weights that satisfy it, the one of the highest nDCG@10 on the search's queries is exported.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m effir_dist.export",
        description="Write a trial's model to a folder that loads in sentence-transformers, transformers and vLLM.",
        epilog=EPILOG,
    )
    result.add_argument("run", help="run folder or bucket, for example runs/demo")
    which = result.add_mutually_exclusive_group(required=True)
    which.add_argument("--trial", metavar="ID", help="which trial, for example 0003")
    which.add_argument("--best", metavar="EXPRESSION", help="the best trial that satisfies it, see below")
    which.add_argument("--safe", action="store_true", help="the smallest safe model, as the report names it")
    result.add_argument("out", metavar="OUT", help="folder to write; new or empty")
    result.add_argument("--onnx", action="store_true", help="write onnx/encoder.onnx too")
    result.add_argument(
        "--int8", action="store_true", help="with --onnx: an int8 version too, its nDCG@10 measured on the run's data"
    )
    result.add_argument("--push-to-hub", metavar="REPO", help="then upload the folder to this model repository")
    return result


@command
def main() -> None:
    arguments = parser().parse_args()
    if arguments.int8 and not arguments.onnx:
        raise InputError("--int8 quantises the ONNX model; add --onnx")
    run, out = Run.open(arguments.run), place(arguments.out)
    record = _chosen(run, arguments)
    # DeepSpeed, which transformers imports, logs to stdout; that is for what was written.
    with contextlib.redirect_stdout(sys.stderr):
        export(run, record, out, arguments.onnx, arguments.int8)
    size, share, quality = (MEASURES[name].text(record.value(name)) for name in (SIZE, SIZE_SHARE, QUALITY))
    facts = f"{size} {MEASURES[SIZE].label} ({share}), {MEASURES[QUALITY].label} {quality}"
    print(for_screen(f"wrote trial {record.trial} of {run.name} to {out}: {facts}", sys.stdout), flush=True)
    if arguments.push_to_hub:
        print(f"uploaded to {push(out, arguments.push_to_hub)}")


def _chosen(run: Run, arguments: argparse.Namespace) -> TrialRecord:
    if arguments.safe:
        return safe(run)
    return by_id(run, arguments.trial) if arguments.trial else best(run, arguments.best)


def _require_empty(out: Path) -> None:
    if is_remote(out):
        raise InputError(f"the output folder must be on this machine, got {out}; copy it to the bucket afterwards")
    if out.is_file() or names(out):
        raise InputError(f"the output folder {out} is not empty; choose a new one, or remove what is in it")


def export(run: Run, record: TrialRecord, out: Path, onnx: bool = False, int8: bool = False) -> None:
    """Write the model of a trial (its record) to the new or empty folder `out`: all files, or none.

    Raises InputError for weights that do not fit their plan, and where `out` cannot be written.
    """
    from effir_dist.export.model_card import model_card
    from effir_dist.export.model_folder import write_folder
    from effir_dist.models.encoder import load_encoder

    _require_empty(out)
    with read_locally(run.trial_folder(record.trial)) as folder:
        encoder = load_encoder(str(folder), "stored").to("cpu")
    with _all_or_nothing(out) as partial, disk_errors(out / "model.safetensors"):
        dtype = str(next(encoder.parameters()).dtype).removeprefix("torch.")
        about = {"run": run.name, "trial": record.trial, SIZE: record.values[SIZE]}
        write_folder(encoder, partial, dtype, about)
        quantised = _write_onnx(run, encoder, partial, int8) if onnx else {}
        write_text_atomic(partial / "README.md", model_card(run, record, encoder, quantised, onnx))


def _write_onnx(run: Run, encoder: Encoder, folder: Path, int8: bool) -> Json:
    """Write onnx/*; returns what int8 costs, where that is asked for."""
    from effir_dist.export.onnx_model import measure_int8, write_int8, write_onnx

    model = write_onnx(encoder, folder / "onnx")
    if not int8:
        return {}
    measured = measure_int8(run, encoder, model, write_int8(model))
    write_json_atomic(folder / "onnx" / "int8.json", measured)
    return measured


@contextlib.contextmanager
def _all_or_nothing(out: Path) -> Iterator[Path]:
    """A folder beside `out` that is renamed to `out` when the block ends, and removed where it raises an error."""
    out = out.absolute()
    partial = out.with_name(f"{TEMPORARY}{out.name}")
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    try:
        yield partial
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
