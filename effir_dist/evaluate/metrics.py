"""nDCG, recall and reciprocal rank of one ranking, as trec_eval computes them (measures of trec_eval 9.0.8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

METRICS = ("ndcg_at_10", "recall_at_100", "mrr_at_10")


def trec_order(document_ids: Sequence[str], similarities: Sequence[float] | np.ndarray) -> list[str]:
    """`document_ids` from best to worst: descending float32 similarity, ties by descending id, as trec_eval sorts.

    similarities: [P], one for each of `document_ids`. Raises ValueError for another length.
    """
    single = np.asarray(similarities, dtype=np.float32).tolist()
    pairs = sorted(zip(single, document_ids, strict=True), reverse=True)
    return [document_id for _, document_id in pairs]


def discounted_gain(gains: np.ndarray) -> float:
    """Sum of gain / log2(rank + 1) over ranks 1, 2, ... (Järvelin and Kekäläinen 2002, linear gain).

    `gains` [k] is in ranked order.
    """
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())


def ndcg(ranking: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """nDCG@k (trec_eval's `ndcg_cut.k`): gain = grade; unjudged, zero and negative grades gain nothing.

    The ideal ranking is of all judged documents, retrieved or not. 0 where none has a grade above 0.
    """
    ideal = sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:k]
    if not ideal:
        return 0.0
    gains = [max(grades.get(document_id, 0), 0) for document_id in ranking[:k]]
    return discounted_gain(np.array(gains, dtype=np.float64)) / discounted_gain(np.array(ideal, dtype=np.float64))


def recall(ranking: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """Recall@k (trec_eval's `recall.k`): share of the documents with a grade above 0 among the first k; 0 if none."""
    relevant = sum(grade > 0 for grade in grades.values())
    found = sum(grades.get(document_id, 0) > 0 for document_id in ranking[:k])
    return found / relevant if relevant else 0.0


def reciprocal_rank(ranking: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """MRR@k of one query (trec_eval's `recip_rank`, cut at k): 1 / rank of the first grade above 0, or 0."""
    for rank, document_id in enumerate(ranking[:k], start=1):
        if grades.get(document_id, 0) > 0:
            return 1.0 / rank
    return 0.0


def measure(ranking: Sequence[str], grades: Mapping[str, int]) -> dict[str, float]:
    """The three metrics (`METRICS`) of one query."""
    return {
        "ndcg_at_10": ndcg(ranking, grades, 10),
        "recall_at_100": recall(ranking, grades, 100),
        "mrr_at_10": reciprocal_rank(ranking, grades, 10),
    }


def measure_all(
    rankings: Mapping[str, Sequence[str]], qrels: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, float]]:
    """Query id -> metrics, for every judged query. One that `rankings` lacks counts 0; one not judged is left out.

    By default trec_eval skips a query that the run lacks, which flatters the mean. This is its option `-c`.
    """
    return {query_id: measure(rankings.get(query_id, ()), grades) for query_id, grades in qrels.items()}


def mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over `rows` (queries, or data sets). Raises ValueError where there is none."""
    if not rows:
        raise ValueError("a mean of metrics needs at least one judged query")
    return {name: float(np.mean([row[name] for row in rows])) for name in METRICS}
