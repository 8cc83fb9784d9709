"""An evaluation on several ranks: each encodes and searches its own part of the corpus, and the best are merged.

No rank ever holds the vectors of all documents. On one rank the part is all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from effir_dist.evaluate.exact import Found, exact_search, merged

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder
    from effir_dist.models.tokens import Tokens

T = TypeVar("T")


def place() -> tuple[int, int]:
    """This rank and how many there are; 0, 1 where nothing is distributed."""
    import torch.distributed as dist

    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def is_first() -> bool:
    """Whether this is rank 0, which writes."""
    return place()[0] == 0


def shares(lengths: np.ndarray, ranks: int) -> list[np.ndarray]:
    """The texts of each rank, ascending: every W-th of them by length [N], so that the parts are equal work.

    Ascending, so that of equal similarities the earlier document comes first within a part, too.
    """
    if ranks == 1:
        return [np.arange(len(lengths))]
    order = np.argsort(lengths, kind="stable")
    return [np.sort(order[rank::ranks]) for rank in range(ranks)]


def encode_own(
    encoder: Encoder, tokens: Tokens, rows: np.ndarray, batch_tokens: int, compiled: str, out: np.ndarray | None = None
) -> np.ndarray:
    """[n, D] vectors of this rank's texts; returns when all ranks have theirs."""
    from effir_dist.models.encoding import encode

    vectors = encode(encoder, tokens, batch_tokens, compiled, out, rows)
    exchanged(None)
    return vectors


def encode_all(encoder: Encoder, tokens: Tokens, batch_tokens: int, compiled: str) -> np.ndarray:
    """[N, D] float32 on every rank, each of which encodes a part. For queries: documents may be too many."""
    rank, ranks = place()
    rows = shares(tokens.lengths, ranks)
    parts = exchanged(encode_own(encoder, tokens, rows[rank], batch_tokens, compiled))
    vectors = np.empty((len(tokens), encoder.dimension), np.float32)
    for own, part in zip(rows, parts, strict=True):
        vectors[own] = part
    return vectors


def search_own(queries: np.ndarray, documents: np.ndarray, rows: np.ndarray, k: int) -> Found:
    """`exact_search` in the whole corpus, on every rank. documents [n, D]: of this rank's `rows` [n] of the corpus.

    Raises FloatingPointError on all ranks where the vectors of one of them are not finite.
    """
    found = _found(queries, documents, rows, k)
    parts = []
    for part in exchanged(found):
        if isinstance(part, FloatingPointError):
            raise part
        parts.append(part)
    return merged(parts, k) if len(parts) > 1 else parts[0]


def _found(queries: np.ndarray, documents: np.ndarray, rows: np.ndarray, k: int) -> Found | FloatingPointError:
    try:
        check_finite("query", queries)
        check_finite("document", documents)
    except FloatingPointError as error:
        return error  # the others wait for an answer
    similarities, indices = exact_search(queries, documents, k)
    return similarities, rows[indices]


def exchanged(own: T) -> list[T]:
    """What each rank gave, on every rank."""
    import torch.distributed as dist

    ranks = place()[1]
    parts = [own] * ranks
    if ranks > 1:
        dist.all_gather_object(parts, own)
    return parts


def check_finite(kind: str, vectors: np.ndarray) -> None:
    """Raises FloatingPointError where a number is not finite: the model has diverged."""
    # The extremes show every NaN and infinity, without a mask of the vectors' size.
    if vectors.size and not (np.isfinite(vectors.min()) and np.isfinite(vectors.max())):
        raise FloatingPointError(f"{kind} vectors hold values that are not finite: the model has diverged")
