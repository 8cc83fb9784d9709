"""A trial: plan, prune, train, score, record. The same function for Ray, a test and a notebook."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from effir_dist.core.config import replace, settings_of
from effir_dist.core.files import disk_errors
from effir_dist.core.measures import METRICS
from effir_dist.core.settings import DataConfig, RunConfig
from effir_dist.core.storage import read_locally, written_locally
from effir_dist.data import sets
from effir_dist.data.pairs import training_pairs
from effir_dist.evaluate.evaluation import Evaluation, evaluate, speeds
from effir_dist.importance.store import load_saliency
from effir_dist.models import pretrained
from effir_dist.models.encoder import (
    Encoder,
    build_encoder,
    cast,
    default_device,
    load_encoder,
    make_settings,
    prune_encoder,
    resolve_dtype,
)
from effir_dist.models.facts import plan_facts
from effir_dist.models.pruning import PruningPlan
from effir_dist.runs.objectives import Goal
from effir_dist.runs.run_folder import Run, write_queries
from effir_dist.search.trial.costs import Clock, peak_memory, release_memory
from effir_dist.search.trial.outcome import failed_record
from effir_dist.search.trial.preparation import load_teacher, low_data, token_cache
from effir_dist.training import preemption
from effir_dist.training.engine import TrainingDiverged
from effir_dist.training.schedule import count_steps
from effir_dist.training.train_state import TrainState, read_state, write_state
from effir_dist.training.trainer import TrainOutcome, train

Report = Callable[[dict[str, Any]], None]
OUT_OF_MEMORY = "out of memory"


def run_trial(run: Run, config: RunConfig, head: dict[str, Any], report: Report) -> dict[str, Any]:
    """Run one trial and write its record, which is returned. On several ranks each calls it; rank 0 writes.

    head: what was suggested (`study.Suggestion.to_dict`), in a search with rungs also the `rung` to go to and its cost.
    Below the top the trial ends there with its score in `rungs.json`, which is returned, and goes on from its
    checkpoint when it is called for a higher one. A trial that runs out of memory is tried once more with less
    (`in_less_memory`). One that does again, or diverges, is recorded as failed with its reason. On several ranks either
    raises as well, since the others wait for it: whoever calls then starts them anew. Any other error is raised.
    """
    clock = Clock()
    record = _try(run, config, head, report, clock)
    if record is None:
        release_memory()
        record = _try(run, config, head, report, clock)
    assert record is not None
    return record


def _try(run: Run, config: RunConfig, head: dict[str, Any], report: Report, clock: Clock) -> dict[str, Any] | None:
    """The trial's record; None where it ran out of memory for the first time."""
    first = run.out_of_memory(head["trial"])
    try:
        if head.get("rung", len(config.search.rungs)) < len(config.search.rungs):
            return _to_rung(run, config, head, report, clock, bool(first))
        lower = {"rungs": run.rungs(head["trial"])} if "rung" in head else {}
        record = {**head, **lower, **_attempt(run, config, head, report, clock, bool(first)), "retried": first}
    except (RuntimeError, MemoryError, FloatingPointError) as error:
        reason = failure_reason(error)
        if reason is None:
            raise
        again = not first and reason.startswith(OUT_OF_MEMORY)
        if again:
            run.note_out_of_memory(head["trial"], reason)
        else:
            model_config = pretrained.find(config.model.backbone, config.model.path).config
            record = failed_record(model_config, head, reason, clock.started, config.model.dimension)
            record = run.write_result(head["trial"], {**record, "retried": first})
        if _several_ranks():
            raise
        return None if again else record
    return run.write_result(head["trial"], record) if _rank() == 0 else record


def in_less_memory(config: RunConfig) -> RunConfig:
    """Settings that compute the same in less memory, and take longer: small chunks, activations computed again."""
    share = max(1, config.train.batch_size // config.resources.workers_per_trial // 8)
    less: dict[str, Any] = {"train.gradient_checkpointing": True}
    if config.train.gradcache_tokens:
        less["train.gradcache_tokens"] = max(1, config.train.gradcache_tokens // 8)
    else:
        less["train.gradcache_queries"] = min(config.train.gradcache_queries or share, share)
    return replace(config, {**less, "score.batch_tokens": max(1, (config.score.batch_tokens or 4096) // 8)})


def _attempt(
    run: Run, config: RunConfig, head: dict[str, Any], report: Report, clock: Clock, little_memory: bool
) -> dict[str, Any]:
    config = _settled(config, head, little_memory)
    encoder, outcome = _trained(run, config, head, report)
    scores = _score_all(encoder, config, config.data.paths, sets.search_collection)
    if _rank() == 0:
        if config.search.keep_weights != "none":
            folder = run.trial_folder(head["trial"])
            with disk_errors(folder / "model.safetensors"), written_locally(folder) as local:
                encoder.save(local)
        write_queries(run.queries_path(head["trial"]), {name: s.per_query for name, s in scores.items()})
    return {
        "state": "complete",
        "reason": "",
        **plan_facts(encoder.model_config, head, config.model.dimension),
        **_means(scores, config.search.quality_sets),
        **speeds([*scores.values()]),
        **_measured(encoder, config),
        **clock.costs(outcome, sum(s.seconds for s in scores.values())),
    }


def _settled(config: RunConfig, head: dict[str, Any], little_memory: bool) -> RunConfig:
    config = replace(config, settings_of(head["suggested"]))
    return in_less_memory(config) if little_memory else config


def _trained(
    run: Run, config: RunConfig, head: dict[str, Any], report: Report, share: float = 1.0
) -> tuple[Encoder, TrainOutcome]:
    """The pruned model after a share of its training, ready to be scored."""
    plan = PruningPlan.from_dict(head["plan"])
    report({"phase": "prune"})
    encoder, neurons = base_encoder(config), load_saliency(run)[plan.ranking] if plan.widths else None
    if config.train.order == "prune_then_tune":
        prune_encoder(encoder, plan, neurons)
    outcome = TrainOutcome(0, 0.0, 0.0, math.nan)
    if share:
        pairs = training_pairs(config.data, config.search.seed)
        steps = count_steps(config.train, len(pairs.queries), dist.get_world_size() if _several_ranks() else 1)
        until = max(1, round(share * steps)) if share < 1 and steps else 0
        checkpoints, teacher = _Checkpoints(run, head), load_teacher(run, config.train)
        outcome = train(encoder, pairs, config.train, report, token_cache(), teacher, checkpoints, until)
    if config.train.order == "tune_then_prune":
        prune_encoder(encoder, plan, neurons)
    release_memory()
    report({"phase": "score"})
    return cast(encoder.to(default_device()), resolve_dtype(config.score.dtype)).eval(), outcome


def _to_rung(
    run: Run, config: RunConfig, head: dict[str, Any], report: Report, clock: Clock, little_memory: bool
) -> dict[str, Any]:
    """Train up to a rung below the top and score there, on less; what is written to `rungs.json`."""
    config, share = _settled(config, head, little_memory), config.search.rungs[head["rung"]]
    encoder, outcome = _trained(run, config, head, report, share)
    less = dataclasses.replace(config, data=low_data(config))
    scores = _score_all(encoder, less, config.data.paths, sets.search_collection)
    means = {name: value for name, value in _means(scores, config.search.quality_sets).items() if name != "datasets"}
    # Speed is the plan's, not the weights': once is enough.
    measured = _measured(encoder, config) if head["rung"] == 0 and Goal.of(vars(config.search)).measured else {}
    costs = clock.costs(outcome, sum(s.seconds for s in scores.values()))
    facts = {**plan_facts(encoder.model_config, head, config.model.dimension), **measured}
    known = {"rung": head["rung"], "share": share, "cost": head.get("cost", 0.0), **facts}
    found = {**known, **means, "steps": outcome.steps, "total_seconds": costs["total_seconds"], "host": costs["host"]}
    if _rank() == 0:
        run.write_rung(head["trial"], found)
    return found


def _measured(encoder: Encoder, config: RunConfig) -> dict[str, Any]:
    """Speed and memory beside the unpruned model, where they are asked for; rank 0 alone measures."""
    if _rank() or not (config.score.speed or Goal.of(vars(config.search)).measured):
        return {}
    from effir_dist.evaluate.speed import measure

    unpruned = cast(base_encoder(config).to(encoder.device), next(encoder.parameters()).dtype).eval()
    return measure(encoder, unpruned, config.score)


class _Checkpoints:
    """A trial's state while it trains, in its folder; `training.Checkpoints`."""

    def __init__(self, run: Run, head: dict[str, Any]) -> None:
        self.path, self.key = run.checkpoint_path(head["trial"]), head["key"]

    def load(self) -> TrainState | None:
        return read_state(self.path, self.key)

    def save(self, state: TrainState) -> None:
        write_state(self.path, state, self.key)

    def urgent(self) -> bool:
        return preemption.noticed()


def failure_reason(error: BaseException) -> str | None:
    """Why a trial failed, where that is an outcome of the trial; None for anything else, such as a bug."""
    text = str(error)
    memory = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in text for sign in memory):
        return f"{OUT_OF_MEMORY} at a peak of {peak_memory() / 2**30:.1f} GiB: {text.splitlines()[0] if text else ''}"
    if isinstance(error, TrainingDiverged | FloatingPointError):
        return f"not a number: {text}"
    return None


def base_encoder(config: RunConfig) -> Encoder:
    """The unpruned model, ready to be trained."""
    source = pretrained.find(config.model.backbone, config.model.path)
    base = pretrained.load_base(source, resolve_dtype(config.train.dtype))
    return build_encoder(base, make_settings(config.model, base.config), resolve_dtype(config.train.dtype))


def score_test(run: Run, config: RunConfig, trial: str) -> dict[str, Any]:
    """Score a finished trial's saved model on the test queries, once, and write `test.json`."""
    result = _score_saved(run, config, trial, config.data.paths, "test", config.search.quality_sets)
    run.write_test(trial, result)
    return result


def score_held_out(run: Run, config: RunConfig, trial: str) -> dict[str, Any]:
    """Score a finished trial's saved model on the held-out data sets, and write `held_out.json`."""
    prints = [sets.fingerprint(path) for path in config.data.held_out]
    result = {**_score_saved(run, config, trial, config.data.held_out, "held out", ()), "data": prints}
    run.write_held_out(trial, result)
    return result


def _score_saved(
    run: Run, config: RunConfig, trial: str, paths: Sequence[str], split: str, chosen: Sequence[str]
) -> dict[str, Any]:
    with read_locally(run.trial_folder(trial)) as folder:
        encoder = load_encoder(str(folder), resolve_dtype(config.score.dtype))
    # Comparisons in which nothing is selected have no test split; the held-out data sets' is then the usual one.
    held = dataclasses.replace(config.data, test_split=config.data.test_split or DataConfig.test_split)
    scores = _score_all(encoder, dataclasses.replace(config, data=held), paths, sets.test_collection)
    write_queries(run.queries_path(trial, split), {name: s.per_query for name, s in scores.items()})
    return {**_means(scores, chosen), "score_seconds": sum(s.seconds for s in scores.values())}


def _score_all(
    encoder: Encoder, config: RunConfig, paths: Sequence[str], read: Callable[[str, DataConfig, int], sets.Collection]
) -> dict[str, Evaluation]:
    """Data set -> scores of the collection that `read` gives of it."""
    collections = [read(path, config.data, config.search.seed) for path in paths]
    options = (config.score.batch_tokens, token_cache(), config.score.compile)
    return {c.name: evaluate(encoder, c, *options) for c in collections}


def _means(scores: dict[str, Evaluation], chosen: Sequence[str]) -> dict[str, Any]:
    """Means over the chosen data sets, or all of them, and each data set's own."""
    counted = [scores[name].metrics for name in chosen or scores]
    means = {metric: float(np.mean([metrics[metric] for metrics in counted])) for metric in METRICS}
    return {**means, "datasets": {name: s.metrics for name, s in scores.items()}}


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _several_ranks() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1
