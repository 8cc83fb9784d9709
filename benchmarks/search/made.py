"""A made-up model of 32 blocks, searched by the product's own samplers and schedulers, in seconds and without training:

    python -m benchmarks.search.made [--seeds 8] [--workers 1 16] [--budget 40] [--only guided random]

Each sub-layer has a damage of its own that grows with how much of it is gone, and neighbours harm each other.
Importance is correlated 0.6 with the damage, the score without training 0.7; both scores are noisy. So the order of
importance is a help and no truth, and no plan is missing: whatever a sampler proposes is scored. Hypervolumes are of
the quality without noise, at costs in full trials of the unpruned model.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.search.simulated import Memory, is_full, run_workers
from effir_dist.core import config as config_module
from effir_dist.core.settings import RunConfig
from effir_dist.importance.ranking import Importance
from effir_dist.models.families.base import ModelDict, block_count, mlp_width
from effir_dist.models.pruning import PruningPlan, mlp_widths, moving_share
from effir_dist.runs.pareto import hypervolume
from effir_dist.runs.records import TrialSpec
from effir_dist.search.strategy import space_file
from effir_dist.search.strategy.next_trial import TrialQueue

MODEL: ModelDict = {
    "model_type": "llama",
    "vocab_size": 8192,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 32,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
WORK = {"train": 0.85, "score": 0.15, "low": 0.02}
"""Shares of a full trial: training, scoring in full, scoring on the lower rung."""
NOISE = (0.012, 0.004)
"""Of a score on the lower rung and on the top."""
HARSH = 2.5
"""How much larger the damage is without training."""


class MadeModel:
    """Damages of one model, drawn by a seed."""

    def __init__(self, seed: int, config: ModelDict = MODEL) -> None:
        self.config, rng = config, np.random.default_rng(seed)
        blocks, width = block_count(config), mlp_width(config)
        drawn = {name: rng.standard_normal((2, blocks)) for name in ("top", "importance", "low")}
        scale = np.array([[1.6], [2.4]]) / blocks
        self.damage = scale * np.exp(drawn["top"])
        """[2, L] of MLPs and attentions."""
        self.low_damage = scale * np.exp(0.7 * drawn["top"] + np.sqrt(1 - 0.7**2) * drawn["low"])
        found = np.exp(0.6 * drawn["top"] + 0.8 * drawn["importance"])
        self.importance = Importance(*(tuple(row.tolist()) for row in (*found, found.sum(0))))
        spread = rng.lognormal(0.0, 1.0, (blocks, width)) * (0.5 + found[0] / found[0].mean())[:, None]
        self.neurons = {"activation": spread.astype(np.float32)}
        self.seed = seed

    def quality(self, plan: PruningPlan, low: bool = False) -> float:
        """As a share of the unpruned model's after full training, without noise. low: without training."""
        damage = self.low_damage if low else self.damage
        gone = 1 - np.array(mlp_widths(self.config, plan)) / mlp_width(self.config)
        attention = np.zeros(len(gone))
        attention[list(plan.dropped_attention)] = 1
        each = damage * np.stack([np.where(gone == 1, 1.0, 0.75 * gone**2), attention])
        beside = 0.6 * np.sqrt(each[0, 1:] * each[0, :-1]).sum()
        return float(np.exp(-(HARSH if low else 1.0) * (each.sum() + beside)))

    def score(self, spec: TrialSpec, low: bool = False) -> float:
        """With the noise of this model's evaluation, which is the same each time."""
        digest = hashlib.sha256(f"{self.seed}/{low}/{spec.key}".encode()).digest()
        noise = np.random.default_rng(int.from_bytes(digest[:8], "little")).standard_normal()
        return max(0.001, self.quality(spec.plan, low) + NOISE[not low] * float(noise))

    def size(self, plan: PruningPlan) -> float:
        """Share of the parameters of the blocks."""
        return moving_share(self.config, plan)


class Searched:
    """A search of the product without its driver, with simulated workers."""

    def __init__(self, model: MadeModel, space: dict[str, Any], settings: dict[str, Any], workers: int = 1) -> None:
        self.model, self.workers, self.memory = model, workers, Memory()
        config = config_module.replace(RunConfig(), {f"search.{name}": value for name, value in settings.items()})
        parsed = space_file.parse_space(space, "made")
        self.queue = TrialQueue(self.memory, config, parsed, model.config, model.importance, model.neurons, WORK)
        self.found: list[tuple[float, PruningPlan]] = []
        """Cost of all that had ended, and the plan, of each full trial in the order in which they ended."""
        self.count, self.seconds = 0, list[float]()

    def run(self, budget: float) -> None:
        """Until `budget` full trials of the unpruned model were handed out."""
        run_workers(self.next, self.cost, self.end, budget, self.workers)

    def next(self) -> TrialSpec | None:
        begun = time.process_time()
        spec = self.queue.next(self.count)
        self.seconds.append(time.process_time() - begun)
        self.count += spec is not None and spec.number == self.count
        return spec

    def cost(self, spec: TrialSpec) -> float:
        """Of a job."""
        full = is_full(self.queue, spec)
        return self.model.size(spec.plan) * (WORK["train"] + WORK["score"] if full else WORK["low"])

    def end(self, spec: TrialSpec, done: float) -> None:
        """A job ended; done: the cost of all that ended so far."""
        full = is_full(self.queue, spec)
        self.memory.tell(self.queue, spec, self.model.score(spec, low=not full))
        if full:
            self.found.append((done, spec.plan))

    def hypervolume(self, cost: float) -> float:
        return volume(self.model, (plan for spent, plan in self.found if spent <= cost))


def volume(model: MadeModel, plans: Iterator[PruningPlan]) -> float:
    """Of quality without noise against parameters of the blocks."""
    return hypervolume([(model.size(plan), model.quality(plan)) for plan in plans])


Widths = {"low": 0.25, "high": 1.0, "step": 0.25}
SPACES: dict[str, dict[str, Any]] = {
    "mlp": {"drop_mlp": {"max": 32}, "width_ratio": {**Widths, "groups": 4}},
    "both": {"drop_mlp": {"max": 32}, "drop_attention": {"max": 32}, "width_ratio": {**Widths, "groups": 4}},
}
PREFIX = {"layers": "top_k", "width_ratio": Widths}
GUIDED = {"sampler": "guided", "scheduler": "screening"}
PLAIN = {"scheduler": "plain"}


def fixed(widths: tuple[float, ...], shares: tuple[float, ...]) -> dict[str, Any]:
    """Plans in order of importance: shares of the MLPs dropped, times width ratios."""
    plans = {f"{s}/{w}": {"drop_mlp": s, "width_ratio": w} for w in widths for s in shares}
    return {"plans": {"full": {}, **plans}}


STRATEGIES: dict[str, Callable[[dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]]] = {
    "guided": lambda space: (space, GUIDED),
    "guided plain": lambda space: (space, {**GUIDED, **PLAIN}),
    "prefix": lambda space: (fixed((1.0,), tuple(k / 32 for k in range(1, 32))), PLAIN),
    "grid of 22": lambda space: (fixed((1.0, 0.7, 0.4), tuple(k / 8 for k in range(1, 8))), PLAIN),
    "tpe prefix": lambda space: ({**space, **PREFIX}, {"sampler": "tpe", **PLAIN}),
    "random": lambda space: (space, {"sampler": "random", **PLAIN}),
}
AT = (10, 15, 25, 40)


def main() -> None:
    """Search, print medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search.made", description=__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--budget", type=float, default=40.0)
    parser.add_argument("--space", choices=list(SPACES), default="mlp")
    parser.add_argument("--only", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES))
    args = parser.parse_args()
    for name, workers in itertools.product(args.only, args.workers):
        space, settings = STRATEGIES[name](SPACES[args.space])
        rows, seconds = [], list[float]()
        for seed in range(args.seeds):
            searched = Searched(MadeModel(seed), space, {**settings, "seed": seed}, workers)
            searched.run(args.budget)
            rows.append([searched.hypervolume(cost) for cost in AT if cost <= args.budget])
            seconds += searched.seconds
        middle = "  ".join(f"{v:.4f}" for v in np.median(rows, axis=0))
        print(f"{name:<14} {workers:>3} workers  {middle}   [{1000 * np.mean(seconds):.1f} ms a step]", flush=True)


if __name__ == "__main__":
    main()
