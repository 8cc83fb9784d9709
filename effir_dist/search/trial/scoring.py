"""A model scored: on the search's queries by its trial, and by its saved weights on test queries and held-out data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from effir_dist.core.measures import METRICS
from effir_dist.core.settings import RunConfig
from effir_dist.core.storage import read_locally
from effir_dist.data import roles, sets
from effir_dist.evaluate.evaluation import Evaluation, evaluate
from effir_dist.models.encoder import Encoder, load_encoder, resolve_dtype
from effir_dist.runs.records import SplitScores
from effir_dist.runs.run_folder import Run, write_queries
from effir_dist.search.trial.preparation import token_cache


def score_saved(run: Run, config: RunConfig, trial: str, split: str) -> SplitScores:
    """Score a finished trial's saved model on `test` queries or the `held_out` data sets; write and return that."""
    data, seed = config.data, config.search.seed
    if split == "test":
        tested = [roles.test_collection(path, data, seed) for path in data.paths]
        found = _score_saved(run, config, trial, split, tested, config.search.quality_sets)
    else:
        held = [roles.held_out_collection(path, data, seed) for path in data.held_out]
        found = dataclasses.replace(
            _score_saved(run, config, trial, split, [each for each, _ in held], ()),
            data=tuple(sets.fingerprint(path) for path in data.held_out),
            left_out={lost.dataset: lost.queries for _, lost in held if lost},
        )
    run.write_split_scores(trial, split, found)
    return found


def _score_saved(
    run: Run, config: RunConfig, trial: str, split: str, scored: Sequence[sets.Collection], chosen: Sequence[str]
) -> SplitScores:
    with read_locally(run.trial_folder(trial)) as folder:
        encoder = load_encoder(str(folder), resolve_dtype(config.score.dtype))
    scores = score_all(encoder, config, scored)
    write_queries(run.queries_path(trial, split), {name: s.per_query for name, s in scores.items()})
    return SplitScores(
        values=means(scores, chosen),
        datasets={name: s.metrics for name, s in scores.items()},
        score_seconds=sum(s.seconds for s in scores.values()),
        sizes={each.name: each.size for each in scored},
    )


def search_collections(config: RunConfig) -> list[sets.Collection]:
    """What evaluates a trial."""
    return [roles.search_collection(path, config.data, config.search.seed) for path in config.data.paths]


def score_all(encoder: Encoder, config: RunConfig, collections: Sequence[sets.Collection]) -> dict[str, Evaluation]:
    """Data set -> its scores."""
    options = (config.score.batch_tokens, token_cache(), config.score.compile)
    return {c.name: evaluate(encoder, c, *options) for c in collections}


def means(scores: dict[str, Evaluation], chosen: Sequence[str]) -> dict[str, float]:
    """Metric -> its mean over the chosen data sets, or all of them."""
    counted = [scores[name].metrics for name in chosen or scores]
    return {metric: float(np.mean([metrics[metric] for metrics in counted])) for metric in METRICS}
