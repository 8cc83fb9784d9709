"""Exact search: the way that is taken here against the others, at sizes from a test set's to a corpus on disk."""

from __future__ import annotations

import functools
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.speed.frame import Cases, Comparison, Options, Variant

DEPTH = 100
Result = TypeVar("Result")
SIZE = 384
FAISS_DEFAULT = 128_000
"""What faiss 1.15 comes with; `exact` changes it."""


def comparisons(options: Options) -> Iterator[Comparison]:
    """(queries, documents) in memory; then half-precision vectors of 1,024 dimensions in a file."""
    yield from _of_sizes(((1, 20_000), (300, 5_000), (300, 50_000), (3_000, 20_000)), options)
    yield from _of_file(100_000, options)


def gpu_cases(options: Options) -> Cases:
    """The same."""
    sizes = ((300, 5_000), (1_000, 200_000))
    return {
        "in memory": functools.partial(_of_sizes, sizes, options),
        "on disk": functools.partial(_of_file, 500_000, options),
    }


def _of_sizes(sizes: Sequence[tuple[int, int]], options: Options) -> Iterator[Comparison]:
    for queries, documents in ((20, 500),) if options.small else sizes:
        yield _in_memory(vectors(queries, SIZE, 1), vectors(documents, SIZE, 2), options)


def _of_file(documents: int, options: Options) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        yield _on_disk(Path(folder) / "vectors.npy", 2_000 if options.small else documents, options)


def vectors(count: int, size: int, seed: int) -> np.ndarray:
    """[count, size] float32 of length 1."""
    drawn = np.random.default_rng(seed).standard_normal((count, size), np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _in_memory(queries: np.ndarray, documents: np.ndarray, options: Options) -> Comparison:
    from effir_dist.evaluate.exact import exact_search, search_by_faiss, search_by_product

    variants = {
        "ours": Variant(lambda: exact_search(queries, documents, DEPTH)),
        "faiss by its own choice": Variant(lambda: _plain_faiss(queries, documents)),
        "faiss, by matrix products from 8 queries on": Variant(lambda: search_by_faiss(queries, documents, DEPTH)),
        "matrix product and top-k": Variant(lambda: search_by_product(queries, documents, DEPTH)),
        "numpy, stable sort": Variant(lambda: np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :DEPTH]),
    }
    if options.gpu:
        del variants["matrix product and top-k"]  # is ours there
    if queries.shape[0] * documents.shape[0] > 10**8:
        del variants["numpy, stable sort"]
    label = f"{len(queries)} queries, {len(documents):,} documents, {documents.shape[1]} dimensions, float32 in memory"
    flops = 2.0 * queries.shape[0] * documents.shape[0] * documents.shape[1]
    return Comparison(label, variants, len(queries), "queries", flops=flops)


def _plain_faiss(queries: np.ndarray, documents: np.ndarray) -> None:
    """As its documentation has it."""
    import faiss

    faiss.cvar.distance_compute_blas_threshold = FAISS_DEFAULT
    index = faiss.IndexFlatIP(documents.shape[1])
    index.add(documents)
    index.search(queries, DEPTH)


def _on_disk(file: Path, count: int, options: Options) -> Comparison:
    from effir_dist.evaluate.exact import exact_search

    size, queries = 1024, vectors(100, 1024, 1)
    stored = np.lib.format.open_memmap(file, "w+", np.float16, (count, size))
    block = vectors(10_000, size, 2).astype(np.float16)
    for start in range(0, count, len(block)):
        stored[start : start + len(block)] = block[: count - start]
    del stored

    def run() -> dict[str, Any]:
        _, more = watched(lambda: exact_search(queries, np.load(file, mmap_mode="r"), DEPTH))
        return {"private memory more at most, MiB": more / 2**20}

    label = f"100 queries, {count:,} documents, {size} dimensions, float16 on disk"
    facts = {"file, GiB": count * size * 2 / 2**30}
    return Comparison(label, {"ours": Variant(run)}, count, "documents", flops=2.0 * 100 * count * size, facts=facts)


def watched(work: Callable[[], Result]) -> tuple[Result, int]:
    """What `work` returns, and how many bytes more this process held meanwhile at most, files left out."""
    before, seen, ended = _resident(), [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.02):
            seen.append(_resident())

    watch = threading.Thread(target=look)
    watch.start()
    try:
        return work(), max(seen) - before
    finally:
        ended.set()
        watch.join()


def _resident() -> int:
    """Bytes of this process that are nobody else's and no file's."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
