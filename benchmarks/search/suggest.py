"""How long a suggestion takes, in a search of a large model that has gone on for long:

    python -m benchmarks.search.suggest [--blocks 36] [--trained 200] [--screened 1000] [--workers 1]

The trials before are drawn and scored by a formula. Then so many more steps of the product's queue are timed, proposals
and promotions apart, in seconds of the processor: the two cores may be shared.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections import defaultdict

import numpy as np

from benchmarks.search.made import GUIDED, SPACES, MadeModel, Searched
from effir_dist.models.families.registry import BACKBONES
from effir_dist.runs.records import RungScore, TrialRecord, TrialSpec

MODEL = BACKBONES["qwen3-embedding-8b"].config


def prepared(blocks: int, trained: int, screened: int, workers: int) -> Searched:
    """A search after so many trials, `workers` of them on their way to the top."""
    searched = Searched(MadeModel(0, {**MODEL, "num_hidden_layers": blocks}), SPACES["both"], GUIDED, workers)
    queue, rng = searched.queue, np.random.default_rng(0)
    pool = queue.engine.plans.pools.drawing.draw(4 * screened, [], rng)
    pool = queue.problem.many.new(pool)
    specs = [queue.problem.spec(i, pool.point(i)) for i in range(screened)]
    specs[0] = queue.problem.spec(0, queue.problem.starts[0])
    records, pending = [], []
    for spec in specs:
        facts, known = spec.facts(searched.model.config), spec.values(searched.model.config)
        values = {**known, "ndcg_at_10": searched.model.score(spec, low=True)}
        searched.memory.scores[spec.trial] = [RungScore(0, 0.0, 0.0, facts, values)]
        if spec.number < trained:
            values = {**known, "ndcg_at_10": searched.model.score(spec)}
            records.append(TrialRecord(spec, "complete", "", facts, values, finished=f"{spec.number:06d}"))
        else:
            pending.append(spec)
    queue.starts.clear()
    queue.replay(records, pending)
    queue.unfinished.clear()
    searched.count = screened
    return searched


def timed(searched: Searched, steps: int, busy: int) -> dict[str, list[float]]:
    """Seconds of each step, by what it was; as many trials run as there are workers."""
    found, running = defaultdict(list), list[TrialSpec]()
    for _ in range(steps + busy):
        begun = time.process_time()
        spec = searched.queue.next(searched.count)
        seconds = time.process_time() - begun
        assert spec is not None
        new = spec.number == searched.count
        searched.count += new
        found["proposal" if new else "promotion"].append(seconds)
        running.append(spec)
        if len(running) > busy:
            begun = time.process_time()
            searched.end(running.pop(0), 0.0)
            found["to hear of its end"].append(time.process_time() - begun)
    return found


def main() -> None:
    """Time, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search.suggest", description=__doc__)
    parser.add_argument("--blocks", type=int, default=36)
    parser.add_argument("--trained", type=int, default=200)
    parser.add_argument("--screened", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    searched = prepared(args.blocks, args.trained, args.screened, args.workers)
    timed(searched, 2, 0)  # what a resumed search reads once
    with cProfile.Profile() as profile:
        if not args.profile:
            profile.disable()
        found = timed(searched, args.steps, args.workers - 1)
    for kind, seconds in found.items():
        middle, high = 1000 * np.quantile(seconds, (0.5, 0.9))
        print(f"{kind:<20} {len(seconds):>4}  median {middle:.1f} ms, 90 % below {high:.1f} ms")
    if args.profile:
        pstats.Stats(profile).sort_stats("cumtime").print_stats("effir_dist|optuna", 60)


if __name__ == "__main__":
    main()
