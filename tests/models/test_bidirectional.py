"""Decoders whose tokens see both sides: what the config says holds in every attention that runs, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from effir_dist.core.errors import InputError
from effir_dist.export.model_folder import block_configs, write_folder
from effir_dist.models import pretrained
from effir_dist.models.encoder import Encoder, load_encoder, pad, prune_encoder
from effir_dist.models.families.registry import BACKBONES, FAMILIES, family
from effir_dist.models.flops import count_flops
from effir_dist.models.kernels.attention import for_training
from effir_dist.models.pruning import PruningPlan
from tests.models.test_encoding import cosines, packed_vectors
from tests.models.test_hub_models import with_code
from tests.sentence_folders import rewritten
from tests.tiny import REPLACEABLE, tiny_checkpoint, windowed

DECODERS = tuple(name for name, row in FAMILIES.items() if row.decoder)
WINDOW, LENGTH = 16, 40
TEXTS = ["some text", "another one that is longer than a window of sixteen", "x"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of each decoder, with windows where it may have some."""
    folder = tmp_path_factory.mktemp("models")
    return {name: tiny_checkpoint(folder, name, is_causal=False, **windowed(name)) for name in DECODERS}


def slow(folder: Path, ids: Tensor) -> Tensor:
    """[T, D] hidden states where every pair of tokens that a window of a block does not part is allowed by hand."""
    model = AutoModel.from_pretrained(folder, is_causal=True, attn_implementation="eager").eval()
    place = torch.arange(ids.shape[1])
    far = (place[:, None] - place[None, :]).abs() > WINDOW
    kinds = getattr(model.config, "layer_types", None) or ["sliding_attention"] * 4
    for block, kind in zip(model.layers, kinds, strict=True):
        sees = kind == "sliding_attention" and getattr(model.config, "sliding_window", None)
        mask = torch.where(far if sees else torch.zeros_like(far), torch.finfo(torch.float32).min, 0.0)[None, None]
        block.register_forward_pre_hook(
            lambda _m, args, o, mask=mask: (args, {**o, "attention_mask": mask}), with_kwargs=True
        )
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).last_hidden_state[0]


@pytest.mark.parametrize("name", DECODERS)
def test_hidden_states_are_those_of_a_mask_made_by_hand(name: str, folders: dict[str, Path]) -> None:
    encoder, ids = load_encoder(str(folders[name])), torch.arange(5, 5 + LENGTH)[None]
    with torch.no_grad():
        found = encoder.backbone(input_ids=ids, use_cache=False).last_hidden_state[0]
    torch.testing.assert_close(found, slow(folders[name], ids), atol=1e-5, rtol=1e-4)
    other = ids.clone()
    other[0, 12] = 250
    with torch.no_grad():
        changed = encoder.backbone(input_ids=other, use_cache=False).last_hidden_state[0]
    assert (changed[0] - found[0]).norm() > 1e-3, "the first token sees a later one"


@pytest.mark.parametrize("name", DECODERS)
def test_padded_packed_and_trained_it_is_the_same_model(name: str, folders: dict[str, Path]) -> None:
    encoder = load_encoder(str(folders[name]))
    expected = encoder.encode(TEXTS, batch_tokens=1)
    assert cosines(encoder.encode(TEXTS, batch_tokens=10_000), expected).min() >= 0.99999
    if name in REPLACEABLE:
        assert cosines(packed_vectors(encoder, TEXTS), expected).min() >= 0.99999
    half = load_encoder(str(folders[name]), "bfloat16")
    tokens = half.tokenize(TEXTS, "document")
    with torch.no_grad(), for_training(half.backbone):
        trained = half(*pad(tokens, np.arange(3), half.pad_id, half.device)).float().numpy()
    assert cosines(trained, expected).min() >= 0.999


@pytest.mark.parametrize("name", DECODERS)
def test_all_pairs_of_tokens_are_counted(name: str, folders: dict[str, Path]) -> None:
    config = load_encoder(str(folders[name])).model_config
    row, lengths = family(config), np.array([7, 30])
    more = count_flops(config, lengths) - count_flops({**config, "is_causal": True}, lengths)
    assert more == 4 * 4 * row.query_width(config) * sum(n * (n - 1) / 2 for n in (7, 30))


def reopened(folder: Path, tmp_path: Path) -> Encoder:
    """The unpruned model as a folder of transformers' own, saved and read."""
    encoder = load_encoder(str(folder))
    write_folder(encoder, tmp_path, "float32", {})
    for name in ("plan.json", "modules.json"):
        (tmp_path / name).unlink()
    return load_encoder(str(tmp_path))


@pytest.mark.parametrize("name", ["llama", "bidirectional-gemma3"])
def test_an_exported_config_says_it_too(name: str, tmp_path: Path) -> None:
    own = {"is_causal": False} if name in DECODERS else {}
    folder = tiny_checkpoint(tmp_path, name, **own, **windowed(name))
    (tmp_path / "out").mkdir()
    again = reopened(folder, tmp_path / "out")
    before, after = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "out"))
    for key in ("is_causal", "use_bidirectional_attention", "sliding_window"):
        assert after.get(key) == before.get(key)
    first = load_encoder(str(folder))
    np.testing.assert_array_equal(
        again.backbone(input_ids=torch.arange(5, 45)[None]).last_hidden_state.detach(),
        first.backbone(input_ids=torch.arange(5, 45)[None]).last_hidden_state.detach(),
    )


def test_a_version_of_transformers_that_writes_down_the_half_of_a_window_halves_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Gemma3TextConfig, PreTrainedConfig

    folder = tiny_checkpoint(tmp_path, "bidirectional-gemma3")
    expected = load_encoder(str(folder))
    pretrained._load_cached.cache_clear()
    monkeypatch.setattr(Gemma3TextConfig, "to_dict", PreTrainedConfig.to_dict)
    encoder = load_encoder(str(folder))
    assert encoder.model_config["sliding_window"] == WINDOW
    prune_encoder(encoder, PruningPlan(), None).save(tmp_path / "trial")
    saved = load_encoder(str(tmp_path / "trial"))
    assert saved.backbone.config.sliding_window == expected.backbone.config.sliding_window == WINDOW // 2 + 1
    np.testing.assert_array_equal(saved.encode(TEXTS), expected.encode(TEXTS))


@pytest.mark.parametrize("name", DECODERS)
def test_vllms_code_is_causal_so_none_of_them_is_described_for_it(name: str, folders: dict[str, Path]) -> None:
    config = load_encoder(str(folders[name])).model_config
    assert block_configs(config, PruningPlan(dropped_mlp=(1,))) == {}


HINTS: list[tuple[dict[str, Any], str]] = [
    ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ({"bidirectional": True}, "bidirectional"),
    ({"architectures": ["LlamaEncoderModel"]}, "LlamaEncoderModel"),
    ({"architectures": ["LlamaBidirectionalModel"]}, "LlamaBidirectionalModel"),
    ({"architectures": ["MistralBiForMNTP"]}, "MistralBiForMNTP"),
]


@pytest.mark.parametrize(("changes", "named"), HINTS)
def test_what_transformers_does_not_read_is_refused_and_the_key_that_it_reads_is_named(
    changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    folder = tiny_checkpoint(tmp_path, "llama")
    tree = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps(tree))
    with pytest.raises(InputError, match=rf'{named}.*transformers\' llama would be causal; write "is_causal": false'):
        pretrained.find("", str(folder))
    for causal in (True, False):
        assert family(tree).causal({**tree, "is_causal": causal}) is causal


BOTH_SIDES = """
from transformers import LlamaModel

class OwnModel(LlamaModel):
    def forward(self, *args, **options):
        return super().forward(*args, **options, is_causal=False)
"""


def test_code_of_its_own_that_sees_both_sides_is_held_against_what_the_config_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As gte-Qwen2 comes, whose config says nothing."""
    from transformers.utils import hub

    monkeypatch.setattr(hub, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    bare = tiny_checkpoint(tmp_path, "llama")
    folder = with_code(bare, tmp_path / "own", BOTH_SIDES)
    with pytest.raises(InputError, match='computes something else than .* write "is_causal": false to its config.json'):
        load_encoder(str(folder), trust_remote_code=True)
    for path in (bare, folder):
        rewritten(path, "config.json", is_causal=False)
    found = load_encoder(str(folder), trust_remote_code=True)
    assert not family(found.model_config).causal(found.model_config)
    np.testing.assert_array_equal(found.encode(TEXTS), load_encoder(str(bare)).encode(TEXTS))


def test_of_the_named_backbones_one_is_bidirectional() -> None:
    both = [
        name
        for name, row in BACKBONES.items()
        if family(row.config).decoder and not family(row.config).causal(row.config)
    ]
    assert both == ["embeddinggemma-300m"]
    assert FAMILIES["llama"].causal({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "is_decoder": True})
