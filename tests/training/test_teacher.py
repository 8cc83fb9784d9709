"""A teacher from outside: as its own folder gives the unpruned model's embeddings, another one its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from effir_dist.core import config as c
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig, TrainConfig
from effir_dist.data.pairs import training_pairs
from effir_dist.models import pretrained
from effir_dist.models.encoder import load_encoder
from effir_dist.models.pruning import PruningPlan
from effir_dist.runs.records import TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search import checks, command, dry_run
from effir_dist.search.preflight import node_checks
from effir_dist.search.strategy import space_file
from effir_dist.search.strategy.space import Space, teacher_settings
from effir_dist.search.trial.preparation import load_teacher, prepare
from effir_dist.search.trial.trial import run_trial
from effir_dist.training.batches import Teacher, distinct
from effir_dist.training.losses import Targets, distillation, retrieval_loss, unlikeness
from effir_dist.training.teacher import find_teacher
from tests import sentence_folders
from tests.tiny import WITHOUT_BASE, tiny_checkpoint
from tests.training.test_distillation import make_run
from tests.training.test_training import quiet

FILES = ("teacher_queries.npy", "teacher_passages.npy")
SPEC = TrialSpec(0, {}, {}, PruningPlan(dropped_mlp=(1,)))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of another dimension."""
    return tiny_checkpoint(tmp_path_factory.mktemp("wide"), "llama", seed=7, hidden_size=64)


def prepared(collection: Path, model: Path, folder: Path, teacher: str, **settings: Any) -> tuple[Run, RunConfig]:
    distils = {"train.distill_similarities": 1.0, "train.learning_rate": 1e-2}
    run, config = make_run(collection, model, folder, **{**distils, **settings, "train.teacher": teacher})
    prepare(run, config, ["activation"], teacher_settings(Space(), config))
    return run, config


@pytest.mark.parametrize("name", ["bert", "qwen3"])
def test_the_models_own_folder_is_no_other_teacher(
    name: str, collection: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Its embeddings, and what is trained with them, bit by bit."""
    both = {"train.distill_embeddings": 0.5}
    none, own = (
        prepared(collection, checkpoints[name], tmp_path / f"run{number}", teacher, **both)
        for number, teacher in enumerate(("", str(checkpoints[name])))
    )
    for file in FILES:
        assert (own[0].importance_folder / file).read_bytes() == (none[0].importance_folder / file).read_bytes()
    weights = []
    for run, config in (none, own):
        assert run_trial(run, config, SPEC, quiet).state == "complete"
        weights.append((run.trial_folder("0000") / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_a_teacher_of_another_dimension_and_tokenizer(
    collection: Path, checkpoints: dict[str, Path], wide: Path, tmp_path: Path
) -> None:
    """Its own embeddings are kept, and its similarities change what is learnt; it may be gone when a run goes on."""
    gone = Path(shutil.copytree(wide, tmp_path / "teacher"))
    long = {"model.max_query_length": 128, "model.max_document_length": 128}
    run, config = prepared(collection, checkpoints["bert"], tmp_path / "run", str(gone), **long)
    shutil.rmtree(gone)
    teacher = load_teacher(run, config.train)
    assert teacher is not None
    assert (teacher.passages.shape[1], isinstance(teacher.passages, np.memmap), teacher.unit_length) == (64, True, True)
    queries, passages = distinct(training_pairs(config.data, 0), False)
    other = load_encoder(str(wide))
    np.testing.assert_allclose(teacher.queries, other.encode([*queries], "query"), atol=1e-3)
    np.testing.assert_allclose(teacher.passages, other.encode([*passages]), atol=1e-3)
    assert run_trial(run, config, SPEC, quiet).state == "complete"
    itself, same = prepared(collection, checkpoints["bert"], tmp_path / "itself", "", **long)
    run_trial(itself, same, SPEC, quiet)
    found, plain = (load_encoder(str(each.trial_folder("0000"))).encode(["some text"]) for each in (run, itself))
    assert np.abs(found - plain).max() > 1e-4
    # A pruned model teaches as well.
    pruned, again = prepared(collection, checkpoints["bert"], tmp_path / "pruned", str(run.trial_folder("0000")))
    taught = load_teacher(pruned, again.train)
    assert taught is not None
    student = load_encoder(str(run.trial_folder("0000")))
    np.testing.assert_allclose(taught.queries, student.encode([*queries], "query"), atol=1e-3)


@pytest.mark.parametrize("kind", ["dense, dot", "all at once"])
def test_a_sentence_transformers_folder_teaches_as_it_encodes(
    kind: str, collection: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """With its pooling, prompts, lengths, Dense layers, truncation and normalisation: as sentence-transformers does."""
    folder = sentence_folders.made(tmp_path / "teacher", kind)
    run, config = prepared(collection, checkpoints["bert"], tmp_path / "run", str(folder))
    teacher = load_teacher(run, config.train)
    assert teacher is not None
    queries, passages = distinct(training_pairs(config.data, 0), False)
    theirs = SentenceTransformer(str(folder), local_files_only=True)
    unit: Any = {"normalize_embeddings": teacher.unit_length}
    np.testing.assert_allclose(teacher.queries, theirs.encode_query([*queries], **unit), atol=1e-3)
    np.testing.assert_allclose(teacher.passages, theirs.encode_document([*passages], **unit), atol=1e-3)
    assert teacher.unit_length == (kind != "dense, dot")
    assert run_trial(run, config, SPEC, quiet).state == "complete"


def test_a_bare_teacher_has_its_familys_prompts_and_the_models_lengths(
    collection: Path, checkpoints: dict[str, Path], wide: Path
) -> None:
    values = {"model.path": str(checkpoints["bert"]), "train.teacher": str(wide)}
    config = c.replace(RunConfig(), {**values, "model.query_prompt": "mine: ", "model.max_query_length": 9})
    found = find_teacher(config)
    assert found.settings.query_prompt != "mine: "
    assert (found.settings.max_query_length, found.settings.pooling, found.dimension) == (9, "last", 64)


def configured(collection: Path, model: Path, *more: str) -> tuple[RunConfig, Space, pretrained.Source]:
    order = [f"{name}={value}" for name, value in WITHOUT_BASE.items()]
    given = ["--model", str(model), "--data", str(collection), "train.steps=2", "train.batch_size=4", *order, *more]
    return command.configure(command.parser().parse_intermixed_args(given))[:3]


def test_a_teacher_that_does_not_fit_is_refused_before_the_search(
    collection: Path, checkpoints: dict[str, Path], wide: Path, tmp_path: Path
) -> None:
    def fails(*settings: str) -> str:
        config, space, source = configured(collection, checkpoints["bert"], *settings)
        with pytest.raises(InputError) as error:
            checks.teacher_of(config, space, source)
        return str(error.value)

    error = fails(f"train.teacher={wide}", "train.distill_embeddings=1")
    assert "of the model's own dimension: train.teacher" in error
    assert "has 64" in error
    assert "has 32; set train.distill_embeddings=0 and train.distill_similarities above 0" in error
    assert "and no trial distils from it" in fails(f"train.teacher={wide}")
    assert "no checkpoint folder at ./none" in fails("train.teacher=./none", "train.distill_similarities=1")
    assert "unknown backbone 'minilmm'; known: " in fails("train.teacher=minilmm", "train.distill_similarities=1")
    assert "got 's3://b/m'" in fails("train.teacher=s3://b/m", "train.distill_similarities=1")
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "effir.json").write_text("{}")
    assert "its weights were not kept" in fails(f"train.teacher={tmp_path / 'trial'}", "train.distill_similarities=1")
    with pytest.raises(InputError, match=r"train.teacher holds for a whole run and cannot vary"):
        space_file.parse_space({"train.teacher": ["a", "b"]}, "x")


def test_its_weights_are_looked_at_here_and_on_every_node(
    collection: Path, checkpoints: dict[str, Path], wide: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    broken = Path(shutil.copytree(wide, tmp_path / "broken"))
    tensors = load_file(broken / "model.safetensors")
    tensors.pop("norm.weight")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    options = (f"train.teacher={broken}", "train.distill_similarities=1")
    config, space, source = configured(collection, checkpoints["bert"], *options)
    with pytest.raises(InputError, match=r"broken do not match its config.json: norm.weight is missing"):
        command.check(config, space, source, None)
    assert command.check(config, space, source, None, prepared=True) == []  # a run that has its embeddings
    request = node_checks.Request("here", config, "", {}, {}, {}, 0)
    with pytest.raises(InputError, match=r"norm.weight is missing"):
        node_checks.check_teacher(request)
    fine = c.replace(config, {"train.teacher": str(wide)})
    assert node_checks.check_teacher(node_checks.Request("here", fine, "", {}, {}, {}, 0)).endswith("dimension 64")


def test_a_dry_run_tells_what_a_teacher_takes(collection: Path, checkpoints: dict[str, Path], wide: Path) -> None:
    def told(*settings: str) -> str:
        config, space, source = configured(collection, checkpoints["bert"], *settings)
        return dry_run.text(space, config, source.config, source.name)

    text = told(f"train.teacher={wide}", "train.distill_similarities=1")
    count = sum(p.numel() for p in load_encoder(str(wide)).parameters())
    assert f"teacher: {wide}, {count:,} parameters, dimension 64" in text
    assert "12 queries and 12 passages are encoded once" in text
    assert "to 0.0 MB of vectors" in text
    assert "teacher: the unpruned model" in told("train.distill_similarities=1")
    text = told("train.teacher=e5-mistral-7b-instruct", "train.distill_similarities=1")
    assert "teacher: e5-mistral-7b-instruct, 7,110,660,096 parameters, dimension 4096; 14.2 GB of a GPU" in text
    assert "teacher:" not in told()
    # What a search refuses.
    assert "teacher: train.distill_embeddings needs a teacher of" in told(
        f"train.teacher={wide}", "train.distill_embeddings=1"
    )
    assert f"teacher: train.teacher is {wide}, and no trial distils from it" in told(f"train.teacher={wide}")


def test_similarities_of_another_kind_have_their_own_temperature() -> None:
    """Inner products teach cosines by `train.teacher_temperature`, and vectors in their direction."""
    generator = torch.Generator().manual_seed(0)
    q, p = (torch.nn.functional.normalize(torch.randn(4, 6, generator=generator), dim=1) for _ in range(2))
    known_q, known_p = (5 * torch.randn(4, 6, generator=generator) for _ in range(2))
    places = torch.arange(4)
    parts: dict[str, Any] = {"positives": places, "repeated": torch.zeros(4, dtype=torch.bool)}
    parts |= {"excluded": torch.zeros(0, 2, dtype=torch.long), "group": places[:, None]}
    config = TrainConfig(temperature=0.1, teacher_temperature=3.0)
    plain = retrieval_loss(q, p, Targets(**parts), config)

    def added(known_unit_length: bool | None, **weights: float) -> float:
        targets = Targets(**parts, queries=known_q, passages=known_p, known_unit_length=known_unit_length)
        return float(retrieval_loss(q, p, targets, TrainConfig(**{**vars(config), **weights})) - plain)

    logits = q @ p.T / 0.1
    for kind, temperature in ((None, 0.1), (True, 0.1), (False, 3.0)):
        expected = float(distillation(logits, known_q @ known_p.T / temperature))
        assert added(kind, distill_similarities=1.0) == pytest.approx(expected, rel=1e-4)
    turned = [torch.nn.functional.normalize(known, dim=1) for known in (known_q, known_p)]
    expected = float(sum(unlikeness(a, b) for a, b in zip((q, p), turned, strict=True)) / 2)
    assert added(False, distill_embeddings=1.0) == pytest.approx(expected, rel=1e-4)
    assert not Teacher(known_q.numpy(), known_p.numpy()).unit_length
