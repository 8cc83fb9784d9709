"""What a corpus of MS MARCO's size costs: python -m benchmarks.size [--passages 2000000] [--folder DIR]

Makes passages of about 60 words, which are as frequent as in language, and says for each step seconds and memory:
reading, tokenising, what each of several workers holds, mining, and the search that ranks share. Each step is a process
of its own; seconds are of one core, so that what else the machine does changes little. Rows are written to DIR/size.md
as they are known; the last column is the line to 8.8 million passages and 500,000 queries. The folder needs 2 KB a
passage; what is in it goes at the end.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import size_steps as steps
from benchmarks.made_corpus import write_corpus
from effir_dist.core.errors import check_least, command
from effir_dist.core.files import write_text_atomic

PASSAGES, QUERIES = 8_841_823, 502_939
"""MS MARCO's, with its training queries."""
HEAD = ["", "here", "memory", "at MS MARCO's size"]


@dataclass(frozen=True)
class Report:
    """A table that grows in a file."""

    file: Path
    passages: int
    rows: list[list[str]]

    def add(self, *row: str) -> None:
        """Print and write a row."""
        self.rows.append([*row])
        print(" | ".join(row), flush=True)
        lines = [HEAD, ["---"] * len(HEAD), *self.rows]
        write_text_atomic(self.file, "".join("| " + " | ".join(line) + " |\n" for line in lines))

    def larger(self, number: float) -> float:
        """What grows with the passages, at MS MARCO's size."""
        return number * PASSAGES / self.passages


def gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def duration(seconds: float) -> str:
    units = ((100, 1, "s"), (6000, 60, "min"), (math.inf, 3600, "h"))
    return next(f"{seconds / size:.1f} {name}" for most, size, name in units if seconds < most)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="python -m benchmarks.size", description=__doc__.split("\n")[0])
    result.add_argument("--passages", type=int, default=2_000_000)
    result.add_argument("--queries", type=int, default=1000, help="mined and searched (default: 1000)")
    result.add_argument("--plain-queries", type=int, default=20, help="scored and sorted as before (default: 20)")
    result.add_argument("--workers", type=int, default=4, help="that hold the corpus together (default: 4)")
    result.add_argument("--ranks", type=int, default=2, help="that search it together (default: 2)")
    result.add_argument("--dimensions", type=int, default=256, help="of the made-up vectors (default: 256)")
    result.add_argument("--folder", type=Path, help="for corpus and caches (default: one in TMPDIR)")
    return result


@command
def main() -> None:
    """Print the table, row by row."""
    args = parser().parse_args()
    least = {"passages": 1000, "queries": 1, "plain_queries": 1, "workers": 1, "ranks": 1, "dimensions": 1}
    check_least(args, least)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="effir-size-"))
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(folder / "size.md", args.passages, [])
    try:
        write_corpus(folder / "set", args.passages, args.queries)
        run(args, folder, report)
    finally:
        for name in ("set", "cache", "vectors"):
            shutil.rmtree(folder / name, ignore_errors=True)
    print(f"the table is in {report.file}")


def run(args: argparse.Namespace, folder: Path, report: Report) -> None:
    """All steps, in turn."""
    of_one = [("reading the corpus, once a machine", steps.read), ("tokenising it, once a machine", steps.tokenise)]
    for name, step in of_one:
        done = steps.alone(step, folder)
        report.add(name, duration(done.seconds), gib(done.most), duration(report.larger(done.seconds)))
    done = steps.alone(steps.read, folder)
    report.add("reading it again, in any process", f"{done.seconds:.2f} s", gib(done.most), "the same")
    workers(args, folder, report)
    mining(args, folder, report)
    searching(args, folder, report)


def workers(args: argparse.Namespace, folder: Path, report: Report) -> None:
    """Memory of processes that hold texts and tokens, as before and in maps."""
    ways = (("in memory, as before", False, 1), (f"in maps, {args.workers} workers", True, args.workers))
    for name, maps, count in ways:
        held = steps.held(folder, maps, count)
        own, shared = (sum(getattr(each, kind) for each in held) / count for kind in ("own", "proportional"))
        line = f"{gib(report.larger(own))} of its own, {gib(report.larger(shared))} with its share of the maps"
        bytes_each = f"{own / args.passages:.0f} bytes a passage of its own"
        memory = f"{gib(own)} of its own, {gib(shared)} with its share"
        report.add(f"a worker's texts and tokens, {name}", bytes_each, memory, line)


def mining(args: argparse.Namespace, folder: Path, report: Report) -> None:
    """BM25 as before, query by query over all passages, and as it is."""
    done = steps.alone(steps.mine, folder, args.plain_queries)
    found = done.found
    line = f"{duration(report.larger(found['index']))}, {gib(report.larger(done.most))}"
    report.add("mining: the index", duration(found["index"]), gib(done.most), line)
    for name in ("sorting all passages, as before", "partitioning them", "rare terms first"):
        of_1000 = found[name]
        whole = report.larger(of_1000) * QUERIES / 1000
        report.add(f"mining 1,000 queries: {name}", duration(of_1000), "", f"{duration(whole)} for all queries")


def searching(args: argparse.Namespace, folder: Path, report: Report) -> None:
    """Exact search of made-up vectors, by one rank and by several."""
    for ranks in sorted({1, args.ranks}):
        found = steps.searched(folder, args.passages, args.dimensions, args.queries, ranks)
        name = f"searching {args.queries:,} queries in {args.dimensions} dimensions, {ranks} rank{'s'[: ranks - 1]}"
        line = f"{gib(2 * 4096 * PASSAGES / ranks)} a rank in a file, of half precision in 4,096 dimensions"
        report.add(name, duration(found.seconds), f"{gib(found.most)} a rank", line)


if __name__ == "__main__":
    main()
