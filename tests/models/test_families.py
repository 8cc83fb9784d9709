"""What families declare: complete, in one place, and true of transformers' own models."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effir_dist.core.config import replace
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig
from effir_dist.models import modeling_effir
from effir_dist.models.families.base import KNOWN_OPTIONS, PLACEMENTS, Family
from effir_dist.models.families.registry import BACKBONES, FAMILIES, register
from effir_dist.models.flops import count_flops
from effir_dist.models.pruning import PruningPlan, count_parameters
from effir_dist.training import memory
from tests import ROOT
from tests.models.test_pruning import batch, encoder_of
from tests.tiny import MODEL_NAMES, registered, row_of, tiny_checkpoint

HARMLESS = {"dropout", "scaling", "deterministic", "position_ids", "use_cache", "cache", "is_causal"}
"""Keyword arguments of an attention that every attention knows, or that change nothing of what is computed."""
OPTIONAL = (
    *("model_type", "read_config", "known_code", "config_keys", "backbones", "short_names"),
    *("norms_behind", "norm_behind_parameters"),
)
"""model_type aside, without which Python itself makes no row; and what `norm_placement` asks for or forbids."""
REQUIRED = [f.name for f in dataclasses.fields(Family) if f.name not in OPTIONAL]
PLAN = PruningPlan((1, 3), (0, 2), ((4, 100), (5, 777)), "magnitude")
NUMBERS = {
    "minilm": (22565376, 17328493, 3307177452.0, 331776, 3988740096.0, 977599488.0),
    "modernbert-base": (149014272, 135697152, 56245324800.0, 1689600, 25077797888.0, 3675873792.0),
    "llama-3.2-1b": (1235814400, 1018896384, 411978637312.0, 5636096, 88023097344.0, 22547165184.0),
    "mistral-7b": (7110660096, 6332891136, 3364479713280.0, 20971520, 349322756096.0, 128260317184.0),
    "qwen2.5-1.5b": (1543714304, 1371584512, 619670378496.0, 9232384, 139541481472.0, 28055292928.0),
    "qwen3-0.6b": (596049920, 548407808, 218841622528.0, 5046272, 84256456704.0, 11703681024.0),
}
"""Backbone -> parameters, those left by PLAN, FLOPs of PLAN, parameters of adapters, and the memory of two trainings.
As the version before families were files of their own computed them; the memory as it is since a
look-up has no gradient of the whole table of embeddings."""


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_formulas_give_the_numbers_that_they_gave(name: str) -> None:
    config, run = BACKBONES[name].config, replace(RunConfig(), {"train.batch_size": 64})
    again = replace(run, {"train.gradient_checkpointing": True})
    found = (
        count_parameters(config),
        count_parameters(config, PLAN),
        count_flops(config, np.array([3, 17, 250]), PLAN),
        memory.lora_parameters(config, 8),
        memory.predict(config, run, "float32").peak,
        memory.predict(config, again, "bfloat16").peak,
    )
    assert found == NUMBERS[name]


def values(name: str) -> dict[str, Any]:
    row = FAMILIES[name]
    return {f.name: getattr(row, f.name) for f in dataclasses.fields(Family)}


@pytest.mark.parametrize("field", REQUIRED)
def test_what_a_family_does_not_declare_is_refused(field: str) -> None:
    given = {**values("llama"), "model_type": "made-up"}
    del given[field]
    with pytest.raises(InputError, match=f"family 'made-up' does not declare {field}; add it to its row"):
        Family(**given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"norm_placement": "before"},
            "'made-up': norm_placement must be one of pre, post, sandwich, parallel, res_post",
        ),
        ({"pooling": "median"}, "'made-up': pooling must be one of mean, last, cls, max, weighted_mean, got 'median'"),
        ({"norm_placement": "sandwich"}, "'made-up': attention must name 3 modules where norm_placement is 'sandwich'"),
        ({"causal": True}, "'made-up': causal must be a function of the config, such as formulas.never, got True"),
        ({"mlp": ("mlp",)}, "'made-up': mlp must name 2 modules where norm_placement is 'pre', got"),
        ({"norm_placement": "post"}, "'made-up': norms_behind must name 2 modules where norm_placement is 'post', got"),
        ({"norms_behind": ("norm",)}, "'made-up': norms_behind must name 0 modules where norm_placement is 'pre', got"),
        (
            {"norm_placement": "post", "norms_behind": ("a", "b")},
            "'made-up': norm_behind_parameters must be a function of the config",
        ),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Family(**{**values("llama"), "model_type": "made-up", **changes})


def test_a_model_type_has_one_family() -> None:
    with pytest.raises(InputError, match="a family of model type 'llama' is registered already"):
        register(FAMILIES["llama"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "family 'glm4' does not name post_mlp_layernorm, post_self_attn_layernorm in its fields"),
        ({"mlp": ("mlp", "norm_2")}, "does not name"),
    ],
)
def test_a_row_copied_from_another_family_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Four norms a block, of which the copied row knows two: pruned by it, the model would be another."""
    own = {"model_type": "glm4", "class_name": "Glm4", "backbones": (), "tiny": {"pad_token_id": 0}}
    with registered(Family(**{**values("llama"), **own, "short_names": {}, **changes})):
        path = tiny_checkpoint(tmp_path, "glm4", head_dim=8)
        with pytest.raises(InputError, match=message):
            encoder_of(path)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_surgery_computes_a_block_as_transformers_does(name: str, checkpoints: dict[str, Path]) -> None:
    """With nothing removed, to the bit: nothing of the block is left out, such as a scale or another norm."""
    encoder, own = encoder_of(checkpoints[name]), encoder_of(checkpoints[name])
    row = row_of(name)
    for block in encoder.backbone.get_submodule(row.blocks):
        modeling_effir.drop(block, row, attention=False, mlp=False)
    with torch.inference_mode():
        assert torch.equal(encoder(*batch(encoder)), own(*batch(own)))


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_family_declares_the_options_of_its_attention(name: str, checkpoints: dict[str, Path]) -> None:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from effir_dist.models.kernels.attention import taken

    encoder = encoder_of(checkpoints[name])
    given: dict[str, Any] = {}
    causal: set[bool] = set()

    def attend(module: Any, *inputs: Any, **options: Any) -> Any:
        given.update(options)
        causal.add(options.get("is_causal", module.is_causal))
        # What it makes of options that it does not know is nothing to this test.
        known = {name: value for name, value in options.items() if name in HARMLESS | KNOWN_OPTIONS}
        return sdpa_attention_forward(module, *inputs, **known)

    ids, _ = batch(encoder)
    with torch.inference_mode(), taken(encoder.backbone, "recorded", attend):
        encoder.backbone(input_ids=ids[:1], attention_mask=None, **row_of(name).call_options)
    declared = set(row_of(name).attention_options)
    if not causal:  # its attention asks for no other: so its own must be the one that runs
        assert row_of(name).attention_implementation == "eager"
        return
    assert {option for option, value in given.items() if value is not None} - HARMLESS <= declared <= set(given)
    assert causal == {row_of(name).causal(encoder.model_config)}


def test_a_config_has_the_usual_keys_here_and_the_familys_own_in_files(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    encoder = encoder_of(checkpoints["distilbert"])
    encoder.save(tmp_path)
    for folder in (checkpoints["distilbert"], tmp_path):
        written = json.loads((folder / "config.json").read_text())
        assert (written["dim"], written["hidden_dim"]) == (32, 48)
        assert not {"hidden_size", "intermediate_size"} & set(written)
    assert (encoder.model_config["hidden_size"], encoder.model_config["intermediate_size"]) == (32, 48)
    assert not {"dim", "hidden_dim"} & set(encoder.model_config)


@pytest.mark.parametrize(("key", "value"), [("position_embedding_type", "relative_key"), ("is_decoder", True)])
def test_a_bert_that_transformers_would_compute_otherwise_is_refused(
    key: str, value: Any, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """transformers ignores the one without a word; the other would be causal."""
    folder = Path(shutil.copytree(checkpoints["xlm-roberta"], tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(InputError, match=f"config.json says {key} .* of xlm-roberta only .* is known"):
        encoder_of(folder)


def test_every_placement_that_a_row_may_name_is_known_to_the_surgery() -> None:
    assert set(modeling_effir.PLACEMENTS) == set(PLACEMENTS)


def sources() -> list[Path]:
    package = ROOT / "effir_dist"
    files = [*package.rglob("*.py"), *package.rglob("*.js"), *package.rglob("*.html")]
    return [file for file in files if package / "models" / "families" not in file.parents]


def test_no_familys_name_stands_anywhere_else() -> None:
    """As a model type or as the beginning of a class's name; texts that list families read the registry."""
    names = {name for row in FAMILIES.values() for name in (row.model_type, row.class_name)}
    pattern = re.compile(rf"(?<![a-z_])({'|'.join(map(re.escape, sorted(names)))})", re.IGNORECASE)
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in sources()
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found
    assert pattern.search("isinstance(x, LlamaModel)"), "it would be seen"
    assert len(sources()) > 100


def test_the_page_on_models_lists_all_families_and_backbones() -> None:
    page = (ROOT / "docs" / "guides" / "models.md").read_text()
    for name in FAMILIES:
        assert f"| `{name}` |" in page
    for name, row in BACKBONES.items():
        size = f"{count_parameters(row.config) / 1e6:,.1f} M"
        assert re.search(rf"\| `{re.escape(name)}` \|.*\| {re.escape(size)} \|", page), name
