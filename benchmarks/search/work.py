"""What a process of `table` does: prune, train, score, write a row."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.search import plans, table
from effir_dist.core import config as config_module
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig, TrainConfig
from effir_dist.data import roles, sets
from effir_dist.data.pairs import training_pairs
from effir_dist.data.sets import Collection
from effir_dist.evaluate.evaluation import evaluate_embeddings
from effir_dist.importance.ranking import Method, calibrate
from effir_dist.importance.reconstruction import prune_and_reconstruct
from effir_dist.models import pretrained
from effir_dist.models.encoder import (
    Encoder,
    build_encoder,
    default_device,
    make_settings,
    resolve_dtype,
)
from effir_dist.models.pruning import count_parameters, moving_share
from effir_dist.models.tokens import Tokens
from effir_dist.search.cost_estimate import reconstruction_work
from effir_dist.search.trial.costs import release_memory
from effir_dist.search.trial.preparation import calibration_texts, reconstruction_texts, token_cache
from effir_dist.training.batches import Examples, Teacher, batches, examples_of
from effir_dist.training.engine import ChunkEncoder, release, start_distributed
from effir_dist.training.gradcache import backward
from effir_dist.training.schedule import learning_rate
from effir_dist.training.single_process import SingleProcess
from effir_dist.training.trainer import shares

NOT_THE_TABLES = ("model.path", "data.paths", "score.batch_tokens")
"""Settings that are this machine's, not a table's."""
BACKWARD = 2
"""Of a training step's passes: a backward costs as much as two forward ones."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """A collection with its tokens, and the rows of its small part."""

    collection: Collection
    queries: Tokens
    documents: Tokens
    small: Collection
    small_rows: tuple[np.ndarray, np.ndarray]
    """Of queries and of documents."""


@dataclasses.dataclass
class Bench:
    """All that is the same for every plan."""

    config: RunConfig
    base: pretrained.Base
    examples: Examples
    search: Scored
    test: Scored
    teacher: Teacher | None = None
    """Embeddings of the training texts by the unpruned model, where plans recover with it."""
    texts: Sequence[str] = ()
    """What output matrices of narrowed MLPs are fitted on; none where they are not."""

    def encoder(self) -> Encoder:
        """The unpruned model, new."""
        dtype = resolve_dtype(self.config.train.dtype)
        return build_encoder(self.base, make_settings(self.config.model, self.base.source), dtype)


def small_part(whole: Collection) -> tuple[Collection, tuple[np.ndarray, np.ndarray]]:
    """Every third query, what is judged for it, and every third of the other documents."""
    queries = np.arange(0, len(whole.query_ids), table.SMALL)
    names = [whole.query_ids[i] for i in queries]
    judged = {d for q in names for d in whole.qrels[q]}
    documents = np.array([i for i, d in enumerate(whole.document_ids) if d in judged or i % table.SMALL == 0])
    return dataclasses.replace(
        whole,
        query_ids=names,
        queries=[whole.queries[i] for i in queries],
        document_ids=[whole.document_ids[i] for i in documents],
        documents=[whole.documents[i] for i in documents],
        qrels={q: whole.qrels[q] for q in names},
    ), (queries, documents)


def load(args: argparse.Namespace, values: dict[str, Any]) -> Bench:
    """Read model and data; tokens come from the cache where they are there."""
    config = config_module.replace(RunConfig(), values)
    source = pretrained.find(config.model.backbone, config.model.path)
    base = pretrained.load_base(source, resolve_dtype(config.train.dtype))
    base.model.to(default_device())
    encoder = build_encoder(base, make_settings(config.model, base.source), resolve_dtype(config.train.dtype))
    seed, cache = config.search.seed, token_cache()
    examples = examples_of(encoder, training_pairs(config.data, seed), config.train, cache)

    def scored(collection: Collection) -> Scored:
        queries = encoder.tokenize(collection.queries, "query", cache)
        documents = encoder.tokenize(collection.documents, "document", cache)
        return Scored(collection, queries, documents, *small_part(collection))

    search, test = (read(args.data, config.data, seed) for read in (roles.search_collection, roles.test_collection))
    teacher = None
    if config.train.distils_itself:
        texts = (examples.queries, examples.passages)
        teacher = Teacher(*(encoder.encode_tokens(tokens, config.score.batch_tokens) for tokens in texts))
    return Bench(config, base, examples, scored(search), scored(test), teacher, reconstruction_texts(config))


def prepare(args: argparse.Namespace, values: dict[str, Any]) -> int:
    """Before the processes begin: tokens, importance, ranking, the order; returns the number of plans to do."""
    bench = load(args, values)
    facts_path, neurons_path = args.out / "facts.json", args.out / "neurons.npz"
    told = {name: value for name, value in values.items() if name not in NOT_THE_TABLES}
    if facts_path.is_file():
        _check_settings(args.out, json.loads(facts_path.read_text())["settings"], told)
    else:
        encoder = bench.encoder()
        method = Method(granularity=bench.config.prune.granularity)
        found = calibrate(encoder, calibration_texts(bench.config), bench.config.score.batch_tokens, method)
        neurons = found.saliency[plans.RANKING]
        np.savez_compressed(neurons_path, activation=neurons)
        points = table.points(found.importance, table.KINDS[args.backbone], args.others)
        keys = [point.key for point, _ in plans.distinct_plans(points, bench.base.config, neurons)]
        facts = {
            "model": args.backbone,
            "model_config": {k: v for k, v in bench.base.config.items() if k != "_name_or_path"},
            "data": sets.dataset_name(args.data),
            "settings": told,
            "device": device_name(),
            "dtype": resolve_dtype(bench.config.train.dtype),
            "torch": torch.__version__,
            "parameters": count_parameters(bench.base.config),
            "work": _work(bench, args.stops),
            "importance": dataclasses.asdict(found.importance),
            "activation": neurons.sum(axis=1).tolist(),
            "plans": len(keys),
            "order": keys,
        }
        facts_path.write_text(json.dumps(facts, indent=1, default=str) + "\n")
    return len(table.chosen(json.loads(facts_path.read_text()), args.plans))


def _check_settings(out: Path, known: dict[str, Any], told: dict[str, Any]) -> None:
    """Raises InputError where rows of these settings do not belong to a table."""
    differ = sorted(name for name in told.keys() | known.keys() if told.get(name) != known.get(name))
    differ = [name for name in differ if name not in NOT_THE_TABLES]
    if differ:
        values = ", ".join(f"{name} = {known.get(name)}, not {told.get(name)}" for name in differ)
        raise InputError(f"the table in {out} was made with {values}: take another folder, or the table's settings")


def device_name() -> str:
    """Of the machine that makes a row, and what it reckons in: CPUs differ in that, and by a factor in speed."""
    return f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'}, {resolve_dtype('auto')}"


def _work(bench: Bench, stops: list[int]) -> dict[str, float]:
    """Tokens that pass the model, a backward pass counted as two: what a plan's `moving_share` is multiplied with.

    train_S: of the steps to S; score and score_small: of one scoring on the search's split. Padding is left out.
    reconstruct and fit: `cost_estimate.reconstruction_work`.
    """
    queries, passages = bench.examples.queries.lengths, bench.examples.passages.lengths
    steps, trained = batches(bench.examples, bench.config.train), 0.0
    found: dict[str, float] = {}
    for number in range(1, stops[-1] + 1):
        batch = next(steps)
        trained += float(queries[batch.queries].sum() + passages[batch.passages.reshape(-1)].sum())
        if number in stops:
            found[f"train_{number}"] = (1 + BACKWARD) * trained
    scored, (small_q, small_d) = bench.search, bench.search.small_rows
    found["score"] = float(scored.queries.lengths.sum() + scored.documents.lengths.sum())
    found["score_small"] = float(scored.queries.lengths[small_q].sum() + scored.documents.lengths[small_d].sum())
    return found | reconstruction_work(bench.base.config, bench.config)


def _scores(encoder: Encoder, scored: Scored, batch_tokens: int) -> tuple[float, float]:
    """nDCG@10 on the collection and on its small part."""
    vectors = [encoder.encode_tokens(tokens, batch_tokens) for tokens in (scored.queries, scored.documents)]
    part = [side[rows] for side, rows in zip(vectors, scored.small_rows, strict=True)]
    found = (evaluate_embeddings(*vectors, scored.collection), evaluate_embeddings(*part, scored.small))
    whole, small = (each.metrics["ndcg_at_10"] for each in found)
    return whole, small


def fit(
    encoder: Encoder, examples: Examples, config: TrainConfig, stops: Sequence[int], teacher: Teacher | None = None
) -> Iterator[int]:
    """The product's training in place; yields after each of the steps `stops`, for the encoder to be scored.

    config.steps is the length of the schedule. Adapters are left out.
    """
    start_distributed()
    engine = SingleProcess(ChunkEncoder(encoder.eval()), config)
    try:
        for first, end in itertools.pairwise((0, *stops)):
            with shares(engine, encoder, examples, config, teacher, first, end) as found:
                for step, batch in enumerate(found, first):
                    engine.optimizer.param_groups[0]["lr"] = learning_rate(config, step, config.steps)
                    backward(engine, batch, config)
                    engine.step()
            yield end
    finally:
        release(engine, encoder)


def row(bench: Bench, point: plans.Point, neurons: np.ndarray, stops: list[int], tuned: bool) -> dict[str, Any]:
    """One plan's row; from a step at which the training diverged on its cells stay empty."""
    release_memory()
    config, plan = bench.base.config, point.plan(bench.base.config, neurons)
    parameters, begun = count_parameters(config, plan), time.perf_counter()
    found: dict[str, Any] = {"key": point.key, "parameters": parameters, "device": device_name()}
    found["parameters_fraction"] = round(parameters / count_parameters(config), 8)
    found["moving_share"] = round(moving_share(config, plan), 8)
    tokens = bench.config.prune.reconstruct_tokens
    encoder = prune_and_reconstruct(bench.encoder(), plan, neurons, bench.texts, tokens)
    steps = fit(encoder, bench.examples, bench.config.train, stops, bench.teacher) if tuned else iter(())
    batch_tokens = bench.config.score.batch_tokens
    try:
        for step in itertools.chain((0,), steps):
            whole, small = _scores(encoder, bench.search, batch_tokens)
            seconds = time.perf_counter() - begun
            found |= {f"ndcg_{step}": f"{whole:.6f}", f"small_{step}": f"{small:.6f}"}
            found[f"seconds_{step}"] = round(seconds, 3)
            if step == stops[-1]:
                found[f"test_{step}"] = f"{_scores(encoder, bench.test, batch_tokens)[0]:.6f}"
    except FloatingPointError as error:
        print(f"{point.key}: {error}", flush=True)
    return found


def worker(
    number: int, args: argparse.Namespace, values: dict[str, Any], deadline: float, ready: Any, taken: Any
) -> None:
    """Take plans, one after the other, until none is left or the next would not end in time."""
    torch.set_num_threads(1)
    ready.wait()
    bench = load(args, values)
    with np.load(args.out / "neurons.npz") as arrays:
        neurons = arrays[plans.RANKING]
    known, longest = table.read_parts(args.out), 0.0
    path = args.out / f"part-{number:02d}-{time.time_ns()}.csv"
    keys = table.chosen(json.loads((args.out / "facts.json").read_text()), args.plans)
    final = f"ndcg_{args.stops[-1]}"
    with path.open("w", newline="", buffering=1) as file:
        writer = csv.DictWriter(file, table.columns(tuple(args.stops)))
        writer.writeheader()
        while time.monotonic() + 1.5 * longest < deadline:
            with taken.get_lock():
                place, taken.value = taken.value, taken.value + 1
            if place >= len(keys):
                return
            tuned = not 0 <= args.tuned <= place
            if keys[place] in known and (not tuned or known[keys[place]][final]):
                continue
            begun = time.monotonic()
            writer.writerow(row(bench, plans.Point.from_key(keys[place]), neurons, args.stops, tuned))
            longest = max(longest, time.monotonic() - begun) if tuned else longest
