"""A trial: plan, prune, train, score, record. The same function for Ray, a test and a notebook."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import io
import resource
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from effir_dist import checkpoints, data, pydocs
from effir_dist.backbones import block_count, mlp_width
from effir_dist.batches import examples_of
from effir_dist.config import replace
from effir_dist.encoder import (
    Encoder,
    build_encoder,
    default_device,
    load_encoder,
    make_settings,
    prune_encoder,
    resolve_dtype,
)
from effir_dist.engine import TrainingDiverged, start_distributed
from effir_dist.evaluation import Scores, score
from effir_dist.outcomes import failed_record, load_scores, now, plan_facts
from effir_dist.pruning import PruningPlan
from effir_dist.ranking import score_model
from effir_dist.records import METRICS, Run, disk_errors, write_bytes_atomic, write_json_atomic, write_queries
from effir_dist.settings import DataConfig, RunConfig
from effir_dist.slimming import random_scores, slimming_scores, taylor_scores
from effir_dist.space import settings_of
from effir_dist.training import TrainOutcome, train

Report = Callable[[dict[str, Any]], None]


def run_trial(run: Run, config: RunConfig, head: dict[str, Any], report: Report) -> dict[str, Any]:
    """Run one trial and write its record, which is returned. On several ranks each calls it; rank 0 writes.

    head: what was suggested (`study.Suggestion.to_dict`). A trial that runs out of memory or diverges is recorded as
    failed with its reason; on several ranks it then raises as well, since the others wait for it. Any other error is
    raised.
    """
    clock = _Clock()
    try:
        record = {**head, **_attempt(run, config, head, report, clock)}
    except (RuntimeError, MemoryError, FloatingPointError) as error:
        reason = failure_reason(error)
        if reason is None:
            raise
        model_config = checkpoints.find(config.model.backbone, config.model.path).config
        record = run.write_result(head["trial"], failed_record(model_config, head, reason, clock.started))
        if _several_ranks():
            raise
        return record
    return run.write_result(head["trial"], record) if _rank() == 0 else record


def _attempt(run: Run, config: RunConfig, head: dict[str, Any], report: Report, clock: _Clock) -> dict[str, Any]:
    config = replace(config, settings_of(head["suggested"]))
    plan = PruningPlan.from_dict(head["plan"])
    report({"phase": "prune"})
    encoder = pruned_encoder(run, config, plan)
    outcome = train(encoder, data.training_pairs(config.data, config.search.seed), config.train, report, token_cache())
    _release_memory()
    report({"phase": "score"})
    encoder.to(default_device(), getattr(torch, resolve_dtype(config.score.dtype)))
    scores = _score_all(encoder, config, data.search_collection)
    if _rank() == 0:
        if config.search.keep_weights != "none":
            folder = run.trial_folder(head["trial"])
            with disk_errors(folder / "model.safetensors"):
                encoder.save(folder)
        write_queries(run.queries_path(head["trial"]), {name: s.per_query for name, s in scores.items()})
    return {
        "state": "complete",
        "reason": "",
        **plan_facts(encoder.model_config, head),
        **_means(scores),
        **clock.costs(outcome, sum(s.seconds for s in scores.values())),
    }


def failure_reason(error: BaseException) -> str | None:
    """Why a trial failed, where that is an outcome of the trial; None for anything else, such as a bug."""
    text = str(error)
    memory = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in text for sign in memory):
        return f"out of memory at a peak of {peak_memory() / 2**30:.1f} GiB: {text.splitlines()[0] if text else ''}"
    if isinstance(error, TrainingDiverged | FloatingPointError):
        return f"not a number: {text}"
    return None


def pruned_encoder(run: Run, config: RunConfig, plan: PruningPlan) -> Encoder:
    """The base model, pruned, with the weights that stay; its neurons chosen by the run's scores."""
    source = checkpoints.find(config.model.backbone, config.model.path)
    base = checkpoints.load_base(source, resolve_dtype(config.train.dtype))
    encoder = build_encoder(base, make_settings(config.model, base.config), resolve_dtype(config.train.dtype))
    neurons = load_scores(run)[1][plan.ranking] if plan.widths else None
    return prune_encoder(encoder, plan, neurons)


def compute_scores(run: Run, config: RunConfig, rankings: Sequence[str]) -> None:
    """Score sub-layers and neurons of the unpruned model on training data, once a run, into `scores/`.

    Raises InputError where self-slimming diverges.
    """
    source = checkpoints.find(config.model.backbone, config.model.path)
    dtype = resolve_dtype(config.score.dtype)
    base = checkpoints.load_base(source, dtype)
    length = {"model.max_document_length": config.prune.calibration_length}
    encoder = build_encoder(base, make_settings(replace(config, length).model, base.config), dtype)
    encoder.to(default_device())
    scores = score_model(encoder, calibration_texts(config), config.score.batch_tokens)
    neurons = {**scores.neurons, **trained_rankings(base, config, rankings)}
    packed = io.BytesIO()
    np.savez(packed, **{name: neurons[name] for name in rankings})  # type: ignore[arg-type]
    write_bytes_atomic(run.scores_folder / "neurons.npz", packed.getvalue())
    write_json_atomic(run.scores_folder / "importance.json", dataclasses.asdict(scores.importance))


def trained_rankings(base: checkpoints.Base, config: RunConfig, rankings: Sequence[str]) -> dict[str, np.ndarray]:
    """[L, F] for those rankings that need more than a look at the model: training pairs, or nothing at all."""
    wanted = set(rankings) & {"slimming", "taylor"}
    found = {"random": random_scores(block_count(base.config), mlp_width(base.config), config.search.seed)}
    if not wanted:
        return found
    start_distributed()
    encoder = build_encoder(base, make_settings(config.model, base.config), "float32").to(default_device())
    pairs = data.training_pairs(config.data, config.search.seed)
    examples = examples_of(encoder, pairs, config.train.hard_negatives, token_cache())
    torch.manual_seed(config.search.seed)
    for name, rank in (("slimming", slimming_scores), ("taylor", taylor_scores)):
        if name in wanted:
            found[name] = rank(encoder, examples, config.prune, config.train)
    return found


def calibration_texts(config: RunConfig) -> list[str]:
    """Passages of the training pairs: a seeded sample."""
    texts = sorted(set(data.training_pairs(config.data, config.search.seed).positives))
    count = min(config.prune.calibration_texts, len(texts))
    chosen = np.random.default_rng(config.search.seed).choice(len(texts), count, replace=False)
    return [texts[i] for i in sorted(chosen)]


def score_test(run: Run, config: RunConfig, trial: str) -> dict[str, Any]:
    """Score a finished trial's saved model on the test queries, once, and write `test.json`."""
    encoder = load_encoder(str(run.trial_folder(trial)), resolve_dtype(config.score.dtype))
    scores = _score_all(encoder, config, data.test_collection)
    write_queries(run.queries_path(trial, test=True), {name: s.per_query for name, s in scores.items()})
    result = {**_means(scores), "score_seconds": sum(s.seconds for s in scores.values())}
    run.write_test(trial, result)
    return result


def _score_all(
    encoder: Encoder, config: RunConfig, read: Callable[[str, DataConfig, int], data.Collection]
) -> dict[str, Scores]:
    """Data set -> scores of the collection that `read` gives of it."""
    collections = [read(path, config.data, config.search.seed) for path in config.data.paths]
    return {c.name: score(encoder, c, config.score.batch_tokens, token_cache()) for c in collections}


def token_cache() -> Path:
    """Where this machine keeps token ids, by content hash."""
    return pydocs.cache_root() / "tokens"


def _means(scores: dict[str, Scores]) -> dict[str, Any]:
    """Means over data sets, and each data set's own."""
    means = {metric: float(np.mean([s.metrics[metric] for s in scores.values()])) for metric in METRICS}
    return {**means, "datasets": {name: s.metrics for name, s in scores.items()}}


class _Clock:
    """What a trial costs."""

    def __init__(self) -> None:
        _release_memory()
        self.start = time.perf_counter()
        self.started = now()
        _reset_peak_memory()

    def costs(self, outcome: TrainOutcome, score_seconds: float) -> dict[str, Any]:
        """Seconds, memory and loss, for the record. Setting up DeepSpeed's engine counts as `other`."""
        total = time.perf_counter() - self.start
        train_seconds = outcome.seconds - outcome.engine_seconds
        return {
            "train_seconds": train_seconds,
            "score_seconds": score_seconds,
            "other_seconds": total - train_seconds - score_seconds,
            "total_seconds": total,
            "peak_memory_bytes": peak_memory(),
            "train_loss": outcome.last_loss,
            "steps": outcome.steps,
            "started": self.started,
            "finished": now(),
            "host": socket.gethostname(),
        }


def _release_memory() -> None:
    """Give freed memory back: glibc keeps what a training freed in pieces, half a gigabyte more with each trial."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the peak is then the process's, over all its trials
        return


def peak_memory() -> int:
    """Bytes: of the GPU where there is one, else of this process, since the trial began."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _several_ranks() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1
