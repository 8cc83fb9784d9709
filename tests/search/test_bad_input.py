"""Each bad input: one clear sentence, exit code 2, before Ray starts and before a run folder appears."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from effir_dist.models.families import registry
from effir_dist.search import command as search_command

Fail = Callable[..., str]


@pytest.fixture
def fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fail:
    """Run the search with arguments; returns the one line that it prints on stderr."""

    def run(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["search", *arguments])
        before = set(tmp_path.glob("runs/*"))
        with pytest.raises(SystemExit) as stopped:
            search_command.main()
        error = capsys.readouterr().err
        assert stopped.value.code == 2, error
        assert set(tmp_path.glob("runs/*")) == before
        if "ray" in sys.modules:
            import ray

            assert not ray.is_initialized()
        assert error.startswith("error: ")
        assert error.count("\n") == 1, error
        return error

    return run


@pytest.fixture
def model(checkpoints: dict[str, Path]) -> str:
    return str(checkpoints["bert"])


@pytest.fixture
def data(tmp_path: Path, collection: Path) -> Path:
    """A copy of the collection, to be broken."""
    return Path(shutil.copytree(collection, tmp_path / "broken"))


def test_unknown_backbone_lists_the_known(fail: Fail) -> None:
    error = fail("--backbone", "qwem")
    assert "unknown backbone 'qwem'" in error
    assert "qwen3-0.6b" in error
    assert "--model PATH" in error


def test_a_named_checkpoint_of_other_sizes(fail: Fail, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(registry.BACKBONES["minilm"], source=model)
    monkeypatch.setitem(registry.BACKBONES, "minilm", row)
    error = fail("--backbone", "minilm")
    assert "the checkpoint of backbone 'minilm' has hidden_size 32, its row says 384; pass --model" in error


def test_hub_out_of_reach_says_how_to_pass_a_model(fail: Fail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    error = fail("--backbone", "qwen")
    assert "Qwen/Qwen3-0.6B-Base" in error
    assert "pass --model PATH" in error


def test_model_type_without_a_row(fail: Fail, tmp_path: Path) -> None:
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text('{"model_type": "gpt2"}')
    assert "model type 'gpt2' has no row" in fail("--model", str(tmp_path / "gpt"))


def test_weights_that_do_not_match_the_config(fail: Fail, tmp_path: Path, model: str, collection: Path) -> None:
    wrong = Path(shutil.copytree(model, tmp_path / "wrong"))
    config = json.loads((wrong / "config.json").read_text())
    (wrong / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    error = fail("--model", str(wrong), "--data", str(collection), "train.batch_size=4")
    assert "encoder.layer.0.intermediate.dense.weight is [48, 32], the config says [64, 32]" in error
    (wrong / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    error = fail("--model", str(wrong))
    assert "encoder.layer.4.attention.output.LayerNorm.bias is missing" in error
    assert "and 13 more of 16" in error
    (wrong / "config.json").write_text(json.dumps(config))
    (wrong / "model.safetensors").write_bytes(b"\xff" * 100)
    assert "not a readable safetensors file" in fail("--model", str(wrong))
    (wrong / "model.safetensors").unlink()
    assert "no *.safetensors weights" in fail("--model", str(wrong))


def test_a_tokenizer_that_is_not_the_models(fail: Fail, tmp_path: Path, model: str, collection: Path) -> None:
    """Its files are missing, or it knows few of the run's words: said before anything starts."""
    wrong, options = Path(shutil.copytree(model, tmp_path / "wrong")), ("--data", str(collection), "train.batch_size=4")
    files = [*wrong.glob("*token*")]
    for file in files:
        file.rename(tmp_path / file.name)
    error = fail("--model", str(wrong), *options)
    assert "has 5 tokens, and the model's embedding 300: files of the tokenizer are missing" in error
    for file in files:
        (tmp_path / file.name).rename(file)
    tree = json.loads((wrong / "tokenizer.json").read_text())
    tree["model"]["unk_token"] = "[PAD]"
    tree["model"]["vocab"] = {k: v for k, v in tree["model"]["vocab"].items() if len(k) > 1 or k not in "aeioukrlstmnp"}
    (wrong / "tokenizer.json").write_text(json.dumps(tree))
    config = json.loads((wrong / "tokenizer_config.json").read_text())
    (wrong / "tokenizer_config.json").write_text(json.dumps({**config, "unk_token": "[PAD]"}))
    assert re.search(r"does not know [5-9]\d% of the data, such as", fail("--model", str(wrong), *options))


def test_no_checkpoint_there(fail: Fail, tmp_path: Path) -> None:
    assert "no checkpoint folder at ./nowhere" in fail("--model", "./nowhere")
    (tmp_path / "empty").mkdir()
    assert "config.json: No such file" in fail("--model", str(tmp_path / "empty"))


def test_unknown_key_names_the_nearest(fail: Fail, tmp_path: Path) -> None:
    assert "did you mean 'train.steps'?" in fail("train.step=3")
    (tmp_path / "space.yaml").write_text("with_ratio: {low: 0.1, high: 1.0}")
    assert "did you mean 'width_ratio'?" in fail("--space", str(tmp_path / "space.yaml"))


def test_value_out_of_range(fail: Fail) -> None:
    assert "train.zero_stage must be one of 0, 1, 2, 3, got 9" in fail("train.zero_stage=9")
    assert "train.learning_rate must be a finite number, got 'inf'" in fail("train.learning_rate=inf")
    assert "--preflight stands alone" in fail("--preflight-json", "found.json")
    assert "--preflight stands alone" in fail("--preflight", "--dry-run")
    assert "search.trials must be 1 or more, got 0" in fail("--trials", "0")
    assert "--time-budget must be a time such as 90s, 20m or 8h, got 'soon'" in fail("--time-budget", "soon")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("{drop_mlp: [0, 99]}", "plans.far: the plan names block 99, but the model has 4 blocks, 0 to 3"),
        ("{drop_attention: [4]}", "plans.far: the plan names block 4, but the model has 4 blocks, 0 to 3"),
        ("{drop_block: 5}", "plans.far: drop_block takes away 5, but the model has 4 blocks"),
    ],
)
def test_a_plan_that_does_not_fit_the_model(
    fail: Fail, tmp_path: Path, model: str, collection: Path, plan: str, message: str
) -> None:
    (tmp_path / "space.yaml").write_text(f"plans: {{ends: {{drop_mlp: [0, 3]}}, far: {plan}}}")
    for more in ([], ["--dry-run"]):
        given = ["--model", model, "--data", str(collection), "--space", str(tmp_path / "space.yaml"), *more]
        assert message in fail(*given)


def test_settings_that_do_not_go_together_in_a_fixed_trial(
    fail: Fail, tmp_path: Path, model: str, collection: Path
) -> None:
    text = "{plans: {a: {}}, train.gradcache_tokens: [0, 64], settings: {train.gradcache_queries: 2}}"
    (tmp_path / "space.yaml").write_text(text)
    error = fail("--model", model, "--data", str(collection), "--space", str(tmp_path / "space.yaml"))
    assert "train.gradcache_tokens must be left out where train.gradcache_queries is given, got 64" in error


@pytest.mark.parametrize("missing", ["corpus.jsonl", "queries.jsonl", "qrels"])
def test_data_folder_without_a_part(fail: Fail, model: str, data: Path, missing: str) -> None:
    part = data / missing
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    error = fail("--model", model, "--data", str(data))
    assert missing in error
    assert str(data) in error


def test_no_data_folder(fail: Fail, model: str) -> None:
    assert "nowhere" in fail("--model", model, "--data", "nowhere")


def test_broken_json_line_has_file_and_line(fail: Fail, model: str, data: Path) -> None:
    lines = (data / "corpus.jsonl").read_text().splitlines()
    lines[6] = lines[6][:-5]
    (data / "corpus.jsonl").write_text("\n".join(lines))
    assert f"{data / 'corpus.jsonl'}:7" in fail("--model", model, "--data", str(data))


def test_split_that_does_not_exist_lists_those_there_are(fail: Fail, model: str, data: Path) -> None:
    error = fail("--model", model, "--data", str(data), "data.test_split=final")
    assert "final" in error
    assert "dev" in error
    assert "train" in error


def test_empty_corpus(fail: Fail, model: str, data: Path) -> None:
    (data / "corpus.jsonl").write_text("")
    assert "corpus.jsonl" in fail("--model", model, "--data", str(data))


def test_no_judged_document_left(fail: Fail, model: str, data: Path) -> None:
    for split in ("train", "dev", "test"):
        (data / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\nq0\tgone\t1\nq1\tgone2\t1\n")
    assert "judged document" in fail("--model", model, "--data", str(data))


def test_more_gpus_than_the_machine_has(fail: Fail, model: str, collection: Path) -> None:
    error = fail("--model", model, "--data", str(collection), "--gpus-per-trial", "64")
    assert "a trial asks for 64 GPUs, but this machine has" in error


def test_run_folder_that_exists(fail: Fail, model: str, collection: Path, tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.yaml").write_text("{}")
    arguments = ("--model", model, "--data", str(collection), "train.batch_size=4")
    error = fail(*arguments, "--name", "mine")
    assert "exists already; choose another --name, or go on with --resume runs/mine" in error
    assert "must be letters" in fail(*arguments, "--name", "a/b")


def test_resume_of_what_is_no_run(fail: Fail, tmp_path: Path) -> None:
    assert "there is no run folder runs/none" in fail("--resume", "runs/none")
    (tmp_path / "notes").mkdir()
    assert "notes is no run: it has no config.yaml" in fail("--resume", "notes")


def test_batch_larger_than_the_data(fail: Fail, model: str, collection: Path) -> None:
    error = fail("--model", model, "--data", str(collection), "train.batch_size=500")
    assert "500" in error
    assert "12" in error
