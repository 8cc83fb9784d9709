"""Exact inner-product search over vectors in memory or on disk, block by block.

Of equal similarities the earlier document comes first, however a block is searched and however large it is.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from effir_dist.models.kernels.processor import Processor, this_processor

if TYPE_CHECKING:
    import torch

BLOCK_BYTES = 256 * 2**20
"""Of document vectors that are copied at a time, as float32."""
PRODUCT_BYTES = 2**30
"""Of similarities of all queries with a block's documents that one matrix product may make."""
BLAS_FROM = 8
"""From this many queries on, faiss multiplies matrices and does not compare vectors one by one."""
Found = tuple[np.ndarray, np.ndarray]
"""Similarities float32 [Q, k] and indices int64 [Q, k], best first."""


def exact_search(queries: np.ndarray, documents: np.ndarray, k: int, processor: Processor | None = None) -> Found:
    """The k documents [P, D] of the largest inner product with each query [Q, D]; fewer columns where P < k.

    On a GPU it is a matrix product, on a CPU faiss or a matrix product, whichever is faster there
    (docs/results/speed.md).
    `documents` may be a memory map of any float type: BLOCK_BYTES of it are in memory at a time, as float32.
    processor: this machine's where none is given.
    """
    import torch

    by_product = len(queries) >= BLAS_FROM and (processor or this_processor()).multiplies_by_mkl
    by_product = by_product or torch.cuda.is_available() or importlib.util.find_spec("faiss") is None
    return (search_by_product if by_product else search_by_faiss)(queries, documents, k)


def search_by_faiss(queries: np.ndarray, documents: np.ndarray, k: int) -> Found:
    """`exact_search` by faiss, on the CPU."""
    queries = np.ascontiguousarray(queries, np.float32)
    best = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for start, rows in _blocks(documents, BLOCK_BYTES // 4):
        similarities, indices = _by_faiss(queries, np.ascontiguousarray(rows, np.float32), k)
        best = np.concatenate([best[0], similarities], axis=1), np.concatenate([best[1], indices + start], axis=1)
        order = np.argsort(-best[0], axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(best[0], order, 1), np.take_along_axis(best[1], order, 1)
    return best


def _by_faiss(queries: np.ndarray, rows: np.ndarray, k: int) -> Found:
    """The search in one block. faiss leaves open which of equal similarities it takes, and in which order."""
    import faiss
    import torch

    # Versions of faiss compare the threshold with queries or with their numbers: so it is all or nothing here. faiss's
    # own choice (1.15: from 128,000 numbers on) takes eight times as long for 300 queries of 384 dimensions.
    faiss.cvar.distance_compute_blas_threshold = 1 if len(queries) >= BLAS_FROM else 2**31 - 1
    one_more = min(k + 1, len(rows))
    found = faiss.knn(queries, rows, one_more, metric=faiss.METRIC_INNER_PRODUCT)
    order = np.lexsort((found[1], -found[0]), axis=1)
    similarities, indices = np.take_along_axis(found[0], order, 1), np.take_along_axis(found[1], order, 1)
    if one_more > k:
        tied = np.flatnonzero(similarities[:, k - 1] == similarities[:, k])
        similarities, indices = similarities[:, :k].copy(), indices[:, :k].copy()
        for query in tied:
            product = torch.from_numpy(rows) @ torch.from_numpy(queries[query])
            ordered = product.sort(descending=True, stable=True)
            similarities[query], indices[query] = ordered.values[:k].numpy(), ordered.indices[:k].numpy()
    return similarities, indices.astype(np.int64)


def search_by_product(queries: np.ndarray, documents: np.ndarray, k: int) -> Found:
    """`exact_search` by a matrix product in float32, on the GPU where there is one, to which float16 goes as it is."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    asked = torch.from_numpy(np.ascontiguousarray(queries, np.float32)).to(device)
    best = (torch.empty(len(asked), 0, device=device), torch.empty(len(asked), 0, dtype=torch.int64, device=device))
    most_rows = PRODUCT_BYTES // 4 // max(1, len(asked))
    for start, rows in _blocks(documents, min(BLOCK_BYTES // 4, most_rows * documents.shape[1])):
        block = torch.from_numpy(np.array(rows, np.float16 if rows.dtype == np.float16 else np.float32))
        if device.type == "cuda":
            block = block.pin_memory().to(device, non_blocking=True)
        similarities, indices = _top(asked @ block.float().T, k)
        # The sort is stable, and documents of earlier blocks come first in what is sorted.
        best = torch.cat([best[0], similarities], 1), torch.cat([best[1], indices + start], 1)
        best = _gathered(best, best[0].argsort(dim=1, descending=True, stable=True)[:, :k])
    return best[0].cpu().numpy(), best[1].cpu().numpy()


def merged(parts: Sequence[Found], k: int) -> Found:
    """The k best of what was found in several parts of a corpus. Their indices are of the whole corpus."""
    similarities, indices = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    order = np.lexsort((indices, -similarities), axis=1)[:, :k]
    return np.take_along_axis(similarities, order, 1), np.take_along_axis(indices, order, 1)


def _top(similarities: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best of each row [Q, P], equal ones in the order of documents: a stable sort without sorting all.

    Top-k may take any of those that equal the k-th. A row in which there are more of them is sorted after all.
    """
    best = similarities.topk(min(k + 1, similarities.shape[1]), dim=1)
    found = _gathered((best.values, best.indices), best.indices.argsort(dim=1))
    found = _gathered(found, found[0].argsort(dim=1, descending=True, stable=True))
    if similarities.shape[1] > k:
        tied = (found[0][:, k - 1] == found[0][:, k]).nonzero()[:, 0].tolist()
        found = found[0][:, :k].clone(), found[1][:, :k].clone()
        for row in tied:
            ordered = similarities[row].sort(descending=True, stable=True)
            found[0][row], found[1][row] = ordered.values[:k], ordered.indices[:k]
    return found


def _gathered(pair: tuple[torch.Tensor, torch.Tensor], order: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return pair[0].gather(1, order), pair[1].gather(1, order)


def _blocks(documents: np.ndarray, numbers: int) -> Iterator[tuple[int, np.ndarray]]:
    """(First row, rows) of consecutive blocks of `documents` [P, D], each of at most `numbers` numbers or one row."""
    step = max(1, numbers // max(1, documents.shape[1]))
    for start in range(0, len(documents), step):
        yield start, documents[start : start + step]
