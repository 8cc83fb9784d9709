"""`python -m effir_dist.evaluate MODEL --data DIR`: the metrics of a backbone, a checkpoint or a pruned model."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir_dist.errors import InputError, command
from effir_dist.settings import DTYPES, ScoreConfig

if TYPE_CHECKING:
    from effir_dist.encoder import Encoder

COLUMNS = {"ndcg_at_10": "nDCG@10", "recall_at_100": "Recall@100", "mrr_at_10": "MRR@10"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m effir_dist.evaluate",
        description="Score a retriever by exact search: nDCG@10, Recall@100 and MRR@10, times 100.",
    )
    result.add_argument("model", help="name of a backbone (minilm), a checkpoint folder, or a pruned model's folder")
    result.add_argument(
        "--data", action="append", required=True, metavar="DIR", help="BEIR-format folder, or pydocs; repeatable"
    )
    result.add_argument("--split", default="test", help="qrels/SPLIT.tsv that scores (default: %(default)s)")
    result.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights (default: %(default)s)")
    result.add_argument(
        "--batch-tokens",
        type=int,
        default=ScoreConfig.batch_tokens,
        metavar="N",
        help="tokens in an encoding batch, padding included (default: %(default)s)",
    )
    for kind in ("query", "document"):
        result.add_argument(
            f"--max-{kind}-length", type=int, metavar="N", help=f"tokens kept of a {kind} (default: the model's own)"
        )
    result.add_argument("--json", type=Path, metavar="FILE", help="write everything there too, per query as well")
    return result


@command
def main() -> None:
    arguments = parser().parse_args()
    _check(arguments)
    # DeepSpeed, which transformers imports, logs to stdout; that is for the table.
    with contextlib.redirect_stdout(sys.stderr):
        result = evaluate(arguments)
    print(table(result))
    if arguments.json:
        _write(arguments.json, result)


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Score the model on each data set; what `--json` writes.

    {"model", "split", "dtype", "max_query_length", "max_document_length", "datasets": {name: {"path", "queries",
    "documents", the metrics, "seconds", "per_query": {query id: metrics}}}, "mean": metrics}.
    Raises InputError for a model or data that cannot be read, and for a model that gives NaN.
    """
    from effir_dist.encoder import load_encoder, resolve_dtype
    from effir_dist.metrics import mean

    paths = _by_name(arguments.data, arguments.split)
    dtype = resolve_dtype(arguments.dtype)
    encoder = load_encoder(arguments.model, dtype)
    _set_lengths(encoder, arguments)
    datasets = {name: _score(encoder, path, arguments) for name, path in paths.items()}
    return {
        "model": arguments.model,
        "split": arguments.split,
        "dtype": dtype,
        "max_query_length": encoder.settings.max_query_length,
        "max_document_length": encoder.settings.max_document_length,
        "datasets": datasets,
        "mean": mean(list(datasets.values())),
    }


def table(result: dict[str, Any]) -> str:
    """The result of `evaluate` as aligned text: a row a data set, and their mean where there are several."""
    rows = [["data set", "queries", "documents", *COLUMNS.values(), "seconds"]]
    for name, row in result["datasets"].items():
        counts = [str(row["queries"]), str(row["documents"])]
        rows.append([name, *counts, *_percent(row), f"{row['seconds']:.1f}"])
    if len(result["datasets"]) > 1:
        rows.append(["mean", "", "", *_percent(result["mean"]), ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: list[str], widths: list[int]) -> str:
    cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
    return "  ".join(cells).rstrip()


def _percent(metrics: dict[str, float]) -> list[str]:
    return [f"{100 * metrics[metric]:.2f}" for metric in COLUMNS]


def _score(encoder: Encoder, path: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One data set's entry of the result. A collection is read when its turn comes, so one at a time is in memory."""
    from effir_dist.data import load_collection
    from effir_dist.evaluation import score

    collection = load_collection(path, arguments.split)
    print(f"scoring {len(collection.documents)} documents of {collection.name}", file=sys.stderr, flush=True)
    try:
        scores = score(encoder, collection, arguments.batch_tokens)
    except FloatingPointError as error:
        raise InputError(f"{arguments.model} cannot be scored in {arguments.dtype}: {error}") from None
    return {
        "path": path,
        "queries": len(collection.queries),
        "documents": len(collection.documents),
        **scores.metrics,
        "seconds": scores.seconds,
        "per_query": scores.per_query,
    }


def _set_lengths(encoder: Encoder, arguments: argparse.Namespace) -> None:
    given = {name: getattr(arguments, name) for name in ("max_query_length", "max_document_length")}
    changed = {name: value for name, value in given.items() if value is not None}
    encoder.settings = dataclasses.replace(encoder.settings, **changed)


def _by_name(paths: list[str], split: str) -> dict[str, str]:
    """Data set's name -> path, each with that split; records and tables go by the name, so each may come once."""
    from effir_dist.data import dataset_name, resolve
    from effir_dist.data_files import require_split

    named: dict[str, str] = {}
    for path in paths:
        name = dataset_name(path)
        if name in named:
            raise InputError(f"--data names two data sets {name!r}: {named[name]} and {path}; rename one")
        require_split(resolve(path), split)
        named[name] = path
    return named


def _check(arguments: argparse.Namespace) -> None:
    """What can be known before the model is loaded."""
    for name, least in {"batch_tokens": 1, "max_query_length": 4, "max_document_length": 4}.items():
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} must be {least} or more, got {value}")
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        raise InputError(f"--json: the folder {arguments.json.absolute().parent} does not exist; create it first")


def _write(path: Path, result: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


if __name__ == "__main__":
    main()
