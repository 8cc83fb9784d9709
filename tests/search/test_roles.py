"""A search that trains on one data set, is scored on a second, and whose front is scored on a third as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from effir_dist.core.errors import InputError
from effir_dist.data import sets
from effir_dist.models.encoder import Encoder
from effir_dist.models.pruning import PruningPlan
from effir_dist.report.compare import load
from effir_dist.report.page_data import page_data
from effir_dist.report.report_files import write_run
from effir_dist.runs.records import TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search import command, run_definition
from effir_dist.search.command_line import parser
from tests.tiny import WITHOUT_BASE, write_collection

OPTIONS = ["train.steps=2", "train.batch_size=4", "prune.calibration_texts=4", "data.max_documents=20"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three data sets with other texts each."""
    root = tmp_path_factory.mktemp("roles")
    return {name: write_collection(root / name, seed=seed) for seed, name in enumerate(("large", "small", "third"))}


def arguments(folders: dict[str, Path], model: Path, *more: str) -> list[str]:
    roles = zip(("--train-data", "--data", "--held-out"), folders.values(), strict=True)
    named = [word for flag, folder in roles for word in (flag, str(folder))]
    order = [f"{name}={value}" for name, value in WITHOUT_BASE.items()]
    return ["--model", str(model), *named, *OPTIONS, *order, *more]


def test_each_data_set_has_its_role(
    tmp_path: Path, folders: dict[str, Path], checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from effir_dist.search.trial.preparation import prepare
    from effir_dist.search.trial.scoring import score_saved
    from effir_dist.search.trial.trial import run_trial

    read: set[str] = set()
    tokenize = Encoder.tokenize

    def noted(self: Encoder, texts: Any, *rest: Any) -> Any:
        read.update(texts)
        return tokenize(self, texts, *rest)

    monkeypatch.setattr(Encoder, "tokenize", noted)
    given = arguments(folders, checkpoints["bert"], "--runs", str(tmp_path), "--name", "mine")
    args = parser().parse_intermixed_args(given)
    config, space, source = command.configure(args)
    assert command.check(config, space, source, None) == []
    run = run_definition.create_run(args, config, space, source)
    assert [(d["name"], d["roles"]) for d in run.extra["data"]] == [("small", ["scored"]), ("large", ["trained"])]
    prepare(run, config, ["activation"])
    record = run_trial(run, config, TrialSpec(0, {}, {}, PruningPlan(dropped_mlp=(1,))), lambda _: None)
    tested, held = (score_saved(run, config, "0000", split) for split in ("test", "held_out"))
    assert [[*each.sizes] for each in (record, tested, held)] == [["small"], ["small"], ["third"]]
    assert [str(each.sizes[name]) for each, name in ((record, "small"), (tested, "small"), (held, "third"))] == [
        "4 queries, 20 of 40 documents", "4 queries, 40 documents", "4 queries, 40 documents"
    ]  # fmt: skip
    tree = json.loads((run.trial_folder("0000") / "result.json").read_text())
    assert tree["datasets"]["small"]["all_documents"] == 40

    train = sets.load_collection(str(folders["large"]), "train")
    answers = {d for grades in train.qrels.values() for d in grades}
    documents = dict(zip(train.document_ids, train.documents, strict=True))
    encoded = {d for d, text in documents.items() if text in read}
    assert encoded == answers, "of the data that is trained on the answers were read, and its corpus was not"
    assert {*sets.load_collection(str(folders["third"]), "test").documents} <= read

    (loaded,) = load([Run.open(run.folder)])
    page = page_data([loaded])["runs"][0]
    assert page["data"] == "small (trained on large)"
    assert page["scored_on"]["search"] == "small 4 queries, 20 of 40 documents"
    assert page["scored_on"]["held_out"] == "third 4 queries, 40 documents"
    write_run(loaded, tmp_path / "report")
    assert "20 of 40 documents" in (tmp_path / "report" / "report.html").read_text()


def test_a_run_goes_on_with_its_roles_and_notices_changed_training_data(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    folders = {name: write_collection(tmp_path / name, seed=n) for n, name in enumerate(("large", "small", "third"))}
    args = parser().parse_intermixed_args(
        arguments(folders, checkpoints["bert"], "--runs", str(tmp_path / "runs"), "--name", "mine")
    )
    config, space, source = command.configure(args)
    run_definition.create_run(args, config, space, source)
    again = parser().parse_intermixed_args(["--resume", str(tmp_path / "runs" / "mine")])
    assert run_definition.open_run(again)[1] == config
    (folders["large"] / "corpus.jsonl").open("a").write('{"_id": "new", "text": "one more"}\n')
    with pytest.raises(InputError, match="the data set .*large changed since"):
        run_definition.open_run(again)
    other = parser().parse_intermixed_args(["--resume", str(tmp_path / "runs" / "mine"), "--train-data", "x"])
    with pytest.raises(InputError, match=r"data\.train_paths cannot change in a run that is resumed"):
        run_definition.open_run(other)


def test_a_file_of_triples_trains_a_search(
    tmp_path: Path, folders: dict[str, Path], checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command line to a trained trial; resumed from another folder, and refused where the file has changed."""
    from effir_dist.search.trial.preparation import prepare
    from effir_dist.search.trial.trial import run_trial

    monkeypatch.chdir(tmp_path)
    rows = [{"anchor": f"what is {i}", "positive": f"it is {i}", "negative": f"it is {i + 1}"} for i in range(8)]
    Path("triples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = arguments({**folders, "large": Path("triples.jsonl")}, checkpoints["bert"], "train.hard_negatives=1")
    args = parser().parse_intermixed_args([*given, "--runs", str(tmp_path / "runs"), "--name", "mine"])
    assert "data: small (trained on triples); held out: third" in command.dry_run_text(args)
    config, space, source = command.configure(args)
    assert command.check(config, space, source, None) == []
    run = run_definition.create_run(args, config, space, source)
    assert [(d["name"], d["roles"]) for d in run.extra["data"]] == [("small", ["scored"]), ("triples", ["trained"])]
    prepare(run, config, ["activation"])
    record = run_trial(run, config, TrialSpec(0, {}, {}, PruningPlan(dropped_mlp=(1,))), lambda _: None)
    assert (record.state, record.steps, [*record.sizes]) == ("complete", 2, ["small"])
    again = parser().parse_intermixed_args(["--resume", str(tmp_path / "runs" / "mine")])
    monkeypatch.chdir("/")
    assert run_definition.open_run(again)[1] == config
    (tmp_path / "triples.jsonl").open("a").write(json.dumps(rows[0]).replace("it is 0", "something else"))
    with pytest.raises(InputError, match=r"the data set .*triples\.jsonl changed since"):
        run_definition.open_run(again)


def told(folders: dict[str, Path], model: Path) -> str:
    return command.dry_run_text(parser().parse_intermixed_args(arguments(folders, model)))


def test_a_dry_run_tells_roles_sizes_and_leaks(
    tmp_path: Path, folders: dict[str, Path], checkpoints: dict[str, Path]
) -> None:
    text = told(folders, checkpoints["bert"])
    assert "data: small (trained on large); held out: third" in text
    assert "a trial is scored on small 4 queries, 20 of 40 documents" in text
    assert "the finished front on small 4 queries, 40 documents" in text
    assert "left out" not in text
    twin = write_collection(tmp_path / "twin", seed=1)  # the texts of `small`
    (twin / "qrels" / "test.tsv").rename(twin / "qrels" / "train.tsv")
    text = told({**folders, "large": twin}, checkpoints["bert"])
    assert "twin: 4 training queries left out, as the text is a test query too" in text


def test_what_is_trained_on_is_not_held_out(folders: dict[str, Path], checkpoints: dict[str, Path]) -> None:
    given = arguments({**folders, "third": folders["large"]}, checkpoints["bert"])
    with pytest.raises(InputError, match="data sets that are not in data.train_paths"):
        command.configure(parser().parse_intermixed_args(given))


def test_nothing_to_train_on_is_told_before_the_search(folders: dict[str, Path], checkpoints: dict[str, Path]) -> None:
    data = ["--data", str(folders["small"]), "data.train_on_scored=false"]
    given = ["--model", str(checkpoints["bert"]), *data, *OPTIONS]
    config, space, source = command.configure(parser().parse_intermixed_args(given))
    with pytest.raises(InputError, match="none of the data sets has a training pair .*--train-data"):
        command.check(config, space, source, None)
