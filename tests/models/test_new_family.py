"""A family that the product has never heard of: its row is in this file, and nothing else is touched.

Gemma 2, as hard as families get: four norms a block, of which two come behind the sub-layers; scores that are capped,
which torch's attention cannot do; windows in every other block; heads of a size of their own.
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
from effir_dist.models import attention, packed
from effir_dist.models.encoder import Encoder, load_encoder, prune_encoder
from effir_dist.models.families import formulas
from effir_dist.models.families.base import Family, ModelDict, mlp_width, need
from effir_dist.models.families.registry import FAMILIES
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

NAME = "gemma2"
PLAN = PruningPlan(dropped_mlp=(1,), dropped_attention=(2,), widths=((0, 13),), ranking="magnitude")


def attention_parameters(config: ModelDict) -> int:
    one_norm = formulas.decoder_attention(config, qkv_bias=False, o_bias=False, qk_norm=False)
    return one_norm + need(config, "hidden_size")


def mlp_parameters(config: ModelDict, width: int) -> int:
    return formulas.gated_mlp(config, width) + need(config, "hidden_size")


def saved_bytes(config: ModelDict, size: int, longest: int) -> int:
    """Eager attention keeps capped scores, probabilities in float32, and those rounded; four norms are in float32."""
    hidden, heads = need(config, "hidden_size"), need(config, "num_attention_heads")
    attention = formulas.query_width(config) + formulas.attended(config, longest) + 2 * heads * longest
    saved = 2 * hidden + attention + 4 * mlp_width(config)
    return size * saved + 4 * heads * longest + 4 * (8 * hidden + 4)


GEMMA = Family(
    model_type=NAME,
    class_name="Gemma2",
    blocks="layers",
    block_gives_tuple=False,
    norm_placement="sandwich",
    attention=("self_attn", "input_layernorm", "post_attention_layernorm"),
    mlp=("mlp", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    mlp_in=("mlp.gate_proj", "mlp.up_proj"),
    mlp_out="mlp.down_proj",
    fused=1,
    decoder=True,
    causal=formulas.decoder_causal,
    append_eos=True,
    pooling="last",
    query_prompt="query: ",
    document_prompt="",
    max_length=512,
    first_position=formulas.none,
    attention_parameters=attention_parameters,
    mlp_parameters=mlp_parameters,
    other_parameters=formulas.decoder_rest,
    first_attention_saves=formulas.none,
    query_width=formulas.query_width,
    saved_bytes=saved_bytes,
    linear_layers=formulas.decoder_linear_layers,
    checkpoint_prefix="model.",
    load_options={},
    attention_options={"sliding_window": "sliding_window", "softcap": "attn_logit_softcapping"},
    decilm=None,
    space="llama",
    tiny={"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 16, "attn_logit_softcapping": 2.0},
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny model of it, whose norms are not all alike, while the family is registered."""
    with registered(GEMMA):
        folder = tiny_checkpoint(tmp_path_factory.mktemp("models"), NAME)
        model = AutoModel.from_pretrained(folder)
        torch.manual_seed(1)
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.1 * torch.randn_like(weight)
        model.save_pretrained(folder)
        yield folder


def pruned(path: Path) -> Encoder:
    return prune_encoder(encoder_of(path), PLAN, np.random.default_rng(0).random((4, 48)))


@pytest.mark.parametrize(
    "check",
    [
        test_pruning.test_an_empty_plan_is_the_untouched_model_bit_for_bit,
        test_pruning.test_a_dropped_sub_layer_equals_one_whose_output_is_zeroed,
        test_pruning.test_narrowed_equals_masked_neurons,
        test_pruning.test_the_formula_counts_the_real_model,
        test_importance.test_scores_equal_the_definition,
        test_families.test_the_surgery_computes_a_block_as_transformers_does,
        test_memory.test_adapters_are_counted,
    ],
)
def test_it_passes_what_every_family_does(check: Any, path: Path) -> None:
    check(NAME, {NAME: path})


def test_it_saves_and_loads_as_every_family_does(path: Path, tmp_path: Path) -> None:
    test_pruning.test_saved_and_loaded_gives_equal_embeddings(NAME, {NAME: path}, tmp_path)


def test_its_work_and_its_memory_are_counted(path: Path) -> None:
    for pruned_too in (False, True):
        test_encoding.test_flops_are_those_that_torch_counts(NAME, pruned_too, {NAME: path})
    test_memory.test_a_block_saves_what_the_formula_says(NAME)
    config = load_encoder(str(path)).model_config
    assert memory.predict(config, replace(RunConfig(), {"train.batch_size": 8}), "bfloat16").peak > 0


def test_scores_see_both_norms(path: Path) -> None:
    """A sub-layer whose second norm scales it to nothing does nothing, whatever it computes."""
    encoder = encoder_of(path)
    with torch.no_grad():
        encoder.backbone.layers[2].post_feedforward_layernorm.weight.fill_(-1.0)  # the norm multiplies by 1 + weight
    scores = calibrate(encoder, ["some text", "another one"]).importance
    assert scores.mlp[2] == pytest.approx(0, abs=1e-6)
    assert min(scores.mlp[index] for index in (0, 1, 3)) > 1e-3


def test_attentions_that_do_not_know_its_cap_leave_it_be(path: Path) -> None:
    encoder = load_encoder(str(path), "bfloat16")
    assert encoder.backbone.config._attn_implementation == "eager"
    with attention.for_training(encoder.backbone):
        assert encoder.backbone.config._attn_implementation == "eager"
    assert not attention.replaceable(encoder.backbone)
    assert not packed.possible(encoder.backbone)


def test_it_trains(path: Path) -> None:
    start_distributed()
    encoder = pruned(path)
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    config = TrainConfig(steps=6, batch_size=8, learning_rate=1e-3, dtype="float32")
    outcome = train(encoder, make_pairs(), config, quiet)
    assert np.isfinite(outcome.last_loss)
    still = [name for name, weight in encoder.named_parameters() if torch.equal(weight, before[name])]
    assert not still, "every weight has moved, those of all four norms too"
    assert sum(p.numel() for p in encoder.parameters()) == count_parameters(encoder.model_config, PLAN)


def test_it_exports_and_loads_where_effir_dist_is_and_where_it_is_not(
    path: Path, collection: Path, tmp_path: Path
) -> None:
    pytest.importorskip("sentence_transformers")
    import effir_dist.auto

    run, folders = write_run(tmp_path / "run", path, collection), {}
    trials = {trial: load_encoder(str(run.trial_folder(trial))) for trial in (MIXED, EQUAL)}
    for trial, encoder in trials.items():
        out = tmp_path / trial
        export(run, run.result(trial), out)
        assert is_plain(encoder.model_config, encoder.plan) == (trial == EQUAL)
        np.testing.assert_array_equal(effir_dist.load(str(out)).encode(texts(20)), encoder.encode(texts(20)))
        settings = {"pooling": encoder.settings.pooling, "prompt": encoder.settings.document_prompt}
        folders[trial] = {"path": str(out), "decoder": True, **settings}
    model = AutoModel.from_pretrained(tmp_path / MIXED)
    assert type(model).__name__ == "EffirGemma2Model"
    found = strangers(tmp_path, folders)
    for trial, encoder in trials.items():
        expected = encoder.encode(texts(40))
        for how in ("document", "AutoModel", "AutoModelForCausalLM"):
            for side in ("right", "left"):
                assert cosines(found[f"{trial}/{how}/{side}"], expected).min() >= 0.9999, (trial, how, side)


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


def test_its_search_space_is_the_one_that_it_names(path: Path) -> None:
    assert space_file.default_file("", NAME).name == "llama.yaml"
    assert FAMILIES[NAME] is GEMMA
