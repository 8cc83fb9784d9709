"""`mteb:TASK`: the texts and judgements of mteb's retrieval tasks, loaded by mteb itself."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from effir_dist.core.errors import InputError
from effir_dist.core.files import write_json_atomic
from effir_dist.data.named.download import Unreachable
from effir_dist.data.named.hub_sets import SPLITS
from effir_dist.data.named.rows import corpus_line, query_line, write_lines, write_qrels

TASK = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def check_name(name: str) -> None:
    """Raises InputError for what cannot be a task."""
    if not TASK.fullmatch(name):
        raise InputError(f"mteb:{name} must be mteb:TASK or mteb:TASK/SUBSET, such as mteb:NFCorpus")


def label(name: str) -> str:
    """What results call it."""
    return name.replace("/", "-")


def origin(name: str) -> str:
    """In words."""
    return "the Hugging Face hub, through mteb"


def root(name: str, cache: Path) -> Path:
    """The folder that is made at once, in the cache of named sets."""
    return cache / "mteb" / label(name)


def check_reachable(name: str) -> None:
    """Raises InputError where mteb is not installed or has no such task."""
    _task(name)


def _task(name: str) -> Any:
    try:
        import mteb
    except ImportError:
        raise InputError(f"mteb:{name} is loaded by the package mteb: pip install 'effir_dist[mteb]'") from None
    task_name, _, subset = name.partition("/")
    try:
        task = mteb.get_task(task_name, hf_subsets=[subset] if subset else None)
    except KeyError as error:
        hint = str(error.args[0]).partition("not found")[2].strip(" .")
        raise InputError(f"mteb has no task {task_name!r}; {hint}") from None
    if task.metadata.type != "Retrieval" or list(task.metadata.modalities) != ["text"]:
        kind = f"{task.metadata.type} of {', '.join(task.metadata.modalities)}"
        raise InputError(f"mteb:{name} is a task of another kind ({kind}); retrieval of text is evaluated here")
    return task


def write(name: str, empty: Path, _target: Path) -> None:
    """Load a task through mteb and write it in BEIR's layout, several splits in a folder each.

    Raises Unreachable or InputError.
    """
    task = _task(name)
    print(f"loading mteb:{name} through mteb", file=sys.stderr, flush=True)
    try:
        task.load_data()
    except OSError as error:
        raise Unreachable(str(error).split("\n")[0]) from None
    splits = {SPLITS.get(split, split): data for split, data in _subset(task, name).items()}
    for split, data in splits.items():
        _write(empty / split if len(splits) > 1 else empty, split, data)
    write_json_atomic(empty / "dataset.json", {"ignore_identical_ids": bool(task.ignore_identical_ids)})
    dataset = task.metadata.dataset
    source = {"name": f"mteb:{name}", "repository": dataset["path"], "revision": dataset["revision"]}
    write_json_atomic(empty / "source.json", source)


def _subset(task: Any, name: str) -> Mapping[str, Any]:
    subset, known = name.partition("/")[2], sorted(task.dataset)
    if len(known) > 1 and not subset:
        raise InputError(f"mteb:{name} has the subsets {', '.join(known)}: name one, as mteb:{name}/{known[0]}")
    found: Mapping[str, Any] = task.dataset[subset or known[0]]
    return found


def _write(folder: Path, split: str, data: Mapping[str, Any]) -> None:
    write_lines(folder / "corpus.jsonl", (corpus_line(row, f"document {i}") for i, row in enumerate(data["corpus"])))
    write_lines(folder / "queries.jsonl", (query_line(row, f"query {i}") for i, row in enumerate(data["queries"])))
    write_qrels(folder / "qrels" / f"{split}.tsv", _judgements(data["relevant_docs"]))


def _judgements(relevant: Mapping[str, Mapping[str, int]]) -> Iterator[tuple[str, str, int]]:
    return ((query, document, int(grade)) for query, grades in relevant.items() for document, grade in grades.items())
