"""Nomic's published checkpoints: another config, other names of tensors, code of their own; all that is translated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from effir_dist.core.errors import InputError
from effir_dist.models import pretrained
from effir_dist.models import published as published_sizes
from effir_dist.models.encoder import load_encoder
from effir_dist.models.families.nomic_bert import OLDER_KEYS
from effir_dist.models.families.registry import BACKBONES, FAMILIES
from tests.tiny import tiny_checkpoint

PUBLISHED = {
    "activation_function": "swiglu",
    "causal": False,
    "prenorm": False,
    "parallel_block": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "qkv_proj_bias": False,
    "n_positions": 8192,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "rotary_emb_base": 50,
    "use_flash_attn": True,
    "pad_vocab_size_multiple": 64,
}
"""Keys that nomic-embed-text-v1.5 has beside its sizes."""


def published(folder: Path, **changes: Any) -> Path:
    """A tiny checkpoint with the keys of nomic-ai's own config.json; transformers saves its tensors by their names."""
    path = tiny_checkpoint(folder, "nomic_bert", initializer_range=0.3)
    file = path / "config.json"
    older = {new: old for old, new in OLDER_KEYS.items()}
    own = {key: value for key, value in json.loads(file.read_text()).items() if key != "rope_parameters"}
    own = {older.get(key, key): value for key, value in own.items() if key not in ("hidden_act", "head_dim")}
    file.write_text(json.dumps({**own, **PUBLISHED, **changes}))
    return path


def by_hand(path: Path, ids: list[int]) -> Tensor:
    """[T, D]: the published architecture, from its own tensors and config."""
    config, weights = json.loads((path / "config.json").read_text()), load_file(path / "model.safetensors")
    heads, size = config["n_head"], config["n_embd"] // config["n_head"]
    angles = torch.arange(len(ids))[:, None] / config["rotary_emb_base"] ** (torch.arange(0, size, 2) / size)

    def norm(x: Tensor, name: str) -> Tensor:
        parameters = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return torch.nn.functional.layer_norm(x, x.shape[-1:], *parameters, config["layer_norm_epsilon"])

    def turned(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)

    tables = [weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "token_type")]
    x = norm(tables[0][ids] + tables[1][0], "emb_ln")
    for block in (f"encoder.layers.{i}." for i in range(config["n_layer"])):
        qkv = (x @ weights[block + "attn.Wqkv.weight"].T).view(len(ids), 3, heads, size).permute(1, 2, 0, 3)
        shares = (turned(qkv[0]) @ turned(qkv[1]).mT / size**0.5).softmax(-1)
        seen = (shares @ qkv[2]).transpose(0, 1).flatten(1)
        x = norm(x + seen @ weights[block + "attn.out_proj.weight"].T, block + "norm1")
        up, gate = (x @ weights[block + f"mlp.{name}.weight"].T for name in ("fc11", "fc12"))
        x = norm(x + (up * torch.nn.functional.silu(gate)) @ weights[block + "mlp.fc2.weight"].T, block + "norm2")
    return x


def test_a_published_checkpoint_gives_the_embeddings_of_its_architecture(tmp_path: Path) -> None:
    path = published(tmp_path)
    encoder = load_encoder(str(path))
    ids = [int(i) for i in encoder.tokenize(["some text or other"], "document")[0]]
    expected = by_hand(path, ids).mean(0)
    found = encoder.encode(["some text or other"])[0]
    np.testing.assert_allclose(found, expected / expected.norm(), atol=1e-5)
    assert pretrained.find("", str(path)).config["num_hidden_layers"] == 4
    assert not {*OLDER_KEYS} & {*encoder.model_config}


def test_their_own_code_is_known_and_not_run(tmp_path: Path) -> None:
    """There is none in the folder, and it does not run with transformers 5."""
    expected = load_encoder(str(published(tmp_path / "bare"))).encode(["some text"])
    code = {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"}
    path = published(tmp_path / "own", auto_map=code)
    with pytest.raises(InputError, match="pass --trust-remote-code .* to have it taken as transformers' nomic_bert"):
        load_encoder(str(path))
    encoder = load_encoder(str(path), trust_remote_code=True)
    np.testing.assert_array_equal(encoder.encode(["some text"]), expected)
    assert "auto_map" not in encoder.model_config


def test_the_published_config_is_that_of_the_named_backbone() -> None:
    row, older = BACKBONES["nomic-embed-text-v1.5"], {new: old for old, new in OLDER_KEYS.items()}
    config = {older.get(key, key): value for key, value in row.config.items()} | PUBLISHED
    published_sizes.check(row, FAMILIES["nomic_bert"].read_config(config))
    with pytest.raises(InputError, match="has num_hidden_layers 24, its row says 12"):
        published_sizes.check(row, FAMILIES["nomic_bert"].read_config({**config, "n_layer": 24}))


@pytest.mark.parametrize(
    ("key", "value"), [("num_experts", 8), ("prenorm", True), ("activation_function", "gelu"), ("qkv_proj_bias", True)]
)
def test_what_transformers_class_does_not_compute_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    path = published(tmp_path, **{key: value})
    with pytest.raises(InputError, match=f"config.json says {key} {value!r}; of nomic_bert only"):
        pretrained.find("", str(path))
