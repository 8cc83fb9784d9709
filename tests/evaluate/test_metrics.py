"""The metrics against trec_eval itself (pytrec_eval) and against beir, on random runs."""

from __future__ import annotations

import math
import random

import pytest

from effir_dist.evaluate.metrics import mean, measure, measure_all, ndcg, recall, reciprocal_rank, trec_order
from tests import needs

Run = dict[str, dict[str, float]]
Qrels = dict[str, dict[str, int]]
GRADES = (-2, -1, 0, 0, 1, 1, 2, 3, 7)
# Ids whose order as strings, as numbers and as bytes differs.
NAMES = [f"{n}" for n in range(150)] + [f"d{n:03d}" for n in range(60)] + ["é", "ß1", "文", "😀", "A", "a", "-", "_"]


def random_run(generator: random.Random) -> tuple[Run, Qrels]:
    """Few distinct scores (many ties), graded judgements, some queries on one side only."""
    levels = [round(generator.uniform(-1, 1), 3) for _ in range(generator.choice([1, 3, 20, 2000]))]
    run: Run = {}
    qrels: Qrels = {}
    for number in range(generator.randint(1, 12)):
        found = generator.sample(NAMES, generator.choice([1, 5, 10, 60, 100, len(NAMES)]))
        judged = generator.sample(NAMES, generator.choice([1, 2, 8, 40, 120]))
        if generator.random() < 0.9:
            # Below float32's resolution: equal to trec_eval, different to Python.
            run[f"q{number}"] = {d: generator.choice(levels) + generator.choice([0, 0, 1e-12]) for d in found}
        if generator.random() < 0.9:
            # trec_eval writes past its buffers where every grade of a query is below -1: one is always at least 0.
            qrels[f"q{number}"] = {d: generator.choice(GRADES) for d in judged} | {judged[0]: generator.choice((0, 1))}
    return run, qrels


def ours(run: Run, qrels: Qrels) -> dict[str, dict[str, float]]:
    return measure_all({q: trec_order(list(row), list(row.values())) for q, row in run.items()}, qrels)


def trec_eval(run: Run, qrels: Qrels) -> dict[str, dict[str, float]]:
    """pytrec_eval, with a query that the run lacks as 0 and the reciprocal rank cut at 10."""
    pytrec_eval = needs.module("pytrec_eval")
    rows = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.100", "recip_rank"}).evaluate(run)
    lacking = {"ndcg_cut_10": 0.0, "recall_100": 0.0, "recip_rank": 0.0}
    result = {}
    for query in qrels:
        row = rows.get(query, lacking)
        rank = row["recip_rank"]
        result[query] = {
            "ndcg_at_10": row["ndcg_cut_10"],
            "recall_at_100": row["recall_100"],
            "mrr_at_10": rank if rank > 1 / 10.5 else 0.0,
        }
    return result


@pytest.mark.parametrize("seed", range(200))
def test_equals_trec_eval_on_random_runs(seed: int) -> None:
    run, qrels = random_run(random.Random(seed))
    got, expected = ours(run, qrels), trec_eval(run, qrels)
    assert got.keys() == expected.keys()
    for query, row in expected.items():
        assert got[query] == pytest.approx(row, abs=1e-12), query


@pytest.mark.parametrize("seed", range(20))
def test_means_equal_beir_where_the_run_has_every_query(seed: int) -> None:
    # beir divides by the run's queries, so both sides hold the same ones, and rounds to 5 places.
    retrieval = needs.module("beir.retrieval.evaluation")
    run, qrels = random_run(random.Random(seed))
    qrels = {query: qrels[query] for query in run if query in qrels}
    if not qrels:
        pytest.skip("this seed has no query on both sides")
    run = {query: run[query] for query in qrels}
    gains, _, recalls, _ = retrieval.EvaluateRetrieval.evaluate(qrels, run, [10, 100], ignore_identical_ids=False)
    got = mean(list(ours(run, qrels).values()))
    assert got["ndcg_at_10"] == pytest.approx(gains["NDCG@10"], abs=5.1e-6)
    assert got["recall_at_100"] == pytest.approx(recalls["Recall@100"], abs=5.1e-6)


def test_by_hand() -> None:
    grades = {"a": 3, "b": 1, "c": 0, "d": -1}
    ranking = ["d", "x", "b", "a"]
    best = 3 + 1 / math.log2(3)
    assert ndcg(ranking, grades, 10) == pytest.approx((1 / math.log2(4) + 3 / math.log2(5)) / best)
    assert ndcg(ranking, grades, 3) == pytest.approx((1 / math.log2(4)) / best)
    assert recall(ranking, grades, 3) == 0.5
    assert reciprocal_rank(ranking, grades, 10) == pytest.approx(1 / 3)
    assert reciprocal_rank(ranking, grades, 2) == 0.0


def test_ties_go_to_the_greater_id_as_a_string() -> None:
    assert trec_order(["10", "9", "b", "a"], [0.5, 0.5, 0.7, 0.1]) == ["b", "9", "10", "a"]
    # Equal as float32, though not as float64.
    assert trec_order(["1", "2"], [1.0 + 1e-9, 1.0]) == ["2", "1"]


def test_a_judged_query_that_the_run_lacks_counts_0() -> None:
    rows = measure_all({"q1": ["a"], "unjudged": ["a"]}, {"q1": {"a": 1}, "q2": {"a": 1}})
    assert set(rows) == {"q1", "q2"}
    assert rows["q2"] == {"ndcg_at_10": 0.0, "recall_at_100": 0.0, "mrr_at_10": 0.0}
    assert mean(list(rows.values())) == {"ndcg_at_10": 0.5, "recall_at_100": 0.5, "mrr_at_10": 0.5}


@pytest.mark.parametrize("grades", [{}, {"a": 0}, {"a": -1, "b": 0}, {"a": -2}])
def test_a_query_without_a_relevant_document_scores_0(grades: dict[str, int]) -> None:
    assert set(measure(["a", "b"], grades).values()) == {0.0}


def test_no_queries_is_an_error() -> None:
    with pytest.raises(ValueError, match="judged query"):
        mean([])
