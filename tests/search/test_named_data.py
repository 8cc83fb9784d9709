"""Data sets by name in the commands: what is fetched when, what a run keeps of them, and what a node does."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from effir_dist.core import config as config_module
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig
from effir_dist.data import sets
from effir_dist.data.named import names
from effir_dist.data.named.beir_sets import ADDRESS_VARIABLE
from effir_dist.evaluate import command as evaluate_command
from effir_dist.evaluate import encode as encode_command
from effir_dist.importance import command as importance_command
from effir_dist.runs.run_folder import Run
from effir_dist.search import command as search_command
from effir_dist.search import run_definition
from effir_dist.search.cluster import worker
from effir_dist.search.command_line import parser
from effir_dist.search.configuration import configure
from effir_dist.search.preflight import node_checks
from effir_dist.training import negatives
from tests.data.test_named_beir import published, zip_of
from tests.hub import Hub, hub_of
from tests.tiny import write_collection

Say = Callable[..., str]


@pytest.fixture
def server(collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The collection as scifact.zip at the address of BEIR, an empty cache, and an empty working folder."""
    source = Path(shutil.copytree(collection, tmp_path / "source" / "scifact"))
    published(monkeypatch, zip_of(source, tmp_path / "web" / "scifact.zip"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with hub_of(tmp_path / "web") as hub:
        monkeypatch.setenv(ADDRESS_VARIABLE, hub.address)
        yield hub


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command's main with arguments; returns what it prints, or its error where it ends with 2."""

    def run(main: Callable[[], None], *arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        if not code:
            main()
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == code
        return capsys.readouterr().err

    return run


def test_a_dry_run_says_what_it_would_fetch_and_fetches_nothing(server: Hub, said: Say) -> None:
    names_of_sets = ("--data", "beir:scifact", "--train-data", "hf:BeIR/nfcorpus", "--held-out", "beir:fiqa")
    found = said(search_command.main, "--dry-run", *names_of_sets)
    assert "beir:scifact, hf:BeIR/nfcorpus is not on this machine yet" in found
    assert f"beir:fiqa is fetched from {server.address}/fiqa.zip (17.9 MB)" in found
    assert f"beir:scifact is fetched from {server.address}/scifact.zip" in found
    assert f"into {names.cache() / 'beir' / 'scifact'}" in found
    assert "hf:BeIR/nfcorpus is fetched from the Hugging Face hub" in found
    assert not server.requests
    several = said(search_command.main, "--dry-run", "--data", "beir:cqadupstack")
    assert several.count("cqadupstack.zip (5,343.7 MB)") == several.count(", with 11 more\n") == 1
    sets.resolve("beir:scifact")
    assert "scifact 12 queries, 60 documents" in said(search_command.main, "--dry-run", "--data", "beir:scifact")


def test_evaluate_takes_names_and_folders_alike(server: Hub, said: Say, checkpoints: dict[str, Path]) -> None:
    model, folder = str(checkpoints["bert"]), str(server.folder.parent / "source" / "scifact")
    by_name, by_folder = (
        said(evaluate_command.main, model, "--data", data).splitlines()[-1].split()[:-1]  # but for the seconds
        for data in ("beir:scifact", folder)
    )
    assert by_name == by_folder
    assert by_name[:3] == ["scifact", "12", "60"]
    error = said(evaluate_command.main, model, "--data", "beir:scifact", "--data", folder, code=2)
    assert "--data names two data sets 'scifact'" in error


def test_off_line_is_one_sentence_and_exit_code_2(server: Hub, said: Say, checkpoints: dict[str, Path]) -> None:
    server.close()
    model = str(checkpoints["bert"])
    for arguments in ((evaluate_command.main, model), (search_command.main, "--model", model)):
        error = said(*arguments, "--data", "beir:scifact", code=2)
        assert error.splitlines()[-1].startswith("error: beir:scifact is not in the cache and cannot be fetched from")
        assert "scifact.zip into" in error
    assert not list(Path().glob("runs/*"))


def test_encode_importance_and_negatives_take_names(server: Hub, said: Say, checkpoints: dict[str, Path]) -> None:
    model = str(checkpoints["bert"])
    said(encode_command.main, model, "beir:scifact", "vectors")
    said(importance_command.main, "--model", model, "--data", "beir:scifact", "--samples", "4", "--length", "16")
    said(negatives.main, "--data", "beir:scifact", "--count", "2", "--depth", "5")
    assert Path("importance/importance.csv").is_file()
    assert list(Path("vectors").iterdir())
    assert (names.cache() / "beir" / "scifact" / "negatives" / "train.jsonl").is_file()
    assert server.requests == [("GET", "/scifact.zip")]
    assert "beir:cqadupstack is 12 data sets" in said(negatives.main, "--data", "beir:cqadupstack", code=2)


def test_a_run_keeps_the_name_and_resume_finds_data_that_changed(server: Hub, checkpoints: dict[str, Path]) -> None:
    arguments = ["--model", str(checkpoints["bert"]), "--data", "beir:scifact", "--name", "named"]
    args = parser().parse_intermixed_args(arguments)
    config, found, source = configure(args)
    assert config.data.paths == ("beir:scifact",)
    run = run_definition.create_run(args, config, found, source)
    assert run.config["data"]["paths"] == ["beir:scifact"]
    kept = Run.open("runs/named").extra["data"][0]
    assert (kept["name"], kept["path"], kept["source"]["url"]) == (
        "scifact", "beir:scifact", f"{server.address}/scifact.zip",
    )  # fmt: skip
    resumed = parser().parse_intermixed_args(["--resume", "runs/named"])
    server.close()
    assert run_definition.open_run(resumed)[1].data.paths == ("beir:scifact",)
    with (names.cache() / "beir" / "scifact" / "qrels" / "test.tsv").open("a") as file:
        file.write("q0\td9\t1\n")
    with pytest.raises(InputError, match="the data set beir:scifact changed"):
        run_definition.open_run(resumed)


def test_all_of_cqadupstack_is_twelve_paths_of_a_search() -> None:
    args = parser().parse_intermixed_args(["--data", "beir:scifact", "--held-out", "beir:cqadupstack"])
    config = configure(args)[0]
    assert len(config.data.held_out) == 12
    with pytest.raises(InputError, match="beir:bioasq is not public"):
        configure(parser().parse_intermixed_args(["data.paths=[beir:bioasq]"]))


def config_of(path: str) -> RunConfig:
    return config_module.replace(RunConfig(), {"data.paths": [path]})


def test_each_node_fetches_into_its_own_cache_before_its_trial(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for node in ("a", "b"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / node))
        worker.fetch(config_of("beir:scifact"))
        worker.fetch(config_of("beir:scifact"))
        assert names.is_here("beir:scifact")
    assert server.requests == [("GET", "/scifact.zip")] * 2


def test_a_set_that_changed_where_it_is_from_is_not_mixed_with_the_searchs(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [sets.fingerprint("beir:scifact")]
    other = write_collection(tmp_path / "other" / "scifact", seed=1)
    published(monkeypatch, zip_of(other, tmp_path / "web" / "scifact.zip"))
    worker.fetch(config_of("beir:scifact"), known)  # this machine has the search's
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "late"))
    for _ in range(2):  # it is not there on the second try either
        with pytest.raises(InputError, match=r"beir:scifact as fetched on .* is not what the search began with"):
            worker.fetch(config_of("beir:scifact"), known)


def test_a_nodes_check_of_data_knows_what_is_yet_to_be_fetched(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = str(sets.fingerprint("beir:scifact")["sha256"])
    asked = node_checks.Request("node", RunConfig(), "", {}, {"beir:scifact": expected}, {}, 0)
    assert node_checks.check_data(asked) == f"scifact {expected[:12]}"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "node"))
    assert "beir:scifact is fetched from" in node_checks.check_data(asked)
    assert not names.is_here("beir:scifact")
    server.close()
    with pytest.raises(InputError, match="which does not answer"):
        node_checks.check_data(asked)
