"""What a search takes from the settings, from the model's own folder and from its family, and how it says so."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from effir_dist.core import config as config_module
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig
from effir_dist.models.encoder_settings import make_settings
from effir_dist.models.families.base import Dense
from effir_dist.models.families.registry import BACKBONES
from effir_dist.models.origins import is_retriever, retriever_text
from effir_dist.models.pretrained import Source
from effir_dist.models.sentence_folder import SentenceFolder
from effir_dist.search import command, run_definition
from effir_dist.search.command_line import parser, settings
from effir_dist.search.configuration import Asked, as_it_was, asked_of, model_text, origins_of, settled

CONFIG = {
    "model_type": "bert",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
DECLARED = SentenceFolder("cls", True, "q: ", "d: ", 40, 90, similarity="dot")
BARE = Source("bare", "/nowhere", CONFIG)
FOLDER = dataclasses.replace(BARE, declared=DECLARED)


def asked(source: Source, *arguments: str) -> Asked:
    return asked_of(parser().parse_intermixed_args(["--model", "/nowhere", *arguments]), source)


def test_a_model_may_be_named_as_a_backbone_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    named = parser().parse_intermixed_args(["--model", "minilm"])
    assert settings(named) == {"model.backbone": "minilm"}
    (tmp_path / "minilm").mkdir()
    assert settings(named) == {"model.path": "minilm"}, "a folder of that name comes first"
    assert settings(parser().parse_intermixed_args(["--model", "org/minilm"])) == {"model.path": "org/minilm"}


def test_settings_go_over_the_folder_and_the_folder_over_the_row() -> None:
    found = asked(FOLDER, "model.query_prompt=ask: ", "model.max_document_length=70")
    config = settled(found)
    kept = {
        "pooling": "cls",
        "query_prompt": "ask: ",
        "document_prompt": "d: ",
        "max_query_length": 40,
        "max_document_length": 70,
        "similarity": "dot",
        "normalize": False,
        "include_prompt": True,
    }
    assert {name: getattr(config.model, name) for name in kept} == kept
    said = model_text(config, FOLDER, origins_of(found))
    assert said == (
        "the retriever, by the settings: query prompt 'ask: ', documents of at most 70 tokens; by its folder: "
        "cls pooling, document prompt 'd: ', queries of at most 40 tokens, not normalised, inner products"
    )


def test_a_dry_run_and_the_run_itself_say_where_values_came_from(
    checkpoints: dict[str, Path], collection: Path, tmp_path: Path
) -> None:
    given = ["--model", str(checkpoints["bert"]), "--data", str(collection), "--runs", str(tmp_path), "--name", "said"]
    args = parser().parse_intermixed_args([*given, "train.batch_size=4", "model.query_prompt=q: "])
    said = "the retriever, by the settings: query prompt 'q: ', queries of at most 64 tokens"
    assert said in command.dry_run_text(args)
    run = run_definition.create_run(args, *command.configure(args))
    kept = run.config["model"]
    names = ("pooling", "query_prompt", "similarity", "normalize")
    assert [kept[name] for name in names] == ["mean", "q: ", "cosine", True]
    assert run.extra["model_from"]["pooling"] == "its family's defaults"
    resumed = parser().parse_intermixed_args(["--resume", str(run.folder)])
    assert said in command.dry_run_text(resumed)
    assert run_definition.open_run(resumed)[1] == command.configure(args)[0]
    named = parser().parse_intermixed_args(["--backbone", "bge-small-en-v1.5"])
    assert "; what BAAI/bge-small-en-v1.5 itself says goes over these defaults" in command.dry_run_text(named)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [("passage", (), True), ("passage", ("model.document_prompt=doc: ",), False), ("document", (), False)],
)
def test_a_document_prompt_of_another_name_is_pointed_out(name: str, arguments: tuple[str, ...], said: bool) -> None:
    prompt = "p: " if name == "document" else ""
    declared = SentenceFolder("cls", document_prompt=prompt, prompts=((name, "p: "),))
    source = dataclasses.replace(BARE, declared=declared)
    found = asked(source, *arguments)
    text = model_text(settled(found), source, origins_of(found))
    assert ("'model.document_prompt=p: '" in text) == said


def test_a_bare_checkpoint_takes_its_familys_row() -> None:
    found = asked(BARE)
    config = settled(found)
    model = config.model
    assert (model.pooling, model.query_prompt, model.max_query_length) == ("mean", "", 64), "of search_spaces/bert.yaml"
    assert (model.similarity, model.normalize, model.dimension) == ("cosine", True, 0)
    assert "by its family's defaults: mean pooling, no query prompt" in model_text(config, BARE, origins_of(found))


def test_a_familys_space_gives_way_to_the_folder_and_a_space_of_the_users_does_not(tmp_path: Path) -> None:
    assert settled(asked(FOLDER)).model.max_query_length == 40
    space = tmp_path / "space.yaml"
    space.write_text("drop_mlp: {max: 2}\nsettings: {model.max_query_length: 32, train.temperature: 0.5}\n")
    config = settled(asked(FOLDER, "--space", str(space)))
    assert (config.model.max_query_length, config.train.temperature) == (32, 0.5)


@pytest.mark.parametrize(
    ("similarity", "normalize", "arguments", "temperature"),
    [
        ("dot", False, (), 1.0),
        ("dot", False, ("train.temperature=0.3",), 0.3),
        ("dot", False, ("model.normalize=true",), 0.05),
        ("dot", True, (), 0.05),
        ("cosine", False, (), 0.05),
        ("cosine", False, ("model.similarity=dot",), 1.0),
    ],
)
def test_the_temperature_suits_the_similarity(
    similarity: str, normalize: bool, arguments: tuple[str, ...], temperature: float
) -> None:
    declared = dataclasses.replace(DECLARED, similarity=similarity, normalize=normalize)
    config = settled(asked(dataclasses.replace(BARE, declared=declared), *arguments))
    assert config.train.temperature == temperature


def test_a_llm_space_of_cosines_is_not_taken_for_inner_products() -> None:
    tree = {**CONFIG, "model_type": "llama", "num_key_value_heads": 4}
    cosine = dataclasses.replace(DECLARED, similarity="cosine")
    found = [settled(asked(Source("x", "/nowhere", tree, declared=each))) for each in (cosine, DECLARED)]
    assert [config.train.temperature for config in found] == [0.02, 1.0]


def test_a_run_goes_on_as_it_was_where_its_folder_was_edited() -> None:
    config = settled(asked(FOLDER))
    tree = config_module.to_dict(config)
    edited = dataclasses.replace(BARE, declared=SentenceFolder("max", False, "x", "y", 12, 13, normalize=True))
    again = as_it_was(config_module.from_dict(tree), tree, edited)
    assert again == config
    assert make_settings(again.model, edited) == make_settings(config.model, FOLDER)


def test_a_run_of_a_version_that_ignored_the_folder_goes_on_without_it() -> None:
    old = {"model": {"pooling": "", "query_prompt": None, "document_prompt": None, "max_query_length": 64}}
    config = config_module.replace(RunConfig(), config_module.flatten(old))
    again = as_it_was(config, old, FOLDER).model
    assert (again.pooling, again.query_prompt, again.similarity, again.normalize) == ("mean", "", "cosine", True)
    assert as_it_was(config, old, BARE) == config
    dense = dataclasses.replace(DECLARED, dense=(Dense(32, 8, True, "torch.nn.Tanh"),))
    with pytest.raises(InputError, match="left out the Dense layers or truncate_dim of /nowhere; start a new run"):
        as_it_was(config, old, dataclasses.replace(BARE, declared=dense))


@pytest.mark.parametrize(
    ("source", "arguments", "said"),
    [
        (BARE, (), "bare is a bare language model (nothing says that it was trained to retrieve: "
                   "model.retriever=true would)"),
        (BARE, ("model.retriever=true",), "bare is a retriever already (model.retriever says so)"),
        (FOLDER, (), "bare is a retriever already (a sentence-transformers folder)"),
        (FOLDER, ("model.retriever=false",), "bare is a bare language model (model.retriever says so)"),
    ],
)  # fmt: skip
def test_a_retriever_is_told_from_a_bare_language_model(source: Source, arguments: tuple[str, ...], said: str) -> None:
    config = settled(asked(source, *arguments))
    assert config.model.retriever == ("already" in said), "settled: a resumed run asks nobody"
    named = config_module.replace(RunConfig(), {name.split("=")[0]: "true" in name for name in arguments}).model
    assert retriever_text(named, source) == said


def test_named_backbones_say_whether_they_are_retrievers() -> None:
    found = {n: is_retriever(RunConfig().model, Source(n, row.source, row.config)) for n, row in BACKBONES.items()}
    assert all(found[name] for name in ("minilm", "qwen3-embedding-4b", "e5-mistral-7b-instruct"))
    assert not any(found[name] for name in ("smollm2", "mistral-7b", "bert-base", "qwen3-0.6b", "gemma-3-1b"))
