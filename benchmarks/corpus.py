"""Exact search in a corpus that memory need not hold: python -m benchmarks.corpus [--documents 10000000]

Writes half-precision vectors to a file, asks for some of them with a little noise, and says how many were found first,
what it took, and what the process held that is no file's. The file is removed at the end; it takes 2 bytes a number.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.speed.search import DEPTH, vectors, watched
from effir_dist.evaluate.exact import exact_search

BLOCK = 50_000


def write(file: Path, count: int, size: int) -> None:
    """Vectors [count, size] of length 1; every block is the first with its columns in another order."""
    rng, block = np.random.default_rng(0), vectors(BLOCK, size, 0).astype(np.float16)
    stored = np.lib.format.open_memmap(file, "w+", np.float16, (count, size))
    for start in range(0, count, BLOCK):
        stored[start : start + BLOCK] = block[: count - start, rng.permutation(size)]
    stored.flush()


def main() -> None:
    """Print what was found, seconds and memory."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus", description=__doc__)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="where the file is for the time being (default: TMPDIR)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="effir-corpus-", dir=args.folder) as folder:
        file = Path(folder) / "vectors.npy"
        begun = time.perf_counter()
        write(file, args.documents, args.dimensions)
        print(f"wrote {file.stat().st_size / 2**30:.1f} GiB in {time.perf_counter() - begun:.0f} s", flush=True)
        documents, rng = np.load(file, mmap_mode="r"), np.random.default_rng(1)
        asked = np.sort(rng.choice(args.documents, args.queries, replace=False))
        noise = rng.standard_normal((args.queries, args.dimensions), np.float32) / (4 * args.dimensions**0.5)
        queries = documents[asked].astype(np.float32) + noise
        begun, used = time.perf_counter(), time.process_time()
        (_, found), more = watched(lambda: exact_search(queries, documents, DEPTH))
        took, used = time.perf_counter() - begun, time.process_time() - used
    right = int((found[:, 0] == asked).sum())
    print(f"{args.queries} queries, {args.documents:,} documents of {args.dimensions} numbers: {took:.0f} s,", end=" ")
    print(f"{used:.0f} s of processors; {right} of {args.queries} found first")
    print(f"memory of the process beside the file: at most {more / 2**20:.0f} MiB more")


if __name__ == "__main__":
    main()
