"""What is computed once a search on the unpruned model and shared by all trials: the files in a run's `importance/`."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from effir_dist.core.config import replace
from effir_dist.core.files import write_bytes_atomic, write_json_atomic
from effir_dist.core.mapped import cache_root
from effir_dist.core.settings import DataConfig, RunConfig, TrainConfig
from effir_dist.core.storage import is_remote, read_bytes
from effir_dist.data.beir import lines
from effir_dist.data.pairs import training_pairs
from effir_dist.data.roles import search_collection
from effir_dist.importance.gate_memory import GATED, settings
from effir_dist.importance.ranking import Calibration, Method, calibrate
from effir_dist.importance.slimming import random_saliency, slimming_saliency, taylor_saliency
from effir_dist.importance.store import IMPORTANCE_FILE, OUTSIDE, SALIENCY_FILE, TEACHER, WORK_FILE
from effir_dist.models import pretrained
from effir_dist.models.encoder import Encoder, build_encoder, default_device, make_settings, resolve_dtype
from effir_dist.models.families.base import block_count, mlp_width
from effir_dist.runs.run_folder import Run
from effir_dist.runs.trial_spec import BASE
from effir_dist.search.cost_estimate import reconstruction_work
from effir_dist.search.trial.costs import release_memory
from effir_dist.search.trial.out_of_memory import tried_with_less
from effir_dist.search.trial.start import base_of
from effir_dist.training.batches import Teacher, distinct, examples_of
from effir_dist.training.engine import start_distributed
from effir_dist.training.schedule import count_steps
from effir_dist.training.stages import stage_training
from effir_dist.training.teacher import load_teacher_encoder


def prepare(run: Run, config: RunConfig, rankings: Sequence[str], teacher: TrainConfig | None = None) -> None:
    """Write the importance of sub-layers and the saliency of neurons, once a run, and a teacher's embeddings.

    They are of the model that trials start from. teacher: where a trial distils from that or from `train.teacher`,
    training settings that do, with hard negatives if any trial has them. What runs out of memory is tried once more
    with less. Raises InputError where it does again, or where self-slimming diverges.
    """
    what = "ranking the unpruned model's layers and neurons"
    advice = "use --resume where there is more, or start a search with prune.ranking=activation, without gradients"
    tried_with_less(lambda settings: _prepare(run, settings, rankings, teacher), config, what, advice)


def _prepare(run: Run, config: RunConfig, rankings: Sequence[str], teacher: TrainConfig | None) -> None:
    found, work = _without_training(run, config, teacher)
    release_memory()
    if teacher and config.train.teacher and not config.train.recovers:
        _write_outside(run, config, teacher, TEACHER)
    saliency = {**found.saliency, **trained_saliency(run, config, rankings)}
    write_json_atomic(run.importance_folder / WORK_FILE, work)
    packed = io.BytesIO()
    np.savez(packed, **{name: saliency[name] for name in rankings})  # type: ignore[arg-type]
    write_bytes_atomic(run.importance_folder / SALIENCY_FILE, packed.getvalue())
    write_json_atomic(run.importance_folder / IMPORTANCE_FILE, dataclasses.asdict(found.importance))


def _without_training(run: Run, config: RunConfig, teacher: TrainConfig | None) -> tuple[Calibration, dict[str, float]]:
    """What the unpruned model as it is tells; its embeddings are written where it is the teacher. Afterwards the model
    is gone."""
    base = base_of(run, config, resolve_dtype(config.score.dtype))
    length = {"model.max_document_length": config.prune.calibration_length}
    prune = config.prune
    method = Method(prune.distance, prune.granularity, prune.greedy, prune.keep_norms)
    encoder = _encoder(base, replace(config, length))
    found = calibrate(encoder, calibration_texts(config), config.score.batch_tokens, method)
    if teacher and (config.train.recovers or not config.train.teacher):
        _write_teacher(run, _encoder(base, config), config, teacher, TEACHER)
    return found, count_work(_encoder(base, config), config)


def count_work(encoder: Encoder, config: RunConfig) -> dict[str, float]:
    """Tokens that pass the model in a trial's training (`train`: a backward pass counts as two), in scoring it at the
    top (`score`) and on a lower rung (`low`), by mean lengths, without padding; and what fitting its matrices costs
    (`cost_estimate.reconstruction_work`)."""
    seed, config_of = config.search.seed, {"score": config.data, "low": low_data(config)}
    found = {}
    for name, each in config_of.items():
        sets = [search_collection(path, each, seed) for path in each.paths]
        queries = sum(_tokens(encoder, s.queries, "query") for s in sets)
        found[name] = queries + sum(_tokens(encoder, s.documents, "document") for s in sets)
    pairs = training_pairs(config.data, seed)
    train = stage_training(config, "", count_steps(config.train, len(pairs.queries), 1))
    steps = count_steps(train, len(pairs.queries), 1)
    if steps:
        asked, answers = distinct(pairs, config.train.hard_negatives > 0)
        one = _tokens(encoder, asked, "query") / len(asked)
        one += (1 + config.train.hard_negatives) * _tokens(encoder, answers, "document") / len(answers)
        found["train"] = 3 * steps * config.train.batch_size * one
    return {"train": 0.0, **found, **reconstruction_work(encoder.model_config, config)}


def _tokens(encoder: Encoder, texts: Sequence[str], kind: str) -> float:
    return float(encoder.tokenize(texts, kind, token_cache()).lengths.sum())


def low_data(config: RunConfig) -> DataConfig:
    """What scores a trial on the rungs below the top: no more queries and documents than `search.rung_*` say."""

    def least(*limits: int) -> int:
        return min(filter(None, limits), default=0)

    known, search = config.data, config.search
    queries = least(known.max_queries, search.rung_queries)
    documents = least(known.max_documents, search.rung_documents)
    return dataclasses.replace(known, max_queries=queries, max_documents=documents)


def _encoder(base: pretrained.Base, config: RunConfig, dtype: str = "") -> Encoder:
    dtype = dtype or resolve_dtype(config.score.dtype)
    return build_encoder(base, make_settings(config.model, base.source), dtype).to(default_device())


def trained_saliency(run: Run, config: RunConfig, rankings: Sequence[str]) -> dict[str, np.ndarray]:
    """Ranking -> [L, F] saliency, of the rankings that need training pairs, and of the random one."""
    model = pretrained.find_model(config.model).config
    found = {"random": random_saliency(block_count(model), mlp_width(model), config.search.seed)}
    if not set(rankings) & set(GATED):
        return found
    start_distributed()
    train, dtype = settings(config).train, resolve_dtype(config.train.dtype)
    encoder = _encoder(base_of(run, config, dtype), config, dtype)
    examples = examples_of(encoder, training_pairs(config.data, config.search.seed), train, token_cache())
    torch.manual_seed(config.search.seed)
    # Slimming comes last, as it may train the weights.
    for name, rank in (("taylor", taylor_saliency), ("slimming", slimming_saliency)):
        if name in rankings:
            found[name] = rank(encoder, examples, config.prune, train)
    return found


def calibration_texts(config: RunConfig) -> list[str]:
    """A seeded sample of `prune.calibration_file`'s lines, or else of the training pairs' passages."""
    texts = _calibration_pool(config)
    count = min(config.prune.calibration_texts, len(texts))
    chosen = np.random.default_rng(config.search.seed).choice(len(texts), count, replace=False)
    return [texts[i] for i in sorted(chosen)]


def reconstruction_texts(config: RunConfig) -> list[str]:
    """Some of the same, in a seeded random order: as many as make `prune.reconstruct_tokens` tokens of four each."""
    if not config.prune.reconstruct_tokens:
        return []
    texts = _calibration_pool(config)
    order = np.random.default_rng(config.search.seed).permutation(len(texts))
    return [texts[i] for i in order[: -(-config.prune.reconstruct_tokens // 4)]]


def _calibration_pool(config: RunConfig) -> list[str]:
    if config.prune.calibration_file:
        return [line for _, line in lines(Path(config.prune.calibration_file))]
    return sorted(set(training_pairs(config.data, config.search.seed).positives))


def prepare_outside(run: Run, config: RunConfig) -> None:
    """Write the embeddings of `train.teacher`, which teaches the base, before there is one."""
    what, advice = f"embedding the training texts by {config.train.teacher}", "use --resume where there is more"
    tried_with_less(lambda settings: _write_outside(run, settings, config.train, OUTSIDE), config, what, advice)


def _write_outside(run: Run, config: RunConfig, train: TrainConfig, files: tuple[str, str]) -> None:
    pretrained.forget()
    _write_teacher(run, load_teacher_encoder(config), config, train, files)
    pretrained.forget()
    release_memory()


def _write_teacher(run: Run, encoder: Encoder, config: RunConfig, train: TrainConfig, files: tuple[str, str]) -> None:
    pairs = training_pairs(config.data, config.search.seed)
    texts = zip(files, ("query", "document"), distinct(pairs, train.hard_negatives > 0), strict=True)
    for name, kind, wanted in texts:
        tokens = encoder.tokenize(wanted, kind, token_cache())
        packed = io.BytesIO()
        np.save(packed, encoder.encode_tokens(tokens, config.score.batch_tokens).astype(encoder.settings.disk_dtype))
        write_bytes_atomic(run.importance_folder / name, packed.getvalue())


def load_teacher(run: Run, train: TrainConfig, stage: str = "") -> Teacher | None:
    """The embeddings of the training texts by who teaches a trial of this stage; None where nothing needs them.

    From a disk they are read as they are needed, from a bucket at once, into memory.
    """
    if not train.distils_itself:
        return None
    paths = [run.importance_folder / name for name in (OUTSIDE if stage == BASE else TEACHER)]
    if is_remote(run.folder):
        return Teacher(*(np.load(io.BytesIO(read_bytes(path))) for path in paths))
    return Teacher(*(np.load(path, mmap_mode="r") for path in paths))


def token_cache() -> Path:
    """Where this machine keeps token ids, by content hash."""
    return cache_root() / "tokens"
