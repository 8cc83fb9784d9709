"""Outcomes of plans (`plans`): a table for `replay` to search in.

    python -m benchmarks.search.table OUT --data pydocs|DIR --processes N [--seconds S] [--plans recipe] [--tuned K]
    python -m benchmarks.search.table OUT --backbone smollm2     # 30 blocks, from `benchmarks.tuned`; or mpnet, of 12

A row a plan: nDCG@10 without training and after it (MiniLM: a short and a long one), on the search's split and on the
test split, and what each cost. Of MiniLM's six blocks all plans have a row; of the others the paper's, a grid and a
sample. These recover from pruning with the unpruned model as teacher. Rows are in a shuffled order, so what fits into S
seconds is a fair sample; a later call goes on. OUT gets table.csv, facts.json (importance, full model, settings) and
neurons.npz.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.search import plans


@dataclass(frozen=True)
class Kind:
    """How the plans of a model are trained and scored; the command line overrides it."""

    stops: tuple[int, ...] = (15, 60)
    """Steps after which a training is scored; the last is its length."""
    batch: int = 32
    queries: int = 300
    documents: int = 900
    document_length: int = 64
    learning_rate: float = 2e-4
    groups: int = plans.GROUPS
    """Groups of blocks with a width each."""
    others: int = 0
    """Plans beside the paper's and the grid, where not all have a row."""
    distil: float = 0.0
    """Weight of `train.distill_embeddings`: the teacher is the unpruned model."""
    reconstruct: int = 0
    """`prune.reconstruct_tokens`."""
    granularity: str = "token"
    """`prune.granularity` of the importance."""


_SMALL = Kind((10,), 12, 200, 250, 48, 2e-4, 3, 62, 4.0, 4096)
_LLM = replace(_SMALL, learning_rate=3e-4, distil=64.0, granularity="pooled")
KINDS = {"minilm": Kind(), "smollm2": _LLM, "mpnet": _SMALL}
SMALL = 3
"""The small collection is one in so many queries and documents of the whole one: what a low rung may score on."""
ORDER_SEED = 0


def columns(stops: tuple[int, ...]) -> list[str]:
    """Of table.csv. `cost`s are shares of the unpruned model's training for all steps and one scoring."""
    names = ["key", "parameters", "parameters_fraction", "moving_share"]
    for step in (0, *stops):
        names += [f"ndcg_{step}", f"small_{step}", f"seconds_{step}"]
    return [*names, f"test_{stops[-1]}", "device"]


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The trial's settings, by dotted name. Those of MiniLM are search_spaces/minilm.yaml's with longer trainings."""
    kind, found = KINDS[args.backbone], {}
    if kind.distil:
        # Only what is trained on, so that a process has the teacher's embeddings of it in seconds.
        found = {"train.distill_embeddings": kind.distil, "data.max_train_pairs": args.stops[-1] * args.batch}
    if args.reconstruct:
        found["prune.reconstruct_tokens"] = args.reconstruct
    if kind.granularity != "token":
        found["prune.granularity"] = kind.granularity
    return {
        "model.backbone": args.backbone,
        "model.path": args.model or _tuned(args.backbone),
        "model.max_query_length": 32,
        "model.max_document_length": kind.document_length,
        "data.paths": [args.data],
        "data.max_train_pairs": 4000,
        "data.max_queries": args.queries,
        "data.max_documents": args.documents,
        "data.max_test_queries": args.queries,
        "data.max_test_documents": args.documents,
        "train.steps": args.stops[-1],
        "train.batch_size": args.batch,
        "train.learning_rate": kind.learning_rate,
        "score.batch_tokens": args.batch_tokens,
        "prune.calibration_texts": 64,
        "prune.calibration_length": 64,
        "prune.keep_norms": True,
        **found,
    }


def _tuned(backbone: str) -> str:
    """The folder of a language model that was made a retriever; "" for what is one."""
    from benchmarks.tuned import tuned

    return str(tuned()) if backbone == "smollm2" else ""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search.table", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", default="pydocs", help="pydocs, or a BEIR-format folder with train and test")
    parser.add_argument("--backbone", choices=KINDS, default="minilm")
    where = "folder of the model (default: the installed package's; of SmolLM2 what `benchmarks.tuned` prints)"
    parser.add_argument("--model", default="", help=where)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after so long, all included (0: no limit)")
    parser.add_argument("--tuned", type=int, default=-1, help="train only so many of them, the first of the order")
    parser.add_argument("--plans", choices=("all", "one-width", "recipe", "grid"), default="all", help="only these")
    parser.add_argument("--stops", type=int, nargs="+", help="steps after which a training is scored")
    parser.add_argument("--queries", type=int)
    parser.add_argument("--documents", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--others", type=int, help="plans beside the paper's and the grid")
    parser.add_argument("--reconstruct", type=int, help="prune.reconstruct_tokens")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="of a scoring batch; 16384 suits a GPU")
    args = parser.parse_args(argv)
    for name, value in vars(KINDS[args.backbone]).items():
        if getattr(args, name, value) is None:
            setattr(args, name, list(value) if name == "stops" else value)
    return args


def order(points: list[plans.Point]) -> list[plans.Point]:
    """The unpruned model, then the others shuffled."""
    first, *others = points
    random.Random(ORDER_SEED).shuffle(others)
    return [first, *others]


def points(importance: Any, kind: Kind, others: int) -> list[plans.Point]:
    """All plans of a table, the unpruned model first, the others shuffled. importance: with `mlp` and `attention`."""
    mlps, attentions = (plans.by_importance(scores) for scores in (importance.mlp, importance.attention))
    blocks = len(mlps)
    if blocks <= plans.MOST_ALL_SETS:
        return order(plans.all_points(blocks, plans.RATIOS, kind.groups))
    whole = plans.point((), [1.0] * kind.groups, blocks)
    named = [*plans.paper(mlps, kind.groups), *plans.grid(mlps, kind.groups)]
    sampled = plans.sampled(mlps, attentions, kind.groups, others, ORDER_SEED)
    return order(list(dict.fromkeys([whole, *named, *sampled])))


def chosen(facts: dict[str, Any], which: str) -> list[str]:
    """Keys of the plans that --plans names, in the table's order."""
    if which == "all":
        return list(facts["order"])
    ranked, groups = plans.by_importance(facts["importance"]["mlp"]), facts["order"][0].count("|")
    found = {
        "recipe": plans.recipe if len(ranked) <= plans.MOST_ALL_SETS else lambda o: plans.paper(o, groups),
        "one-width": lambda o: plans.one_width(len(o)),
        "grid": lambda o: plans.grid(o, groups),
    }[which](ranked)
    wanted = {point.key for point in found}
    return [key for key in facts["order"] if key in wanted]


def read_parts(out: Path) -> dict[str, dict[str, str]]:
    """Key -> its fullest row, of table.csv and of what processes left."""
    rows: dict[str, dict[str, str]] = {}
    for path in [out / "table.csv", *sorted(out.glob("part-*.csv"))]:
        if not path.is_file():
            continue
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                known = rows.get(row["key"], {})
                whole = None not in row and None not in row.values()  # else a line that was cut off
                if whole and sum(map(bool, row.values())) > sum(map(bool, known.values())):
                    rows[row["key"]] = row
    return rows


def merge(out: Path, names: list[str]) -> int:
    """Make table.csv of all parts, in the order of their keys; returns its number of rows."""
    rows = read_parts(out)
    partial = out / "table.csv.tmp"
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows[key] for key in sorted(rows))
    os.replace(partial, out / "table.csv")
    for path in out.glob("part-*.csv"):
        path.unlink()
    return len(rows)


def main(argv: list[str] | None = None) -> None:
    """Start the processes, watch them, merge what they wrote."""
    started = time.monotonic()
    args = parse(argv)
    import torch.multiprocessing as mp

    from benchmarks.search import work

    args.out.mkdir(parents=True, exist_ok=True)
    context = mp.get_context("spawn")
    ready, taken = context.Event(), context.Value("i", 0)
    deadline = started + args.seconds if args.seconds else float("inf")
    common = (args, settings(args), deadline, ready, taken)
    workers = [context.Process(target=work.worker, args=(i, *common)) for i in range(args.processes)]
    for process in workers:
        process.start()
    try:
        total = work.prepare(args, settings(args))
        prepared = time.monotonic() - started
        print(f"{total} plans, {len(read_parts(args.out))} known; prepared in {prepared:.0f} s", flush=True)
        ready.set()
        _watch(args.out, workers, total, started)
    finally:
        for process in workers:
            if not ready.is_set():
                process.terminate()
            process.join()
        rows = merge(args.out, columns(tuple(args.stops)))
        print(f"{args.out / 'table.csv'}: {rows} rows after {time.monotonic() - started:.0f} s", flush=True)
    failed = [process.exitcode for process in workers if process.exitcode]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(workers)} processes failed")


def _watch(out: Path, workers: list[Any], total: int, started: float) -> None:
    """Say every few seconds how far it is."""
    said = 0.0
    while any(process.is_alive() for process in workers):
        time.sleep(0.5)
        if time.monotonic() - said > 10:
            said = time.monotonic()
            print(f"{said - started:5.0f} s  {len(read_parts(out))} of {total} plans", flush=True)


if __name__ == "__main__":
    main()
