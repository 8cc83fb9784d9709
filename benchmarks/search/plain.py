"""`GuidedSampler` beside Optuna's samplers in plain studies of a made-up model, whose front is known:

    python -m benchmarks.search.plain [--seeds 10] [--trials 30] [--only tpe gp]

Prints median and middle half of the hypervolume over seeds, and what a proposal takes.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna import samplers
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from effir_dist import GuidedSampler
from effir_dist.runs.pareto import hypervolume_losses

SPACE = {
    **{f"keep{block}": CategoricalDistribution([True, False]) for block in range(6)},
    "width": IntDistribution(64, 512, log=True),
    "dropout": FloatDistribution(0.0, 0.5, step=0.1),
    "rate": FloatDistribution(1e-5, 1e-3, log=True),
}
WORTH = (0.05, 0.02, 0.2, 0.1, 0.04, 0.15)
"""What each block that is kept gives."""
Params = dict[str, Any]


def size(params: Params) -> float:
    """From 0.04 to 1."""
    blocks = sum(params[f"keep{block}"] for block in range(6))
    return 0.04 + 0.96 * (blocks / 6) * (params["width"] / 512)


def latency(params: Params) -> float:
    """Seconds: by blocks alone."""
    return 2.0 + sum(params[f"keep{block}"] for block in range(6))


def quality(params: Params) -> float:
    """At most 0.86."""
    kept = sum(worth for block, worth in enumerate(WORTH) if params[f"keep{block}"])
    width, rate = np.log2(params["width"] / 512), np.log10(params["rate"] / 1e-4)
    return float(0.3 + kept + 0.06 * width - 0.1 * rate**2 - 0.2 * params["dropout"])


def two(trial: optuna.Trial) -> tuple[float, float]:
    """Size and quality, define-by-run."""
    params: Params = {f"keep{block}": trial.suggest_categorical(f"keep{block}", [True, False]) for block in range(6)}
    params["width"] = trial.suggest_int("width", 64, 512, log=True)
    params["dropout"] = trial.suggest_float("dropout", 0.0, 0.5, step=0.1)
    params["rate"] = trial.suggest_float("rate", 1e-5, 1e-3, log=True)
    return size(params), quality(params)


def three(trial: optuna.Trial) -> tuple[float, float, float]:
    """Size, latency and quality."""
    found = two(trial)
    return found[0], latency(trial.params), found[1]


def costs_of(objective: Callable[..., Any]) -> Callable[[Params], list[float]]:
    """What `GuidedSampler` may be told."""
    return (lambda p: [size(p), latency(p)]) if objective is three else (lambda p: [size(p)])


def studied(
    sampler: samplers.BaseSampler, objective: Callable[..., Any] = two, trials: int = 30, **options: Any
) -> optuna.Study:
    """A study of `two` or `three`."""
    directions = [*["minimize"] * (2 if objective is three else 1), "maximize"]
    study = optuna.create_study(sampler=sampler, directions=directions)
    study.optimize(objective, n_trials=trials, **options)
    return study


def volume(study: optuna.Study) -> float:
    """Hypervolume of a study, from the largest model with no quality."""
    found = [(*t.values[:-1], -t.values[-1]) for t in study.get_trials(states=[TrialState.COMPLETE])]
    return hypervolume_losses(found, [1.0, 8.0, 0.0] if len(found[0]) == 3 else [1.0, 0.0])


SAMPLERS: dict[str, Callable[[int, Callable[..., Any]], samplers.BaseSampler]] = {
    "random": lambda seed, _: samplers.RandomSampler(seed=seed),
    "tpe": lambda seed, _: samplers.TPESampler(seed=seed),
    "tpe multivariate": lambda seed, _: samplers.TPESampler(seed=seed, multivariate=True),
    "nsga2": lambda seed, _: samplers.NSGAIISampler(seed=seed, population_size=10),
    "gp": lambda seed, _: samplers.GPSampler(seed=seed),
    "guided": lambda seed, _: GuidedSampler(seed=seed),
    "guided, costs told": lambda seed, objective: GuidedSampler(seed=seed, space=SPACE, costs=costs_of(objective)),
}


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search.plain", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--only", nargs="+", choices=list(SAMPLERS), default=list(SAMPLERS))
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    for name in args.only:
        for objective in (two, three):
            begun = time.process_time()
            made = [SAMPLERS[name](seed, objective) for seed in range(args.seeds)]
            found = [volume(studied(sampler, objective, args.trials)) for sampler in made]
            low, middle, high = np.quantile(found, (0.25, 0.5, 0.75))
            took = f"{1000 * (time.process_time() - begun) / args.seeds / args.trials:8.1f} ms"
            print(f"{name:<20} {objective.__name__:<6} {middle:.3f} ({low:.3f} to {high:.3f}) {took}", flush=True)


if __name__ == "__main__":
    main()
