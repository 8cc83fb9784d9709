"""What a teacher adds to the loss: its formula, ranks, where the teacher comes from, and what it does to a student."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from effir_dist.core import config as c
from effir_dist.core.errors import InputError
from effir_dist.core.settings import DataConfig, RunConfig, TrainConfig
from effir_dist.data.pairs import check, training_pairs
from effir_dist.models.encoder import Encoder, load_encoder, prune_encoder
from effir_dist.models.pruning import PruningPlan, make_plan
from effir_dist.runs.records import TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search.strategy.space import Space, needs_scores, teacher_settings
from effir_dist.search.trial.preparation import load_teacher, prepare
from effir_dist.search.trial.start import base_encoder
from effir_dist.search.trial.trial import run_trial
from effir_dist.training.batches import Batch, Examples, Teacher, batches, distinct, examples_of
from effir_dist.training.collate import Collator
from effir_dist.training.engine import ChunkEncoder, start_distributed
from effir_dist.training.losses import distillation, retrieval_loss
from effir_dist.training.trainer import train
from tests.ranks import run_ranks
from tests.tiny import write_collection
from tests.training.test_training import assert_same, assert_same_training, make_pairs, quiet, weights

TRAIN = TrainConfig(steps=5, batch_size=8, learning_rate=1e-3, dtype="float32", hard_negatives=2)
ALL = replace(TRAIN, distill_scores=0.5, distill_similarities=0.7, distill_embeddings=0.9, teacher_temperature=2.0)
PLAN = PruningPlan(dropped_mlp=(1,))


def teacher_of(encoder: Encoder) -> Teacher:
    queries, passages = distinct(make_pairs(), True)
    return Teacher(encoder.encode(queries, "query"), encoder.encode(passages))


def student_of(path: Path) -> Encoder:
    return prune_encoder(load_encoder(str(path)), PLAN, None)


def test_the_divergence_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(4, 5, generator=generator) for _ in range(2))
    teacher[1, 2:4] = math.nan
    expected = []
    for found, goal in zip(student.double(), teacher.double(), strict=True):
        known = ~goal.isnan()
        p, q = goal[known].softmax(0), found[known].softmax(0)
        expected.append((p * (p / q).log()).sum().item())
    student.requires_grad_()
    value = distillation(student, teacher)
    assert value.item() == pytest.approx(np.mean(expected), rel=1e-5)
    value.backward()
    assert student.grad is not None
    assert student.grad[1, 2:4].tolist() == [0, 0]
    assert student.grad.isfinite().all()
    assert distillation(teacher[:1], teacher[:1]).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("similarity", "temperature"), [("cosine", 0.05), ("dot", 4.0)])
def test_the_whole_loss_is_the_sum_of_its_parts(
    checkpoints: dict[str, Path], similarity: str, temperature: float
) -> None:
    """Against a plain computation from embeddings, one query at a time."""
    start_distributed()
    student, base, pairs = student_of(checkpoints["llama"]), load_encoder(str(checkpoints["llama"])), make_pairs()
    for encoder in (student, base):
        encoder.settings = replace(encoder.settings, similarity=similarity, normalize=False)
    settings = [replace(each, temperature=temperature) for each in (TRAIN, ALL)]
    examples, teacher = examples_of(student, pairs, ALL, None), teacher_of(base)
    assert (teacher.queries.max() > 1) == (similarity == "dot")
    batch = next(batches(examples, ALL))
    queries, passages = distinct(pairs, True)
    q = student.encode([queries[i] for i in batch.queries], "query").astype(float)
    p = student.encode([passages[i] for i in batch.passages.ravel()]).astype(float)
    known_q, known_p = teacher.queries[batch.queries].astype(float), teacher.passages[batch.passages.ravel()]

    def divergence(goal: np.ndarray, found: np.ndarray) -> float:
        goal, found = (np.exp(x) / np.exp(x).sum() for x in (goal, found))
        return float((goal * np.log(goal / found)).sum())

    similar = np.mean(
        [divergence(known_p @ a / temperature, p @ b / temperature) for a, b in zip(known_q, q, strict=True)]
    )
    apart = [((a - b) ** 2).sum(1) / (2 * (b**2).sum(1)) for a, b in ((q, known_q), (p, known_p))]
    scored = []
    for i, scores in enumerate(batch.scores):
        kept = ~np.isnan(scores)
        scored.append(divergence(scores[kept] / 2.0, (p[3 * i : 3 * i + 3] @ q[i] / temperature)[kept]))
    with torch.no_grad():
        values = [whole_loss(student, examples, batch, x, teacher).item() for x in settings]
    expected = 0.5 * np.mean(scored) + 0.7 * similar + 0.9 * (apart[0].mean() + apart[1].mean()) / 2
    assert values[1] - values[0] == pytest.approx(expected, rel=1e-4)


def whole_loss(
    encoder: Encoder, examples: Examples, batch: Batch, config: TrainConfig, teacher: Teacher | None
) -> torch.Tensor:
    """Of one padded batch with its graph, without chunks."""
    step = Collator(encoder, examples, config, teacher).collate(batch)
    rows = ChunkEncoder(encoder)([group for chunk in step.chunks for group in chunk])[step.order]
    (targets,) = step.targets
    count = len(targets.positives)
    return retrieval_loss(rows[:count], rows[count:], targets, config)


def _rank(rank: int, world_size: int, path: Path, out: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=world_size)
    student = student_of(path)
    train(student, make_pairs(), replace(ALL, zero_stage=2), quiet, teacher=teacher_of(load_encoder(str(path))))
    torch.save(weights(student), out / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_distil_like_one(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    run_ranks(_rank, 2, checkpoints["llama"], tmp_path)
    student = student_of(checkpoints["llama"])
    start = weights(student)
    teacher = teacher_of(load_encoder(str(checkpoints["llama"])))
    train(student, make_pairs(), replace(ALL, zero_stage=2), quiet, teacher=teacher)
    two = torch.load(tmp_path / "0.pt")
    assert_same(two, torch.load(tmp_path / "1.pt"))
    assert_same_training(start, weights(student), two)


@pytest.mark.parametrize("kind", ["distill_similarities", "distill_embeddings"])
def test_a_student_comes_nearer_to_the_unpruned_model(kind: str, checkpoints: dict[str, Path]) -> None:
    base = load_encoder(str(checkpoints["bert"]))
    teacher, texts = teacher_of(base), make_pairs().queries

    def distance(encoder: Encoder) -> float:
        if kind == "distill_embeddings":
            return 1 - float((encoder.encode(texts, "query") * base.encode(texts, "query")).sum(1).mean())
        found, goal = (x.encode(texts, "query") @ x.encode(make_pairs().positives).T for x in (encoder, base))
        return float(np.abs(found - goal).mean())

    reached = {}
    for weight in (0.0, 20.0):
        student = student_of(checkpoints["bert"])
        train(student, make_pairs(), replace(TRAIN, steps=15, **{kind: weight}), quiet, teacher=teacher)
        reached[weight] = distance(student)
    assert reached[20.0] < 0.8 * reached[0.0]


def test_without_its_teacher_nothing_trains(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="needs its embeddings: pass teacher"):
        train(student_of(checkpoints["llama"]), make_pairs(), ALL, quiet)


# The file of negatives and its scores


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """Training queries q0, q3, q6, q9."""
    return write_collection(tmp_path / "scored")


def write_negatives(collection: Path, scores: Any) -> None:
    rows = [{"query": "q0", "positive": ["d0"], "negative": ["d1", "d2"], "scores": scores}]
    others = [(query, query.replace("q", "d")) for query in ("q3", "q6", "q9")]
    rows += [{"query": q, "positive": [d], "negative": ["d1"], "scores": [3, 1.5]} for q, d in others]
    (collection / "negatives").mkdir(exist_ok=True)
    (collection / "negatives" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_scores_are_read_with_their_passages(scored: Path) -> None:
    write_negatives(scored, [9.5, 2, -1])
    found = training_pairs(DataConfig(paths=(str(scored),)), 0)
    assert found.scores == [[9.5, 2.0, -1.0], [3.0, 1.5], [3.0, 1.5], [3.0, 1.5]]
    assert check(DataConfig(paths=(str(scored),)), need_scores=True) == []


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (None, "has no score for 3 of 9 training passages, the first query 'q0' with document 'd0'"),
        ([9, None, 1], "has no score for 1 of 9 training passages, the first query 'q0' with document 'd1'"),
        ([9, 1], "'scores' must be a list of 3 numbers, one for each positive and then each negative, got 2"),
        ([9, "high", 1], "a score must be a number, or null where there is none, got 'high'"),
        ([9, math.nan, 1], "a score must be a number, or null where there is none, got nan"),
    ],
)
def test_scores_that_are_missing_or_wrong(scored: Path, scores: Any, message: str) -> None:
    write_negatives(scored, scores)
    with pytest.raises(InputError) as error:
        check(DataConfig(paths=(str(scored),)), need_scores=True)
    assert message in str(error.value)


def test_scores_without_hard_negatives_are_refused() -> None:
    with pytest.raises(InputError, match=r"hard_negatives must be 1 or more where train.distill_scores is above"):
        TrainConfig(distill_scores=1.0)


# In a search


def test_what_a_space_may_ask_of_a_teacher() -> None:
    config = c.replace(RunConfig(), {"train.hard_negatives": 2})
    assert teacher_settings(Space(), config) is None
    assert not needs_scores(Space(), config)
    varied = Space(parameters={"train.distill_embeddings": (0.0, 1.0), "train.distill_scores": (0.0, 0.5)})
    assert needs_scores(varied, config)
    wanted = teacher_settings(varied, config)
    assert wanted is not None
    assert wanted.hard_negatives == 2


def make_run(collection: Path, checkpoint: Path, folder: Path, **settings: Any) -> tuple[Run, RunConfig]:
    values = {"model.path": str(checkpoint), "data.paths": [str(collection)], "train.batch_size": 4, "train.steps": 3}
    values |= {"train.dtype": "float32", "score.dtype": "float32"}
    values |= {"prune.calibration_texts": 5, "data.search_split": "dev"}
    config = c.replace(RunConfig(), {**values, **settings})
    return Run.create(folder, c.to_dict(config)), config


def test_the_unpruned_model_is_asked_once_a_search(
    collection: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    settings = {"train.distill_similarities": 1.0, "train.learning_rate": 1e-2}
    run, config = make_run(collection, checkpoints["qwen3"], tmp_path / "run", **settings)
    prepare(run, config, ["activation"], teacher_settings(Space(), config))
    teacher = load_teacher(run, config.train)
    assert teacher is not None
    assert teacher.queries.dtype == np.float16
    assert isinstance(teacher.queries, np.memmap)
    pairs = training_pairs(config.data, 0)
    base = base_encoder(config)
    np.testing.assert_allclose(teacher.passages, base.encode(distinct(pairs, False)[1]), atol=1e-3)
    record = run_trial(run, config, TrialSpec(0, {}, {}, PLAN), quiet)
    assert record.state == "complete"
    student, alone = (prune_encoder(base_encoder(config), PLAN, None) for _ in range(2))
    train(student, pairs, config.train, quiet, teacher=teacher)
    train(alone, pairs, replace(config.train, distill_similarities=0.0), quiet)
    saved = load_encoder(str(run.trial_folder("0000"))).encode(["some text"])
    np.testing.assert_allclose(saved, student.encode(["some text"]), atol=1e-5)
    assert np.abs(saved - alone.encode(["some text"])).max() > 1e-4


def test_tuning_first_is_tuning_the_unpruned_model(
    collection: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    settings = {"train.order": "tune_then_prune", "train.learning_rate": 1e-2}
    run, config = make_run(collection, checkpoints["bert"], tmp_path / "run", **settings)
    prepare(run, config, ["activation"])
    with np.load(run.importance_folder / "neurons.npz") as arrays:
        neurons = arrays["activation"]
    base = base_encoder(config)
    plan = make_plan(base.model_config, [1], [], 0.5, neurons, "activation")
    run_trial(run, config, TrialSpec(0, {}, {}, plan), quiet)
    train(base, training_pairs(config.data, 0), config.train, quiet)
    expected = prune_encoder(base, plan, neurons).encode(["some text"])
    found = load_encoder(str(run.trial_folder("0000"))).encode(["some text"])
    np.testing.assert_allclose(found, expected, atol=1e-6)
