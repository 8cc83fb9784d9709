"""An encoder evaluated on one collection: exact inner-product search, then metrics per query."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from effir_dist.evaluate import ranks
from effir_dist.evaluate.exact import Found, exact_search
from effir_dist.evaluate.metrics import mean, measure_all, trec_order

if TYPE_CHECKING:
    from effir_dist.data.sets import Collection
    from effir_dist.models.encoder import Encoder

DEPTH = 100
"""Documents retrieved for a query: what Recall@100 needs."""
ENCODED = {"query": "queries", "document": "documents"}
ON_DISK_BYTES = 4 * 2**30
"""Of vectors in memory. More of them are written to a temporary file (TMPDIR) for the time of the evaluation."""
PART = 65536
"""Documents that any `Retriever` encodes at a time."""
Ranked = dict[str, list[tuple[str, float]]]
"""Query id -> (document id, similarity) from best to worst."""


@dataclass(frozen=True)
class Evaluation:
    """What one encoder reached on one collection."""

    metrics: dict[str, float]
    """ndcg_at_10, recall_at_100, mrr_at_10: means over all judged queries."""
    per_query: dict[str, dict[str, float]]
    """Query id -> the same three."""
    seconds: float
    """From the first text tokenised, or the first vector searched, to the metrics."""
    ranked: Ranked = field(default_factory=dict, repr=False)
    """What was retrieved, at most DEPTH documents a query."""
    encoded: dict[str, tuple[int, float]] = field(default_factory=dict)
    """queries, documents -> how many, and seconds from token ids to vectors on all ranks. Empty for given vectors."""


class Retriever(Protocol):
    """Anything that encodes texts as vectors."""

    def encode(self, texts: list[str], kind: str = ..., batch_tokens: int = ...) -> np.ndarray:
        """Embeddings of queries or documents (`kind`): [N, D] float32."""


def evaluate(
    encoder: Encoder, collection: Collection, batch_tokens: int = 0, cache: Path | None = None, compiled: str = "auto"
) -> Evaluation:
    """Tokenise, encode, search and measure `collection`.

    batch_tokens and compiled are as for `encoding.encode`. cache: a folder that keeps token ids between calls.
    Vectors of more than ON_DISK_BYTES are kept in a temporary file, in `EncoderSettings.disk_dtype`. Raises as
    `evaluate_embeddings`.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="effir-vectors-") as folder:
        asked = encoder.tokenize(collection.queries, "query", cache)
        begun = time.perf_counter()
        queries = ranks.encode_all(encoder, asked, batch_tokens, compiled)
        encoded = {"queries": (len(asked), time.perf_counter() - begun)}
        tokens = encoder.tokenize(collection.documents, "document", cache)
        begun, (rank, count) = time.perf_counter(), ranks.place()
        rows = ranks.shares(tokens.lengths, count)[rank]
        room = _room(Path(folder) / "document.npy", len(rows), encoder.dimension, encoder.settings.disk_dtype)
        documents = ranks.encode_own(encoder, tokens, rows, batch_tokens, compiled, room)
        encoded["documents"] = (len(tokens), time.perf_counter() - begun)
        found = _measured(ranks.search_own(queries, documents, rows, _depth(collection)), collection)
    return replace(found, seconds=time.perf_counter() - start, encoded=encoded)


def evaluate_texts(retriever: Retriever, collection: Collection, batch_tokens: int) -> Evaluation:
    """`evaluate` for any retriever, without a cache, on one rank. Raises as `evaluate_embeddings`."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="effir-vectors-") as folder:
        queries = retriever.encode(list(collection.queries), "query", batch_tokens)
        documents = encode_in_parts(retriever, collection.documents, batch_tokens, Path(folder) / "document.npy")
        found = evaluate_embeddings(queries, documents, collection)
    return replace(found, seconds=time.perf_counter() - start)


def encode_in_parts(retriever: Retriever, documents: Sequence[str], batch_tokens: int, file: Path) -> np.ndarray:
    """[P, D] vectors of documents, encoded PART at a time: float32 in memory, or in `file` where they are many.

    There in float16 where they are of length 1, so that it holds every number. The file may be removed once the array
    is not used any more.
    """
    room: np.ndarray | None = None
    for start in range(0, len(documents), PART):
        vectors = retriever.encode(list(documents[start : start + PART]), "document", batch_tokens)
        if room is None:
            unit_length = np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
            room = _room(file, len(documents), vectors.shape[1], np.float16 if unit_length else np.float32)
        room[start : start + PART] = vectors
    return np.empty((0, 0), np.float32) if room is None else room


def speeds(evaluations: list[Evaluation]) -> dict[str, float]:
    """queries_per_second, documents_per_second: over all collections, in batches, without tokenising."""
    found = {}
    for name in ENCODED.values():
        counts, seconds = zip(*(each.encoded[name] for each in evaluations), strict=True)
        found[f"{name}_per_second"] = sum(counts) / sum(seconds)
    return found


def _room(file: Path, count: int, size: int, on_disk: type[np.floating]) -> np.ndarray:
    """An array for `count` vectors of `size` numbers: float32 in memory, or a file where they are many."""
    if 4 * count * size <= ON_DISK_BYTES:
        return np.empty((count, size), np.float32)
    return np.lib.format.open_memmap(file, "w+", on_disk, (count, size))


def evaluate_embeddings(query_vectors: np.ndarray, document_vectors: np.ndarray, collection: Collection) -> Evaluation:
    """Search and measure given vectors: queries [Q, D], documents [P, D], in the collection's order, on one rank.

    Every judged query counts; one without results counts 0. Raises ValueError for shapes that do not fit the
    collection, FloatingPointError for vectors that are not finite (the training diverged).
    """
    start = time.perf_counter()
    _check_vectors("query", query_vectors, len(collection.query_ids))
    _check_vectors("document", document_vectors, len(collection.document_ids))
    found = _measured(exact_search(query_vectors, document_vectors, _depth(collection)), collection)
    return replace(found, seconds=time.perf_counter() - start)


def _depth(collection: Collection) -> int:
    # A query's own id takes one rank: with one document more, DEPTH are left without it.
    return DEPTH + 1 if collection.ignore_identical_ids else DEPTH


def _measured(found: Found, collection: Collection) -> Evaluation:
    """The metrics of search results; `seconds` is left to the caller."""
    ranked = rankings(*found, collection)
    per_query = measure_all({q: [d for d, _ in documents] for q, documents in ranked.items()}, collection.qrels)
    return Evaluation(mean(list(per_query.values())), per_query, 0.0, ranked)


def rankings(similarities: np.ndarray, indices: np.ndarray, collection: Collection) -> Ranked:
    """The ranking of each query from search results [Q, k], ties broken as trec_eval does.

    The document with the query's own id is left out where the collection asks for it.
    """
    ranked: Ranked = {}
    for query_id, row, columns in zip(collection.query_ids, similarities, indices, strict=True):
        near = dict(zip((collection.document_ids[column] for column in columns), row.tolist(), strict=True))
        own = query_id if collection.ignore_identical_ids else None
        ranked[query_id] = [(d, near[d]) for d in trec_order(list(near), list(near.values())) if d != own]
    return ranked


def _check_vectors(kind: str, vectors: np.ndarray, count: int) -> None:
    if vectors.ndim != 2 or len(vectors) != count:
        raise ValueError(f"{kind} vectors must be [{count}, D], got {list(vectors.shape)}")
    ranks.check_finite(kind, vectors)
