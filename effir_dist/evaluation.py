"""Scores of an encoder on one collection: exact inner-product search, then metrics per query."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effir_dist.errors import InputError
from effir_dist.metrics import mean, measure_all, trec_order

if TYPE_CHECKING:
    from effir_dist.data import Collection
    from effir_dist.encoder import Encoder
    from effir_dist.tokens import Tokens

DEPTH = 100
"""Documents retrieved for a query: what Recall@100 needs."""
BLOCK_BYTES = 256 * 2**20
"""Document vectors that the search copies at a time."""


@dataclass(frozen=True)
class Scores:
    """What one encoder reached on one collection."""

    metrics: dict[str, float]
    """ndcg_at_10, recall_at_100, mrr_at_10: means over all judged queries."""
    per_query: dict[str, dict[str, float]]
    """Query id -> the same three."""
    seconds: float
    """From the first text tokenised (or the first vector searched) to the metrics."""


def score(encoder: Encoder, collection: Collection, batch_tokens: int, cache: Path | None = None) -> Scores:
    """Tokenise, encode, search and measure `collection`.

    `batch_tokens` bounds a batch, padding included; `cache` is a folder that keeps token ids between calls.
    Raises as `score_embeddings`.
    """
    start = time.perf_counter()
    queries = encode_shared(encoder, encoder.tokenize(collection.queries, "query", cache), batch_tokens)
    documents = encode_shared(encoder, encoder.tokenize(collection.documents, "document", cache), batch_tokens)
    scores = score_embeddings(queries, documents, collection)
    return Scores(scores.metrics, scores.per_query, time.perf_counter() - start)


def encode_shared(encoder: Encoder, tokens: Tokens, batch_tokens: int) -> np.ndarray:
    """`Encoder.encode_tokens`, [N, D]; where there are several ranks each encodes a part, and all have the whole."""
    import torch.distributed as dist

    ranks = dist.get_world_size() if dist.is_initialized() else 1
    if ranks == 1:
        return encoder.encode_tokens(tokens, batch_tokens)
    # Every W-th of the texts by length: parts of equal work.
    shares = [np.argsort(tokens.lengths, kind="stable")[rank::ranks] for rank in range(ranks)]
    own = encoder.encode_tokens(tokens.select(shares[dist.get_rank()]), batch_tokens)
    parts: list[np.ndarray] = [own] * ranks
    dist.all_gather_object(parts, own)
    whole = np.empty((len(tokens), own.shape[1]), np.float32)
    for share, part in zip(shares, parts, strict=True):
        whole[share] = part
    return whole


def score_embeddings(query_vectors: np.ndarray, document_vectors: np.ndarray, collection: Collection) -> Scores:
    """Search and measure vectors that are there already: queries [Q, D], documents [P, D], in the collection's order.

    Every judged query counts, one without results as 0. Raises ValueError for shapes that do not fit the collection,
    FloatingPointError for vectors that are not finite (a training that diverged).
    """
    start = time.perf_counter()
    _check_vectors("query", query_vectors, len(collection.query_ids))
    _check_vectors("document", document_vectors, len(collection.document_ids))
    # A query's own id takes one place, so one more keeps DEPTH after it has left.
    depth = DEPTH + 1 if collection.ignore_identical_ids else DEPTH
    similarities, indices = exact_search(query_vectors, document_vectors, depth)
    per_query = measure_all(rankings(similarities, indices, collection), collection.qrels)
    return Scores(mean(list(per_query.values())), per_query, time.perf_counter() - start)


def rankings(similarities: np.ndarray, indices: np.ndarray, collection: Collection) -> dict[str, list[str]]:
    """Query id -> document ids from best to worst, of search results [Q, k], ties broken as trec_eval does.

    The document with the query's own id is left out where the collection asks for it.
    """
    ranked: dict[str, list[str]] = {}
    for query_id, row, places in zip(collection.query_ids, similarities, indices, strict=True):
        ids = trec_order([collection.document_ids[place] for place in places], row)
        if collection.ignore_identical_ids:
            ids = [document_id for document_id in ids if document_id != query_id]
        ranked[query_id] = ids
    return ranked


def exact_search(queries: np.ndarray, documents: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k documents [P, D] of the largest inner product with each query [Q, D].

    Returns (scores float32 [Q, k], indices int64 [Q, k]), best first; fewer than k columns where P < k. Documents are
    searched a block at a time, so the copy that faiss keeps stays below BLOCK_BYTES. Raises InputError without faiss.
    """
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    scores = np.empty((len(queries), 0), dtype=np.float32)
    indices = np.empty((len(queries), 0), dtype=np.int64)
    for start, block in _blocks(documents):
        block_scores, block_indices = _search_block(queries, block, k)
        scores = np.concatenate([scores, block_scores], axis=1)
        indices = np.concatenate([indices, block_indices + start], axis=1)
        # Stable: of equal scores the earlier document stays first, whatever the size of a block.
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, indices = np.take_along_axis(scores, best, 1), np.take_along_axis(indices, best, 1)
    return scores, indices


def _blocks(documents: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(First row, float32 rows) of consecutive blocks of `documents` [P, D]."""
    rows = max(1, BLOCK_BYTES // (4 * max(1, documents.shape[1])))
    for start in range(0, len(documents), rows):
        yield start, np.ascontiguousarray(documents[start : start + rows], dtype=np.float32)


def _search_block(queries: np.ndarray, block: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`exact_search` in one block, by faiss."""
    try:
        import faiss
    except ImportError:
        raise InputError("faiss is not installed; install `effir_dist[cpu]`, or `effir_dist[gpu]` with a GPU") from None
    index = faiss.IndexFlatIP(block.shape[1])
    index.add(block)
    scores, indices = index.search(queries, min(k, len(block)))
    return scores, indices


def _check_vectors(kind: str, vectors: np.ndarray, count: int) -> None:
    if vectors.ndim != 2 or len(vectors) != count:
        raise ValueError(f"{kind} vectors must be [{count}, D], got {list(vectors.shape)}")
    # The extremes show every NaN and infinity, without a mask the size of the vectors.
    if vectors.size and not (np.isfinite(vectors.min()) and np.isfinite(vectors.max())):
        raise FloatingPointError(f"{kind} vectors hold values that are not finite: the model has diverged")
