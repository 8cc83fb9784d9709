"""A checkpoint's tensors are those of its model: from headers, from the hub, and when it is loaded."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from effir_dist.core.errors import InputError
from effir_dist.models import pretrained
from effir_dist.models.pretrained import Source
from effir_dist.models.weights import check_weights
from effir_dist.search.model_checks import tokenizer_warnings, weights_warnings
from tests import needs
from tests.hub import hub_of
from tests.tiny import FAMILY_NAMES

Tensors = dict[str, torch.Tensor]


def changed(model: Path, to: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """A copy of a checkpoint with other tensors."""
    shutil.copytree(model, to)
    tensors = load_file(to / "model.safetensors")
    save_file(change(tensors), to / "model.safetensors", {"format": "pt"})
    return to


def said(location: Path | str) -> str:
    """The error, which is the same when the weights are looked at and when they are loaded."""
    source = pretrained.find(str(location))
    with pytest.raises(InputError) as early:
        check_weights(source)
    with pytest.raises(InputError) as late:
        pretrained.load_base(source, "float32")
    assert str(early.value) == str(late.value)
    return str(early.value)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_every_missing_tensor_is_missed(name: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Each of them, whatever its kind, and a whole checkpoint has none. A file may have older names of the tensors."""
    source = pretrained.find(str(checkpoints[name]))
    assert check_weights(source) == []
    tensors = load_file(checkpoints[name] / "model.safetensors")
    own = pretrained.build_empty(source.config).state_dict()
    wanted = own if own.keys() <= tensors.keys() else tensors
    for gone in [key for key in wanted if ".1." in key or not re.search(r"\.\d+\.", key)]:
        folder = tmp_path / "less"
        folder.mkdir(exist_ok=True)
        save_file({key: t for key, t in tensors.items() if key != gone}, folder / "model.safetensors")
        with pytest.raises(InputError, match=rf"{gone if gone in own else ''} is missing"):
            check_weights(Source("less", str(folder), source.config))


def test_many_missing_tensors_are_counted(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = changed(checkpoints["bert"], tmp_path / "m", lambda t: {k: v for k, v in t.items() if "attention" not in k})
    assert "attention.output.LayerNorm.bias is missing" in said(model)
    assert "and 37 more of 40" in said(model)


def test_a_tensor_of_another_shape_is_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = changed(checkpoints["llama"], tmp_path / "m", lambda t: {**t, "norm.weight": torch.ones(31)})
    assert "norm.weight is [31], the config says [32]" in said(model)


def test_old_names_prefixes_and_tensors_without_a_place(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """gamma and beta, `bert.` before all, an MLM head and a pooler: all is there. What is none of these is named."""

    def old(tensors: Tensors) -> Tensors:
        found = {
            f"bert.{key.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta')}": t
            for key, t in tensors.items()
        }
        return {**found, "cls.predictions.bias": torch.ones(300), "bert.pooler.dense.bias": torch.ones(32)}

    model = changed(checkpoints["bert"], tmp_path / "old", old)
    assert check_weights(pretrained.find(str(model))) == []
    base = pretrained.load_base(pretrained.find(str(model)), "float32").model
    kept = pretrained.load_base(pretrained.find(str(checkpoints["bert"])), "float32").model
    torch.testing.assert_close(base.state_dict(), kept.state_dict())
    strange = changed(checkpoints["bert"], tmp_path / "strange", lambda t: {**t, "encoder.adapter": torch.ones(3)})
    (warning,) = check_weights(pretrained.find(str(strange)))
    assert warning.endswith("holds tensors that the model has no place for: encoder.adapter")


def sharded(model: Path, to: Path) -> Path:
    """The same in three files and an index."""
    shutil.copytree(model, to)
    (to / "model.safetensors").unlink()
    tensors = load_file(model / "model.safetensors")
    names = {key: f"model-0000{i % 3 + 1}-of-00003.safetensors" for i, key in enumerate(tensors)}
    for file in set(names.values()):
        save_file({key: tensors[key] for key, own in names.items() if own == file}, to / file, {"format": "pt"})
    (to / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return to


def test_files_that_the_index_names(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = sharded(checkpoints["qwen2"], tmp_path / "shards")
    source = pretrained.find(str(model))
    assert check_weights(source) == []
    second = model / "model-00002-of-00003.safetensors"
    whole = second.read_bytes()
    second.write_bytes(whole[:-5])
    with pytest.raises(InputError, match=rf"has {len(whole) - 5:,} bytes and should have {len(whole):,}"):
        check_weights(source)
    second.unlink()
    with pytest.raises(InputError, match="names files that are not there: model-00002-of-00003.safetensors"):
        check_weights(source)
    (model / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(InputError, match="must hold a JSON object with a weight_map"):
        check_weights(source)


def test_quantised_weights_are_one_sentence(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = changed(checkpoints["llama"], tmp_path / "m", lambda t: t)
    config = json.loads((model / "config.json").read_text())
    quantised = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (model / "config.json").write_text(json.dumps({**config, **quantised}))
    with pytest.raises(InputError, match="transformers cannot build a llama of this config"):
        check_weights(pretrained.find(str(model)))


def test_a_model_of_the_hub_is_looked_at_by_its_headers(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its weights are here, and in the cache; out of the hub's reach too."""
    less = changed(checkpoints["llama"], tmp_path / "m", lambda t: {k: v for k, v in t.items() if k != "norm.weight"})
    with hub_of(tmp_path / "hub") as hub:
        hub.add(sharded(checkpoints["llama"], tmp_path / "s"), "org/whole")
        hub.add(less, "org/less")
        hub.used_in(monkeypatch, tmp_path / "cache")
        assert check_weights(pretrained.find("llama-3.2-1b", "org/whole")) == []
        with pytest.raises(InputError, match=r"org/less do not match its config.json: norm.weight is missing"):
            check_weights(pretrained.find("llama-3.2-1b", "org/less"))
        assert not [*(tmp_path / "cache").rglob("*.safetensors")]
        with pytest.raises(InputError, match=r"norm.weight is missing"):
            pretrained.load_base(pretrained.find("llama-3.2-1b", "org/less"), "float32")
    with pytest.raises(InputError, match=r"norm.weight is missing"):
        check_weights(pretrained.find("llama-3.2-1b", "org/less"))


LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("mpnet", "smollm2")]


@pytest.mark.parametrize("name", ["minilm", *LARGE])
def test_real_models_are_whole_and_have_their_tokenizer(name: str) -> None:
    source = needs.backbone(name)
    assert weights_warnings(source) == []
    assert tokenizer_warnings(source, ["The capital of France is", "Paris."]) == []
