"""`python -m effir_dist.evaluate MODEL --data DIR`: the metrics of a backbone, a checkpoint or a pruned model."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from effir_dist.core.errors import InputError, check_least, command
from effir_dist.core.measures import MEASURES, METRICS
from effir_dist.core.output import add_quiet, silenced
from effir_dist.core.values import Json
from effir_dist.core.wrapping import for_screen
from effir_dist.evaluate.comparison import differences
from effir_dist.evaluate.encode import add_options
from effir_dist.models import own_code

if TYPE_CHECKING:
    from effir_dist.evaluate.evaluation import Retriever

KINDS = ("query", "document")
DATA = "BEIR-format folder, pydocs, beir:NAME, hf:ORG/NAME or mteb:TASK"
COLUMNS = {name: MEASURES[name].label for name in METRICS}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m effir_dist.evaluate",
        description="Evaluate a retriever by exact search: nDCG@10, Recall@100 and MRR@10, times 100.",
    )
    result.add_argument(
        "model",
        help="name of a backbone (minilm), hub id, or folder of a checkpoint, of a trial, of an export or of any "
        "sentence-transformers model",
    )
    own_code.add_option(result)
    result.add_argument("--data", action="append", required=True, metavar="DIR", help=f"{DATA}; repeatable")
    result.add_argument("--split", default="test", help="qrels/SPLIT.tsv to evaluate on (default: %(default)s)")
    add_options(result, "float32")
    for kind in KINDS:
        result.add_argument(
            f"--max-{kind}-length", type=int, metavar="N", help=f"tokens kept of a {kind} (default: the model's own)"
        )
    result.add_argument("--against", metavar="MODEL", help="another model: prints paired differences with intervals")
    result.add_argument("--json", type=Path, metavar="FILE", help="write all of it there, each query's metrics too")
    result.add_argument("--csv", type=Path, metavar="FILE", help="write the metrics of each query")
    add_quiet(result)
    result.add_argument("--run-files", type=Path, metavar="DIR", help="write a TREC run file a data set, NAME.trec")
    return result


@command
def main() -> None:
    arguments = parser().parse_args()
    _check(arguments)
    # DeepSpeed, which transformers imports, logs to stdout; that is for the table.
    with silenced(arguments.quiet), contextlib.redirect_stdout(sys.stderr):
        result = evaluate(arguments)
    print(table(result))
    if arguments.against:
        print(f"\n{difference_table(result)}")
    _write_files(arguments, result)


def evaluate(arguments: argparse.Namespace) -> Json:
    """Evaluate the model on each data set. Returns what `--json` writes, and in each data set `ranked` as well.

    {"model", "split", "dtype", "max_query_length", "max_document_length", "datasets": {name: {"path", "queries",
    "documents", the metrics, "seconds", "per_query": {query id: metrics}}}, "mean": metrics}, and with --against
    "against": the same of the other model, "difference": {data set, and "mean" of several: {metric: {"value", "low",
    "high"}}}. Raises InputError for a model or data that cannot be read, and for a model whose vectors are not finite.
    """
    paths = _by_name(arguments.data, arguments.split)
    result = _evaluate_one(arguments.model, paths, arguments)
    if arguments.against:
        result["against"] = _evaluate_one(arguments.against, paths, arguments)
        result["difference"] = differences(result["datasets"], result["against"]["datasets"])
    return result


def _evaluate_one(model: str, paths: dict[str, str], arguments: argparse.Namespace) -> Json:
    from effir_dist.evaluate.metrics import mean
    from effir_dist.models.encoder import resolve_dtype

    dtype = resolve_dtype(arguments.dtype)
    retriever, lengths = _load(model, dtype, arguments)
    datasets = {name: _evaluate_on(model, retriever, path, arguments) for name, path in paths.items()}
    return {
        "model": model,
        "split": arguments.split,
        "dtype": dtype,
        **lengths,
        "datasets": datasets,
        "mean": mean(list(datasets.values())),
    }


def _load(model: str, dtype: str, arguments: argparse.Namespace) -> tuple[Retriever, dict[str, int | None]]:
    """The model with the lengths that were asked for, and those lengths. Says which of its settings came from where."""
    from effir_dist.models.encoder import load_encoder
    from effir_dist.models.origins import origins, told

    given = {kind: getattr(arguments, f"max_{kind}_length") for kind in KINDS}
    other = _other_kind(model, arguments.trust_remote_code)
    if other:
        return _load_other(model, dtype, other, given)
    encoder = load_encoder(model, dtype, arguments.trust_remote_code)
    changed = {f"max_{kind}_length": tokens for kind, tokens in given.items() if tokens is not None}
    encoder.settings = dataclasses.replace(encoder.settings, **changed)
    of = origins(changed, encoder.declared)
    print(for_screen(told(encoder.settings, of, encoder.declared), sys.stderr), file=sys.stderr, flush=True)
    return encoder, {f"max_{kind}_length": getattr(encoder.settings, f"max_{kind}_length") for kind in KINDS}


def _other_kind(model: str, trusted: bool) -> str:
    """Why a sentence-transformers model is none that we can load ourselves; empty for all other models."""
    from effir_dist.models import pretrained
    from effir_dist.models.own_code import CodeRefused
    from effir_dist.models.sentence_models import is_sentence_model

    if Path(model).is_dir() and not is_sentence_model(model):
        return ""
    try:
        pretrained.find(model, trust_remote_code=trusted)
    except CodeRefused:
        raise
    except InputError as error:
        return str(error) if is_sentence_model(model) else ""
    return ""


def _load_other(
    model: str, dtype: str, reason: str, given: dict[str, int | None]
) -> tuple[Retriever, dict[str, int | None]]:
    """A folder that sentence-transformers can load and we cannot."""
    from effir_dist.models.sentence_models import SentenceModel

    why = for_screen(f"sentence-transformers itself encodes with {model}, as {reason}", sys.stderr)
    print(why, file=sys.stderr, flush=True)
    found = SentenceModel(model, dtype)
    for kind, tokens in given.items():
        if tokens is not None:
            found.set_length(kind, tokens)
    return found, {f"max_{kind}_length": found.length(kind) for kind in KINDS}


def table(result: Json) -> str:
    """The result of `evaluate` as aligned text: a row a data set, and their mean where there are several."""
    rows = [["data set", "queries", "documents", *COLUMNS.values(), "seconds"]]
    for name, row in result["datasets"].items():
        counts = [str(row["queries"]), str(row["documents"])]
        rows.append([name, *counts, *_percent(row), f"{row['seconds']:.1f}"])
    if len(result["datasets"]) > 1:
        rows.append(["mean", "", "", *_percent(result["mean"]), ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def difference_table(result: Json) -> str:
    """The differences of `--against` as aligned text: model minus the other, times 100, with 95 % intervals."""
    rows = [["difference", *COLUMNS.values()]]
    for name, row in result["difference"].items():
        cells = [tuple(100 * row[metric][part] for part in ("value", "low", "high")) for metric in COLUMNS]
        rows.append([name, *(f"{value:+.2f} [{low:+.2f}, {high:+.2f}]" for value, low, high in cells)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    return "\n".join([*lines, f"{result['model']} minus {result['against']['model']}; 95 % intervals over queries"])


def _line(row: list[str], widths: list[int]) -> str:
    cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
    return "  ".join(cells).rstrip()


def _percent(metrics: dict[str, float]) -> list[str]:
    return [f"{100 * metrics[metric]:.2f}" for metric in COLUMNS]


def _evaluate_on(model: str, retriever: Retriever, path: str, arguments: argparse.Namespace) -> Json:
    """One data set's entry of the result. Each collection is read in its turn, so that one at a time is in memory."""
    from effir_dist.data.sets import load_collection
    from effir_dist.data.texts import spread
    from effir_dist.evaluate.evaluation import evaluate_texts
    from effir_dist.models.encoder import Encoder
    from effir_dist.models.vocabulary import check_encoder

    collection = load_collection(path, arguments.split)
    print(f"evaluating on {len(collection.documents)} documents of {collection.name}", file=sys.stderr, flush=True)
    if isinstance(retriever, Encoder):
        check_encoder(retriever, model, [*spread(collection.queries), *spread(collection.documents)])
    try:
        found = evaluate_texts(retriever, collection, arguments.batch_tokens)
    except FloatingPointError as error:
        raise InputError(f"{model} cannot be evaluated in {arguments.dtype}: {error}") from None
    return {
        "path": path,
        "queries": len(collection.queries),
        "documents": len(collection.documents),
        **found.metrics,
        "seconds": found.seconds,
        "per_query": found.per_query,
        "ranked": found.ranked,
    }


def _by_name(paths: list[str], split: str) -> dict[str, str]:
    """Data set's name -> path, each with that split. Records and tables use the name, so it must be unique."""
    from effir_dist.data.beir import require_split
    from effir_dist.data.named.names import expanded
    from effir_dist.data.sets import dataset_name, resolve

    named: dict[str, str] = {}
    for path in expanded(paths):
        name = dataset_name(path)
        if name in named:
            raise InputError(f"--data names two data sets {name!r}: {named[name]} and {path}; rename one")
        require_split(resolve(path), split)
        named[name] = path
    return named


def _check(arguments: argparse.Namespace) -> None:
    """The checks that need no model."""
    check_least(arguments, {"batch_tokens": 0, "max_query_length": 4, "max_document_length": 4})
    for name in ("json", "csv"):
        path = getattr(arguments, name)
        if path and not path.absolute().parent.is_dir():
            raise InputError(f"--{name}: the folder {path.absolute().parent} does not exist; create it first")


def _write_files(arguments: argparse.Namespace, result: Json) -> None:
    """The files that were asked for."""
    from effir_dist.core.files import write_json_atomic
    from effir_dist.evaluate.comparison import write_run_file
    from effir_dist.runs.run_folder import write_queries

    sides = [result, *([result["against"]] if "against" in result else [])]
    ranked = [(name, row.pop("ranked")) for side in sides for name, row in side["datasets"].items()]
    if arguments.run_files:
        for name, documents in ranked[: len(result["datasets"])]:
            write_run_file(arguments.run_files / f"{name}.trec", documents, Path(arguments.model).name)
    if arguments.csv:
        write_queries(arguments.csv, {name: row["per_query"] for name, row in result["datasets"].items()})
    if arguments.json:
        write_json_atomic(arguments.json, result)
