"""Families that the product has never heard of: their rows are in this file, and nothing else is touched.

As hard as families get. GLM 4: four norms a block, of which two come behind the sub-layers, both matrices into the MLP
in one, and half of each head turned. VaultGemma: scores that are capped, which torch's attention cannot do, and windows
in every other block. Both: heads of a size of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from effir_dist.core.config import replace
from effir_dist.core.settings import RunConfig, TrainConfig
from effir_dist.export.command import export
from effir_dist.export.model_folder import is_plain
from effir_dist.importance.ranking import calibrate
from effir_dist.models.encoder import Encoder, load_encoder, prune_encoder
from effir_dist.models.families import formulas
from effir_dist.models.families.base import Family, ModelDict, mlp_width, need
from effir_dist.models.families.registry import FAMILIES
from effir_dist.models.kernels import attention, packed
from effir_dist.models.pruning import PruningPlan, count_parameters
from effir_dist.search.strategy import space_file
from effir_dist.training import memory
from effir_dist.training.engine import start_distributed
from effir_dist.training.trainer import train
from tests import ROOT
from tests.exports import EQUAL, MIXED, cosines, texts, write_run
from tests.importance import test_importance
from tests.models import test_encoding, test_families, test_pruning
from tests.models.test_pruning import encoder_of
from tests.tiny import registered, tiny_checkpoint
from tests.training import test_memory
from tests.training.test_training import make_pairs, quiet

PLAN = PruningPlan(dropped_mlp=(1,), dropped_attention=(2,), widths=((0, 13),), ranking="magnitude")


def glm_attention(config: ModelDict) -> int:
    one_norm = formulas.decoder_attention(config, qkv_bias=True, o_bias=False, qk_norm=False)
    return one_norm + need(config, "hidden_size")


def glm_mlp(config: ModelDict, width: int) -> int:
    return formulas.gated_mlp(config, width) + need(config, "hidden_size")


def glm_saved_bytes(config: ModelDict, size: int, longest: int) -> int:
    """A decoder's; the norms behind its sub-layers keep what they read in float32, and what they scale; and as queries
    are put together of two halves, what attention gives is copied."""
    behind = 2 * ((size + 4) * need(config, "hidden_size") + 4)
    return formulas.decoder_saved_bytes(config, size, longest) + behind + size * formulas.query_width(config)


def glm_linear_layers(config: ModelDict) -> list[tuple[int, int]]:
    """q, k, v, o, gate and up in one, down."""
    *attention, gate, _, down = formulas.decoder_linear_layers(config)
    return [*attention, (gate[0], 2 * gate[1]), down]


GLM = Family(
    **formulas.decoder_parts()
    | {
        "norm_placement": "sandwich",
        "attention": ("self_attn", "input_layernorm", "post_self_attn_layernorm"),
        "mlp": ("mlp", "post_attention_layernorm", "post_mlp_layernorm"),
        "mlp_in": ("mlp.gate_up_proj",),
        "fused": 2,
        "query_prompt": "query: ",
    },
    model_type="glm4",
    class_name="Glm4",
    attention_parameters=glm_attention,
    mlp_parameters=glm_mlp,
    other_parameters=formulas.decoder_rest,
    first_attention_saves=formulas.none,
    query_width=formulas.query_width,
    saved_bytes=glm_saved_bytes,
    linear_layers=glm_linear_layers,
    attention_options={},
    decilm=None,
    space="llama",
    tiny={"num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0, "eos_token_id": 3},
)


def vault_attention(config: ModelDict) -> int:
    return formulas.decoder_attention(config, qkv_bias=False, o_bias=False, qk_norm=False)


def vault_saved_bytes(config: ModelDict, size: int, longest: int) -> int:
    """Eager attention keeps capped scores, probabilities in float32, and those rounded; two norms are in float32."""
    hidden, heads = need(config, "hidden_size"), need(config, "num_attention_heads")
    attention = formulas.query_width(config) + formulas.attended(config, longest) + 2 * heads * longest
    saved = 2 * hidden + attention + 4 * mlp_width(config)
    return size * saved + 4 * heads * longest + 4 * (4 * hidden + 2)


VAULT = Family(
    **formulas.decoder_parts() | {"mlp": ("mlp", "pre_feedforward_layernorm")},
    model_type="vaultgemma",
    class_name="VaultGemma",
    attention_parameters=vault_attention,
    mlp_parameters=formulas.gated_mlp,
    other_parameters=formulas.decoder_rest,
    first_attention_saves=formulas.none,
    query_width=formulas.query_width,
    saved_bytes=vault_saved_bytes,
    linear_layers=formulas.decoder_linear_layers,
    attention_options={"sliding_window": "sliding_window", "softcap": "attn_logit_softcapping"},
    decilm=None,
    space="llama",
    tiny={"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 16, "attn_logit_softcapping": 2.0},
)
ROWS = {row.model_type: row for row in (GLM, VAULT)}


def with_other_norms(folder: Path) -> Path:
    """The same model, whose norms are not all alike."""
    model = AutoModel.from_pretrained(folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A tiny model of each, while the families are registered."""
    folder = tmp_path_factory.mktemp("models")
    with registered(GLM), registered(VAULT):
        yield {name: with_other_norms(tiny_checkpoint(folder, name)) for name in ROWS}


def pruned(path: Path) -> Encoder:
    return prune_encoder(encoder_of(path), PLAN, np.random.default_rng(0).random((4, 48)))


@pytest.mark.parametrize(
    "check",
    [
        test_pruning.test_an_empty_plan_is_the_untouched_model_bit_for_bit,
        lambda *of: test_pruning.test_a_dropped_sub_layer_equals_one_whose_output_is_zeroed(of[0], False, of[1]),
        test_pruning.test_narrowed_equals_masked_neurons,
        test_pruning.test_the_formula_counts_the_real_model,
        test_importance.test_scores_equal_the_definition,
        test_families.test_the_surgery_computes_a_block_as_transformers_does,
        test_memory.test_adapters_are_counted,
    ],
)
@pytest.mark.parametrize("name", ROWS)
def test_it_passes_what_every_family_does(check: Any, name: str, paths: dict[str, Path]) -> None:
    check(name, paths)


@pytest.mark.parametrize("name", ROWS)
def test_it_saves_and_loads_as_every_family_does(name: str, paths: dict[str, Path], tmp_path: Path) -> None:
    test_pruning.test_saved_and_loaded_gives_equal_embeddings(name, paths, tmp_path)


@pytest.mark.parametrize("name", ROWS)
def test_its_work_and_its_memory_are_counted(name: str, paths: dict[str, Path]) -> None:
    for pruned_too in (False, True):
        test_encoding.test_flops_are_those_that_torch_counts(name, pruned_too, paths)
    test_memory.test_a_block_saves_what_the_formula_says(name)
    config = load_encoder(str(paths[name])).model_config
    assert memory.predict(config, replace(RunConfig(), {"train.batch_size": 8}), "bfloat16").peak > 0


def test_scores_see_both_norms(paths: dict[str, Path]) -> None:
    """A sub-layer whose second norm scales it to nothing does nothing, whatever it computes."""
    encoder = encoder_of(paths["glm4"])
    with torch.no_grad():
        encoder.backbone.layers[2].post_mlp_layernorm.weight.fill_(0.0)
    scores = calibrate(encoder, ["some text", "another one"]).importance
    assert scores.mlp[2] == pytest.approx(0, abs=1e-6)
    assert min(scores.mlp[index] for index in (0, 1, 3)) > 1e-3


def test_packed_it_is_the_padded_model(paths: dict[str, Path]) -> None:
    test_encoding.test_packed_texts_have_the_embeddings_of_padded_ones("glm4", True, paths)


def test_attentions_that_do_not_know_its_cap_leave_it_be(paths: dict[str, Path]) -> None:
    encoder = load_encoder(str(paths["vaultgemma"]), "bfloat16")
    assert encoder.backbone.config._attn_implementation == "eager"
    with attention.for_training(encoder.backbone):
        assert encoder.backbone.config._attn_implementation == "eager"
    assert not attention.replaceable(encoder.backbone)
    assert not packed.possible(encoder.backbone)


@pytest.mark.parametrize("name", ROWS)
def test_it_trains(name: str, paths: dict[str, Path]) -> None:
    start_distributed()
    encoder = pruned(paths[name])
    before = {key: weight.clone() for key, weight in encoder.state_dict().items()}
    config = TrainConfig(steps=6, batch_size=8, learning_rate=1e-3, dtype="float32")
    outcome = train(encoder, make_pairs(), config, quiet)
    assert np.isfinite(outcome.last_loss)
    still = [key for key, weight in encoder.named_parameters() if torch.equal(weight, before[key])]
    assert not still, "every weight has moved, those of all norms too"
    assert sum(p.numel() for p in encoder.parameters()) == count_parameters(encoder.model_config, PLAN)


def test_it_exports_and_loads_where_effir_dist_is_and_where_it_is_not(
    paths: dict[str, Path], collection: Path, tmp_path: Path
) -> None:
    pytest.importorskip("sentence_transformers")
    import effir_dist.auto

    runs = {name: write_run(tmp_path / f"run-{name}", path, collection) for name, path in paths.items()}
    keys = [(name, trial) for name in ROWS for trial in (MIXED, EQUAL)]
    trials = {(name, trial): load_encoder(str(runs[name].trial_folder(trial))) for name, trial in keys}
    folders = {}
    for (name, trial), encoder in trials.items():
        out = tmp_path / f"{name}-{trial}"
        export(runs[name], runs[name].result(trial), out)
        assert is_plain(encoder.model_config, encoder.plan) == (trial == EQUAL)
        np.testing.assert_array_equal(effir_dist.load(str(out)).encode(texts(20)), encoder.encode(texts(20)))
        settings = {"pooling": encoder.settings.pooling, "prompt": encoder.settings.document_prompt}
        folders[out.name] = {"path": str(out), "decoder": True, **settings}
    for name, row in ROWS.items():
        model = AutoModel.from_pretrained(tmp_path / f"{name}-{MIXED}")
        assert type(model).__name__ == f"Effir{row.class_name}Model"
    found = strangers(tmp_path, folders)
    for (name, trial), encoder in trials.items():
        expected = encoder.encode(texts(40))
        for how in ("document", "AutoModel", "AutoModelForCausalLM"):
            for side in ("right", "left"):
                assert cosines(found[f"{name}-{trial}/{how}/{side}"], expected).min() >= 0.9999, (
                    name,
                    trial,
                    how,
                    side,
                )


def strangers(folder: Path, folders: dict[str, Any]) -> dict[str, np.ndarray]:
    """What a process without effir_dist gets."""
    (folder / "given.json").write_text(json.dumps({"texts": texts(40), "folders": folders}))
    environment = {**os.environ, "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"}
    script, out = str(ROOT / "tests" / "outside.py"), folder / "found.npz"
    command = [sys.executable, "-I", script, str(folder / "given.json"), str(out)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(out) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.mark.parametrize("name", ROWS)
def test_its_search_space_is_the_one_that_it_names(name: str, paths: dict[str, Path]) -> None:
    assert space_file.default_file("", name).name == "llama.yaml"
    assert FAMILIES[name] is ROWS[name]
