"""`python -m effir_dist.export` as a user runs it: what it writes, says and refuses."""

from __future__ import annotations

import base64
import http.server
import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from effir_dist.core.errors import InputError
from effir_dist.evaluate.comparison import sample
from effir_dist.evaluate.intervals import mean_interval
from effir_dist.export import command as export_command
from effir_dist.export import model_card, selection
from effir_dist.models.pruning import PruningPlan
from effir_dist.runs.run_folder import Run, read_queries
from tests import ROOT
from tests.exports import EQUAL, MIXED, UNPRUNED, machine_paths, write_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path], collection: Path) -> Run:
    return write_run(tmp_path_factory.mktemp("run") / "tiny", checkpoints["llama"], collection)


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    """A copy, to be broken."""
    return Run(shutil.copytree(finished.folder, tmp_path / "tiny"))


@pytest.fixture
def fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command; returns its one line on stderr."""

    def failing(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
        before = set(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as stopped:
            export_command.main()
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert (stopped.value.code, len(lines)) == (2, 1)
        assert set(tmp_path.rglob("*")) == before, "nothing half written"
        return lines[0]

    return failing


def test_the_card_holds_plan_scores_with_intervals_data_and_command(finished: Run, tmp_path: Path) -> None:
    export_command.export(finished, finished.result(MIXED), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    scores = read_queries(finished.queries_path(MIXED))
    interval = mean_interval(sample(scores["toy"], "ndcg_at_10"))
    assert f"| search | toy | 20 | 30 of 40 | {interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}] |" in card
    widths = json.loads((tmp_path / "out" / "plan.json").read_text())["mlp_widths"]
    assert f"| MLP width | {' | '.join(map(str, widths))} |" in card
    for said in ("1 of 4 MLPs (2) and 1 of 4 attentions (1)", "torch 2", "--name tiny",
                 "| trained on | toy (sha256 000000000000) |", "| scored on | toy (sha256 000000000000) |",
                 "- training time: 3.0 s",
                 "trust_remote_code=True", "effir_dist.load", "vllm serve", "no LM head", "learning_rate"):  # fmt: skip
        assert said in card, said
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    weights = [path.name for path in (tmp_path / "out").rglob("*") if path.suffix in (".bin", ".pt", ".safetensors")]
    assert weights == ["model.safetensors"]


def test_best_takes_the_highest_score_that_satisfies_the_expression(finished: Run) -> None:
    table = {trial: finished.result(trial) for trial in (UNPRUNED, MIXED, EQUAL)}
    highest = max(table, key=lambda trial: table[trial].values["ndcg_at_10"])
    assert selection.best(finished, "parameters_fraction <= 1").trial == highest
    smaller = [trial for trial in table if table[trial].values["parameters_fraction"] < 1]
    found = selection.best(finished, 'parameters_fraction < 1 and dropped_attention == ""').trial
    assert found == EQUAL
    assert set(smaller) == {MIXED, EQUAL}
    assert selection.best(finished, "not width_ratio > 0.9 and 0 < parameters <= 1e9").trial in smaller


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("parameters_fraction <= ", "cannot read the expression"),
        ("__import__('os').system('true')", "is no comparison"),
        ("parameters_fraction <= len('abc')", "is neither a column nor a number"),
        ("(lambda: 1)() < 2", "is neither a column nor a number"),
        ("parameters_fractoin <= 0.5", "did you mean 'parameters_fraction'?"),
        ("parameters_fraction <= 0.0001", "no complete trial satisfies"),
        ("parameters", "is no comparison"),
        ("trial < 3", "compares text with a number: '0000' and 3; write text in quotes, numbers without"),
        ("parameters_fraction <= " + "(" * 500, "cannot read the expression"),
    ],
)
def test_an_expression_is_read_and_never_run(finished: Run, expression: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        selection.best(finished, expression)
    assert message in str(error.value)


def test_columns_of_settings_and_data_sets_are_columns_too() -> None:
    columns = ["train.learning_rate", "ndcg_at_10[my-data]"]
    test = selection.parse("train.learning_rate == 1e-4 or ndcg_at_10[my-data] > 0.5", columns)
    assert test({"train.learning_rate": 1e-4, "ndcg_at_10[my-data]": 0.1})
    assert test({"train.learning_rate": 1.0, "ndcg_at_10[my-data]": 0.6})
    assert not test({"train.learning_rate": None, "ndcg_at_10[my-data]": None})


def test_an_unknown_trial_names_the_nearest(run: Run, fail: Callable[..., str], tmp_path: Path) -> None:
    assert "has no trial '7'; the nearest are 0000, 0001, 0002" in fail(run.folder, "--trial", 7, tmp_path / "out")


def test_weights_that_were_not_kept_say_which_were_and_how_to_keep_them(
    run: Run, fail: Callable[..., str], tmp_path: Path
) -> None:
    run.remove_weights(EQUAL)
    error = fail(run.folder, "--trial", EQUAL, tmp_path / "out")
    assert "the weights of trial 0002 were not kept" in error
    assert "trials with weights: 0000, 0001" in error
    assert "search.keep_weights=all" in error
    error = fail(run.folder, "--best", 'parameters_fraction < 1 and dropped_attention == ""', tmp_path / "out")
    assert "no trial with weights satisfies" in error
    assert "trials with weights: 0000, 0001" in error


def test_a_trial_that_failed_says_why(run: Run, fail: Callable[..., str], tmp_path: Path) -> None:
    _edit(run.trial_folder(MIXED) / "result.json", state="failed", reason="out of memory", ndcg_at_10=None)
    error = fail(run.folder, "--trial", 1, tmp_path / "out")
    assert "trial 0001 of" in error
    assert "has failed (out of memory)" in error


def test_a_run_with_no_finished_trial(run: Run, fail: Callable[..., str], tmp_path: Path) -> None:
    for trial in run.trials():
        (run.trial_folder(trial) / "result.json").unlink()
    assert "no trial of" in fail(run.folder, "--trial", 0, tmp_path / "out")
    assert "is complete yet" in fail(run.folder, "--best", "parameters < 1", tmp_path / "out")


def test_an_output_folder_that_is_not_empty(run: Run, fail: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert "out is not empty" in fail(run.folder, "--trial", 0, tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert "must be on this machine" in fail(run.folder, "--trial", 0, "s3://bucket/out")


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_run_or_a_model_of_a_newer_version(run: Run, fail: Callable[..., str], tmp_path: Path) -> None:
    _edit(run.trial_folder(MIXED) / "effir.json", format=99)
    assert "was written by a newer effir_dist (format 99)" in fail(run.folder, "--trial", MIXED, tmp_path / "out")
    _edit(run.trial_folder(EQUAL) / "result.json", schema=99)
    assert "was written by a newer version of effir_dist" in fail(run.folder, "--trial", 0, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": {"mlp": [0, 2]}, "narrow": {"widths": {}}}, "do not fit its plan"),
        ({"drop": {"mlp": [0, 2]}}, "the plan gives MLP 0 the width"),
        ({"narrow": {"widths": {"0": 47}}}, "do not fit its plan"),
        ({"drop": {"mlp": [17]}}, "names block 17, but the model has 4 blocks, 0 to 3"),
        ({"narrow": {"widths": "wide"}}, "not a pruning plan"),
    ],
)
def test_a_plan_edited_by_hand_that_does_not_fit_its_weights(
    run: Run, fail: Callable[..., str], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = run.trial_folder(MIXED) / "effir.json"
    plan = PruningPlan.from_dict(json.loads(path.read_text())["plan"])
    drop = {"kind": "drop", "mlp": [*plan.dropped_mlp], "attention": [*plan.dropped_attention]}
    narrow = {"kind": "narrow", "widths": dict(plan.widths), "ranking": plan.ranking}
    _edit(path, plan={"operations": [{**each, **changes.get(each["kind"], {})} for each in (drop, narrow)]})
    assert message in fail(run.folder, "--trial", MIXED, tmp_path / "out")


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.file),))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.pt"])
def test_a_pickle_is_never_read(run: Run, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from effir_dist.models.encoder import load_encoder

    folder = run.trial_folder(MIXED)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "gone off")))
    with pytest.raises(InputError, match=r"only (tensors|safetensors) are read"):
        load_encoder(str(folder))
    (folder / "effir.json").unlink()  # now an unpruned checkpoint
    with pytest.raises(InputError, match=r"is not a readable safetensors file|only safetensors are read"):
        load_encoder(str(folder))
    assert not (tmp_path / "gone off").exists()


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a model hub as an upload needs."""

    files: ClassVar[dict[str, bytes]] = {}
    refuses: ClassVar[bool] = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.refuses:
            return self.answer({"error": "no"}, 401)
        if self.path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            return self.answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
            )
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            address = f"http://{self.headers['host']}/me/tiny/commit/{'0' * 40}"
            return self.answer({"commitUrl": address, "commitOid": "0" * 40, "success": True})
        if self.path.startswith("/api/validate-yaml"):
            return self.answer({"errors": [], "warnings": []})
        return self.answer({"url": f"http://{self.headers['host']}/me/tiny", "name": "me/tiny", "id": "1"})

    def do_GET(self) -> None:
        self.answer({"id": "me/tiny", "sha": "0" * 40, "private": True, "siblings": [], "name": "me"})

    def answer(self, tree: dict[str, Any], code: int = 200) -> None:
        body = json.dumps(tree).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.files.clear()
    Hub.refuses = False
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _push(run: Run, out: Path, endpoint: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_test", **more}
    environment |= {"HF_HOME": str(out.parent / "hf"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "effir_dist.export", str(run.folder), "--trial", MIXED, str(out)]
    given = [*command, "--push-to-hub", "me/tiny"]
    return subprocess.run(given, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_push_to_hub_uploads_the_whole_folder(finished: Run, tmp_path: Path, hub: str) -> None:
    done = _push(finished, tmp_path / "out", hub)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[0].startswith(f"wrote trial 0001 of tiny to {tmp_path / 'out'}: ")
    assert "uploaded to http://127.0.0.1" in done.stdout
    paths = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    written = {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in paths}
    assert Hub.files == written
    assert {"model.safetensors", "modeling_effir.py", "README.md", "1_Pooling/config.json"} <= set(written)


def test_what_is_pushed_names_no_place_of_this_machine(run: Run, tmp_path: Path, hub: str) -> None:
    """Folders of the command line and of the checkpoint become their names; what is no path stays."""
    model, data = run.config["model"]["path"], run.config["data"]["paths"][0]
    given = ["--model", model, f"data.paths=[{data}, {tmp_path}/my other data]", "--runs", "s3://ours/runs"]
    given += ["--space", "../spaces/mine.yaml", "model.query_prompt=one and/or two: ", "search.seed=3"]
    extra = {**run.extra, "command": shlex.join(["python", "-m", "effir_dist.search", *given]), "data": []}
    run.write_config(run.config, extra)
    done = _push(run, tmp_path / "out", hub)
    assert done.returncode == 0, done.stderr[-2000:]
    assert machine_paths(tmp_path / "out", tmp_path, Path(model).parent, Path(data).parent) == {}
    card = Hub.files["README.md"].decode()
    (line,) = [line for line in card.splitlines() if line.startswith("python -m effir_dist.search")]
    assert shlex.split(line)[3:] == [
        *("--model", "tiny-llama", "data.paths=[toy,my other data]", "--runs", "runs", "--space", "mine.yaml"),
        *("model.query_prompt=one and/or two: ", "search.seed=3"),
    ]
    assert "| data | toy |" in card


def test_a_hubs_model_and_a_command_without_quotes_stay_readable(run: Run) -> None:
    config = {**run.config, "model": {**run.config["model"], "path": "owner/name"}}
    for command in ("search --model owner/name", "search model.path=owner/name", "search --data /my/don't"):
        run.write_config(config, {**run.extra, "command": command})
        expected = command.replace("/my/don't", shlex.quote("don't"))
        assert model_card._command(run) == expected


def test_a_hub_that_refuses_or_is_away_leaves_the_folder(finished: Run, tmp_path: Path, hub: str) -> None:
    Hub.refuses = True
    for out, endpoint, more, said in (
        (tmp_path / "one", hub, {}, "the model hub refuses 'me/tiny' (log in with `hf auth login`)"),
        (tmp_path / "two", hub, {"HF_HUB_OFFLINE": "1"}, "the model hub cannot be reached (OfflineModeIsEnabled)"),
    ):
        done = _push(finished, out, endpoint, **more)
        assert done.returncode == 2
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert said in errors[0]
        assert f"the model is complete in {out}" in errors[0]
        assert (out / "model.safetensors").is_file()
