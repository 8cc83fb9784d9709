"""`python -m effir_dist.negatives`: mine hard negatives, and score them with a cross-encoder, for training.

Writes DIR/negatives/SPLIT.jsonl, which every training on DIR then reads (`train.hard_negatives`), one line a query:

    {"query": id, "positive": [ids], "negative": [ids], "scores": [numbers], "scorer": "bm25"}

The scores are of the positives, then of the negatives: the reranker's if there is one, else the miner's. They are
distilled by `train.distill_scores`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from effir_dist.core.errors import InputError, command
from effir_dist.core.files import disk_errors, write_text_atomic
from effir_dist.core.output import add_quiet, silenced
from effir_dist.core.values import Json
from effir_dist.data import roles, sets
from effir_dist.models import own_code
from effir_dist.models.families import registry

if TYPE_CHECKING:
    from effir_dist.training.mining import Miner, Reranker


DATA = "BEIR-format folder, pydocs, or a name such as beir:scifact"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m effir_dist.negatives", description=__doc__.split("\n")[0])
    p.add_argument("--data", "--train-data", metavar="DIR", required=True, help=DATA)
    p.add_argument("--split", default="train", help="whose queries (default: train)")
    registry.list_in(p)
    what = "bm25, any model's folder, a hub id, or a backbone of the list below"
    p.add_argument("--miner", default="bm25", metavar="NAME", help=what)
    own_code.add_option(p, "miner")
    p.add_argument("--count", type=int, default=15, help="negatives a query (default: 15)")
    p.add_argument("--depth", type=int, default=100, help="passages looked at for each query (default: 100)")
    p.add_argument(
        "--max-share",
        type=float,
        default=0.95,
        help="passages above this share of the best positive's score may be answers and are left out (default: 0.95)",
    )
    p.add_argument("--reranker", metavar="PATH", help="cross-encoder whose scores are kept instead of the miner's")
    p.add_argument("--length", type=int, default=512, help="tokens that the reranker reads (default: 512)")
    add_quiet(p)
    return p


@dataclass(frozen=True)
class _Job:
    """One split to mine."""

    split: sets.Split
    answers: dict[str, set[str]]
    """Normalised text of a query -> ids of the documents that answer it."""

    @property
    def passages(self) -> Sequence[str]:
        return self.split.documents.texts

    def positives(self, query: str) -> list[int]:
        """Indices of the passages with a grade above 0; then of those that answer the same text under another id."""
        own = [d for d, grade in self.split.qrels[query].items() if grade > 0]
        others = self.answers[roles.normalised(self.split.queries[query])].difference(own)
        return [self.split.documents.row(d) for d in [*own, *sorted(others)]]


@command
def main() -> None:
    """Entry point."""
    args = parser().parse_args()
    _check(args)
    with silenced(args.quiet) as streams:
        made = _mine_split(args, streams.err if args.quiet else streams.out)
    print(made)


def _mine_split(args: argparse.Namespace, warnings: TextIO) -> str:
    """Mine the negatives of a split into its file. Returns a line for the user."""
    split = sets.read_split(sets.resolve(args.data), args.split)
    for warning in split.warnings:
        print(f"warning: {warning}", file=warnings)
    file = split.folder / "negatives" / f"{split.name}.jsonl"
    if file.exists():
        raise InputError(f"{file} is there already; move it away to mine again")
    job = _Job(split, roles.positives_by_text(split))
    partial = file.with_suffix(".partial")
    done = _resume(partial, _identity(args))
    waiting = [query for query in split.qrels if query not in done]
    if waiting:
        miner, reranker = _load(args, job)
        with disk_errors(partial), partial.open("a", encoding="utf-8") as out:
            for start in range(0, len(waiting), miner.at_once):
                queries = waiting[start : start + miner.at_once]
                out.writelines(json.dumps(line) + "\n" for line in mine(job, queries, args, miner, reranker))
                out.flush()
                os.fsync(out.fileno())
                print(f"{len(done) + start + len(queries)} of {len(split.qrels)} queries", flush=True)
    return _finish(partial, file)


def _check(args: argparse.Namespace) -> None:
    for name, low in (("count", 1), ("depth", 1), ("length", 8)):
        if getattr(args, name) < low:
            raise InputError(f"--{name} must be {low} or more, got {getattr(args, name)}")
    if args.depth < args.count:
        raise InputError(f"--depth must be at least --count ({args.count}), got {args.depth}")
    if not 0 < args.max_share <= 1:
        raise InputError(f"--max-share must lie above 0 and up to 1, got {args.max_share}")


def _identity(args: argparse.Namespace) -> Json:
    """The settings that a partial file must share with this command to be continued."""
    names = ("miner", "count", "depth", "max_share", "reranker", "length")
    return {"made_with": {name: getattr(args, name) for name in names}}


def _resume(partial: Path, identity: Json) -> set[str]:
    """Queries that an interrupted command has done with the same settings. Starts a new file where there is none."""
    lines = partial.read_text(encoding="utf-8").splitlines(keepends=True) if partial.exists() else []
    whole = [line for line in lines if line.endswith("\n")]  # a kill may leave half a line
    if whole and json.loads(whole[0]) == identity:
        done = {json.loads(line)["query"] for line in whole[1:]}
        print(f"{len(done)} queries are in {partial} already")
    else:
        whole, done = [json.dumps(identity) + "\n"], set()
    with disk_errors(partial):
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text("".join(whole), encoding="utf-8")
    return done


def _load(args: argparse.Namespace, job: _Job) -> tuple[Miner, Reranker | None]:
    from effir_dist.models.encoder import load_encoder
    from effir_dist.training.bm25 import BM25
    from effir_dist.training.mining import Dense, load_reranker

    reranker = load_reranker(args.reranker, args.length) if args.reranker else None
    print(f"ranking {len(job.passages)} passages with {args.miner}", flush=True)
    if args.miner == "bm25":
        return BM25(job.passages), reranker
    return Dense(load_encoder(args.miner, "auto", args.trust_remote_code), job.passages), reranker


def mine(
    job: _Job, queries: list[str], args: argparse.Namespace, miner: Miner, reranker: Reranker | None
) -> Iterator[Json]:
    """A line of the file for each query."""
    from effir_dist.training.mining import choose, rerank

    positives = [job.positives(query) for query in queries]
    texts = [job.split.queries[query] for query in queries]
    # Positives are ranked too.
    depth = min(args.depth + max(map(len, positives)), len(job.passages))
    for query, text, own, ranked in zip(queries, texts, positives, miner.rank(texts, positives, depth), strict=True):
        mined = choose(ranked, own, job.passages, args.count, args.max_share)
        if reranker:
            mined = rerank(mined, text, own, job.passages, reranker)
        ids = ([job.split.documents.ids[index] for index in indices] for indices in (own, mined.negatives))
        line = dict(zip(("query", "positive", "negative"), (query, *ids), strict=True))
        yield {**line, "scores": mined.scores, "scorer": args.reranker or args.miner, "suspects": mined.suspects}


def _finish(partial: Path, file: Path) -> str:
    """Write the finished file and say what is in it."""
    suspects, counts, lines = 0, [], []
    with partial.open(encoding="utf-8") as made:
        next(made)  # what it was made with
        for record in map(json.loads, made):
            suspects += record.pop("suspects")
            counts.append(len(record["negative"]))
            lines.append(json.dumps(record) + "\n")
    write_text_atomic(file, "".join(lines))
    partial.unlink()
    return (
        f"wrote {file}: {len(counts)} queries, {sum(counts) / len(counts):.1f} negatives each, "
        f"{counts.count(0)} with none; {suspects} passages left out as likely answers"
    )
