"""Folders as `benchmarks.search.table` leaves them, of a made-up model whose scores are a known function of plans."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from benchmarks.search import plans
from benchmarks.search.plans import Point
from effir_dist.models.operations.neuron_order import NeuronOrder
from effir_dist.models.pruning import PruningPlan, count_parameters, make_plan, moving_share

STEPS = 10
NOISE = 0.004
"""Standard deviation of a trained score."""


def config(blocks: int) -> dict[str, object]:
    """Of a BERT."""
    own = {"num_hidden_layers": blocks, "intermediate_size": 64, "hidden_size": 16, "num_attention_heads": 4}
    return {"model_type": "bert", "vocab_size": 400, "max_position_embeddings": 64, "type_vocab_size": 2, **own}


def quality(plan: PruningPlan, blocks: int, trained: bool) -> float:
    """nDCG@10 without noise: each MLP is worth what its place says, two neighbours more than their sum."""
    widths = np.array(plan.sizes(config(blocks)).widths) / 64
    value = np.linspace(0.5, 1.5, blocks) ** 2
    lost = value / value.sum() * (1 - widths**0.25)
    pairs = ((widths[1:] == 0) & (widths[:-1] == 0)).sum() / blocks
    harm = lost.sum() + 0.2 * pairs + 0.1 * len(plan.dropped_attention) / blocks
    return float(0.7 * np.exp(-(0.6 if trained else 2.0) * harm))


def make(folder: Path, blocks: int, count: int) -> Path:
    """A table of `count` plans, every fifth not trained; the plans of the recipe or of the paper and the grid first."""
    rng, neurons = np.random.default_rng(0), np.random.default_rng(1).random((blocks, 64))
    importance = (np.linspace(0.5, 1.5, blocks) ** 2).tolist()
    order = plans.by_importance(importance)
    few = blocks <= plans.MOST_ALL_SETS
    groups = 2 if few else 3
    named = plans.recipe(order) if few else [*plans.paper(order, groups), *plans.grid(order, groups)]
    others = plans.sampled(order, order, groups, max(0, count - len(named) - 1), 0)
    points = dict.fromkeys([plans.point((), [1.0] * groups, blocks), *named, *others])
    folder.mkdir(parents=True)
    with (folder / "table.csv").open("w", newline="") as file:
        own = ["parameters_fraction", "moving_share", "ndcg_0", "small_0", "ndcg_10", "small_10", "test_10"]
        writer = csv.DictWriter(file, ["key", *own])
        writer.writeheader()
        ranks = NeuronOrder(neurons)
        writer.writerows(_row(point, blocks, ranks, rng, i % 5 != 4) for i, point in enumerate(points))
    np.savez(folder / "neurons.npz", activation=neurons)
    facts = {
        "model_config": config(blocks),
        "importance": {"mlp": importance, "attention": importance, "block": importance},
        "work": {"train_10": 900.0, "score": 100.0, "score_small": 40.0},
    }
    (folder / "facts.json").write_text(json.dumps(facts))
    return folder


def _row(point: Point, blocks: int, neurons: NeuronOrder, rng: np.random.Generator, trained: bool) -> dict[str, object]:
    model = config(blocks)
    plan = make_plan(model, point.dropped, point.attentions, point.ratios, neurons, plans.RANKING)
    before, after = quality(plan, blocks, False), quality(plan, blocks, True)
    luck = rng.normal(0, NOISE)
    scores = {"ndcg_10": after + luck, "small_10": after + luck, "test_10": after + luck + rng.normal(0, NOISE)}
    size = count_parameters(model, plan) / count_parameters(model)
    untrained = {"ndcg_0": before, "small_0": before + rng.normal(0, NOISE)}
    own = {"key": point.key, "parameters_fraction": size, "moving_share": moving_share(model, plan)}
    return {**own, **untrained, **(scores if trained else {})}
