"""The steps of benchmarks.size, each in processes of its own, so that memory is that step's."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.search import DEPTH, watched
from effir_dist.core.mapped import mapped

SPAWN = multiprocessing.get_context("spawn")
PATIENCE = 3600.0


@dataclass(frozen=True)
class Done:
    """One step. seconds: of one core, so that other work on the machine does not count.

    most: bytes that the process held meanwhile at most and that are no file's.
    """

    seconds: float
    most: int
    found: Any = None


@dataclass(frozen=True)
class Held:
    """Bytes of a process, beyond what it held when it had imported all. own: what no other process has; proportional:
    shared pages divided by the processes that have them."""

    own: int
    proportional: int


def _as_user(folder: Path, maps: bool = True) -> None:
    """This process's caches are in the folder, and texts of any size are in maps, or in memory."""
    from effir_dist.data import beir

    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    beir.MAPPED_BYTES = 0 if maps else 2**62


def _child(step: Callable[..., Any], folder: Path, given: tuple[Any, ...], answers: Any) -> None:
    _as_user(folder)
    work = step(folder, *given)  # what it imports and loads is not what is measured
    begun = time.process_time()
    found, most = watched(work)
    answers.put(Done(time.process_time() - begun, most, found))


def alone(step: Callable[..., Callable[[], Any]], folder: Path, *given: Any) -> Done:
    """A step in a process of its own; step(folder, ...) makes ready and returns the work."""
    answers = SPAWN.Queue()
    process = SPAWN.Process(target=_child, args=(step, folder, given, answers))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{step.__name__} ended with {process.exitcode}")
    done: Done = answers.get()
    return done


def read(folder: Path) -> Callable[[], Any]:
    """Open the corpus; the first time it is made."""
    from effir_dist.data.beir import read_corpus

    return lambda: len(read_corpus(folder / "set" / "corpus.jsonl"))


def tokenise(folder: Path) -> Callable[[], Any]:
    """MiniLM's tokens of all passages."""
    from effir_dist.data.beir import read_corpus
    from effir_dist.models.encoder import load_encoder

    encoder, texts = load_encoder("minilm"), read_corpus(folder / "set" / "corpus.jsonl").texts
    return lambda: int(encoder.tokenize(texts, "document", folder / "cache" / "tokens").offsets[-1])


def held(folder: Path, maps: bool, count: int) -> list[Held]:
    """Memory of `count` processes that hold the corpus and its tokens at once and have read all of it."""
    answers, together = SPAWN.Queue(), SPAWN.Barrier(count)
    workers = [SPAWN.Process(target=_hold, args=(folder, maps, together, answers)) for _ in range(count)]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=PATIENCE) for _ in workers]
    for worker in workers:
        worker.join()
    assert len({checked for checked, _ in found}) == 1
    return [each for _, each in found]


def _hold(folder: Path, maps: bool, together: Barrier, answers: Any) -> None:
    _as_user(folder, maps)
    from effir_dist.data import sets

    before = _memory()
    collection = sets.load_collection(str(folder / "set"), "train")
    (known,) = (folder / "cache" / "tokens").iterdir()
    ids, offsets = _tokens(known, "ids", np.int32, maps), _tokens(known, "offsets", np.int64, maps)
    checked = sum(map(len, collection.documents)) + int(ids.sum(dtype=np.int64)) + int(offsets.sum())
    together.wait(PATIENCE)  # all have read all
    now = _memory()
    together.wait(PATIENCE)  # and hold it still
    answers.put((checked, Held(now.own - before.own, now.proportional - before.proportional)))


def _tokens(folder: Path, name: str, dtype: Any, maps: bool) -> np.ndarray:
    return mapped(folder / name, dtype) if maps else np.fromfile(folder / name, dtype)


def _memory() -> Held:
    """This process's, from smaps_rollup."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(size.split()[0]) * 1024 for name, size in (line.split(":") for line in lines)}
    return Held(sizes["Private_Clean"] + sizes["Private_Dirty"], sizes["Pss"])


def mine(folder: Path, plain_queries: int) -> Callable[[], dict[str, float]]:
    """Seconds of BM25's index, and of 1,000 queries in three ways."""
    from effir_dist.data import sets
    from effir_dist.training.bm25 import BM25

    collection = sets.load_collection(str(folder / "set"), "train")
    queries = list(collection.queries)

    def work() -> dict[str, float]:
        begun = time.process_time()
        miner = BM25(collection.documents)
        found = {"index": time.process_time() - begun}
        for name, order in (("sorting all passages, as before", _sorted), ("partitioning them", _parted)):
            begun = time.process_time()
            for query in queries[:plain_queries]:
                order(_all_scores(miner, query))
            found[name] = (time.process_time() - begun) * 1000 / min(plain_queries, len(queries))
        begun = time.process_time()
        for start in range(0, len(queries), miner.at_once):
            part = queries[start : start + miner.at_once]
            miner.rank(part, [[0]] * len(part), DEPTH)
        found["rare terms first"] = (time.process_time() - begun) * 1000 / len(queries)
        return found

    return work


def _all_scores(miner: Any, query: str) -> np.ndarray:
    """[P] as bm25s computes them."""
    from effir_dist.training.bm25 import _tokens

    scores = np.zeros(len(miner._sums), np.float32)
    for stem in _tokens([query], as_ids=False)[0]:
        if stem in miner._vocabulary:
            np.add.at(scores, *miner._postings.of(miner._vocabulary[stem]))
    return scores


def _sorted(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, kind="stable")[:DEPTH]


def _parted(scores: np.ndarray) -> np.ndarray:
    best = np.argpartition(-scores, DEPTH)[:DEPTH]
    return best[np.lexsort((best, -scores[best]))]


def searched(folder: Path, passages: int, size: int, queries: int, ranks: int) -> Done:
    """Each rank writes its part of the vectors to a file, as an evaluation does, then all search together."""
    import torch.multiprocessing as mp

    (folder / "vectors").mkdir(exist_ok=True)
    answers = SPAWN.Queue()
    mp.spawn(_rank, (folder / "vectors", passages, size, queries, ranks, answers), nprocs=ranks)
    found: list[Done] = [answers.get() for _ in range(ranks)]
    return Done(max(done.seconds for done in found), max(done.most for done in found))


def _rank(rank: int, folder: Path, passages: int, size: int, queries: int, ranks: int, answers: Any) -> None:
    import torch
    import torch.distributed as dist

    from benchmarks.corpus import write
    from effir_dist.evaluate.ranks import search_own, shares

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{ranks}", rank=rank, world_size=ranks)
    rows = shares(np.arange(passages), ranks)[rank]
    file = folder / f"{rank}.npy"
    write(file, len(rows), size)
    documents = np.load(file, mmap_mode="r")
    asked = documents[:queries].astype(np.float32) if rank == 0 else np.empty(0)
    shared = [asked]
    dist.broadcast_object_list(shared)
    dist.barrier()
    begun = time.process_time()
    _, most = watched(lambda: search_own(shared[0], documents, rows, DEPTH))
    answers.put(Done(time.process_time() - begun, most))
    file.unlink()
    dist.destroy_process_group()
