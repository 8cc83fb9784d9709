"""Models on the hub are fetched, small files first, and are then as their folder; code of their own is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from effir_dist.core.errors import InputError
from effir_dist.evaluate import command as evaluate_command
from effir_dist.models import pretrained
from effir_dist.models.encoder import load_encoder
from effir_dist.models.own_code import CodeRefused
from effir_dist.models.weights import check_weights
from tests import needs
from tests.exports import texts
from tests.hub import Hub, hub_of
from tests.sentence_folders import made, rewritten

needs.module("sentence_transformers")
NAME = "people/all-at-once"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("folder"), "all at once")


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the model, which this process uses."""
    with hub_of(tmp_path / "hub") as server:
        server.add(folder, NAME)
        server.used_in(monkeypatch, tmp_path / "cache")
        yield server


def test_a_hub_id_is_as_its_folder(hub: Hub, folder: Path) -> None:
    source, local = pretrained.find("", NAME), pretrained.find("", str(folder))
    assert (source.config, source.declared) == (local.config, local.declared)
    assert not [path for _, path in hub.requests if path.endswith((".safetensors", "tokenizer.json"))]
    expected = load_encoder(str(folder)).encode(texts(9), "query")
    np.testing.assert_array_equal(load_encoder(NAME).encode(texts(9), "query"), expected)
    hub.close()
    np.testing.assert_array_equal(load_encoder(NAME).encode(texts(9), "query"), expected)


def test_what_cannot_be_fetched_is_said_in_a_sentence(hub: Hub) -> None:
    with pytest.raises(InputError, match="people/none on the model hub could not be read"):
        load_encoder("people/none")
    hub.gated.add(NAME)
    with pytest.raises(InputError, match="people/all-at-once on the model hub is for those who accepted its terms"):
        load_encoder(NAME)
    hub.gated.clear()
    source = pretrained.find("", NAME)
    hub.close()
    pretrained._load_cached.cache_clear()
    with pytest.raises(InputError, match="could not be read and is not in the local cache"):
        pretrained.load_base(source, "float32")
    with pytest.raises(InputError, match="no folder and no hub id"):
        load_encoder("some/where/else")


def test_weights_on_the_hub_are_looked_at_before_they_are_loaded(hub: Hub, folder: Path, tmp_path: Path) -> None:
    own = hub.folder / "models" / NAME
    assert check_weights(pretrained.find("", NAME)) == []
    fetched = {file.parent.name for file in (tmp_path / "cache").rglob("model.safetensors")}
    assert fetched == {"2_Dense", "3_Dense"}, "of the rest the headers are enough"
    shutil.copy(own / "2_Dense" / "model.safetensors", own / "3_Dense" / "model.safetensors")
    with pytest.raises(InputError, match="the weights in .*3_Dense do not fit its config.json"):
        check_weights(pretrained.find("", NAME))
    (own / "model.safetensors").rename(own / "pytorch_model.bin")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(InputError, match=r"people/all-at-once has no \*.safetensors weights"):
        check_weights(pretrained.find("", NAME))


def test_a_model_on_the_hub_that_we_cannot_load_is_evaluated(
    hub: Hub, collection: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewritten(hub.folder / "models" / NAME, "sentence_bert_config.json", unpad_inputs=False, model_args={"x": 1})
    rewritten(hub.folder / "models" / NAME, "sentence_bert_config.json", model_args={"experts_implementation": None})
    arguments = evaluate_command.parser().parse_args([NAME, "--data", str(collection)])
    assert 0 <= evaluate_command.evaluate(arguments)["mean"]["ndcg_at_10"] <= 1
    assert "sentence-transformers itself encodes with people/all-at-once" in capsys.readouterr().err


OWN = """
from transformers import LlamaModel

class OwnModel(LlamaModel):
    def forward(self, *args, **options):
        found = super().forward(*args, **options)
        found.last_hidden_state = found.last_hidden_state * {factor}
        return found
"""


def with_code(folder: Path, target: Path, code: str) -> Path:
    path = Path(shutil.copytree(folder, target))
    rewritten(path, "config.json", auto_map={"AutoModel": "modeling_own.OwnModel"})
    (path / "modeling_own.py").write_text(code)
    return path


def test_code_of_its_own_is_refused_or_held_against_the_family(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import hub as transformers_hub

    monkeypatch.setattr(transformers_hub, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    same = with_code(folder, tmp_path / "same", OWN.format(factor=1))
    with pytest.raises(CodeRefused, match=r"comes with code of its own \(modeling_own.OwnModel\); read it, and pass"):
        load_encoder(str(same))
    found = load_encoder(str(same), trust_remote_code=True).encode(texts(9))
    np.testing.assert_array_equal(found, load_encoder(str(folder)).encode(texts(9)))
    other = with_code(folder, tmp_path / "other", OWN.format(factor=1.1))
    with pytest.raises(CodeRefused, match="computes something else than transformers' LlamaModel"):
        load_encoder(str(other), trust_remote_code=True)
    broken = with_code(folder, tmp_path / "broken", "import nothing_of_this_name")
    with pytest.raises(CodeRefused, match="does not load: .*nothing_of_this_name"):
        load_encoder(str(broken), trust_remote_code=True)
    old = with_code(folder, tmp_path / "old", OWN.format(factor="self.gone_from_transformers()"))
    with pytest.raises(CodeRefused, match="does not run: .*gone_from_transformers"):
        load_encoder(str(old), trust_remote_code=True)
    arguments = evaluate_command.parser().parse_args([str(same), "--data", str(tmp_path)])
    with pytest.raises(CodeRefused, match="comes with code of its own"):
        evaluate_command._load(str(same), "float32", arguments)
