"""Blocks of all norm placements, of transformers' own models, without a sub-layer: equal to masked ones."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from effir_dist.models.modeling_effir import drop, narrow
from tests.models.reference import silence

SIZES = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
GATED = {"mlp_in": ("mlp.gate_proj", "mlp.up_proj"), "mlp_out": "mlp.down_proj", "fused": 1, "blocks": "layers"}


def layout(norm_placement: str, attention: tuple[str, ...], mlp: tuple[str, ...], **more: Any) -> SimpleNamespace:
    return SimpleNamespace(**{**GATED, **more}, norm_placement=norm_placement, attention=attention, mlp=mlp)


NORMS = ("post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
CASES = {
    "llama": layout("pre", ("self_attn", "input_layernorm"), ("mlp", NORMS[0])),
    "gemma2": layout("sandwich", ("self_attn", "input_layernorm", NORMS[0]), ("mlp", *NORMS[1:])),
    "olmo2": layout("res_post", ("self_attn", NORMS[0]), ("mlp", NORMS[2])),
    "granite": layout("scaled_pre", ("self_attn", "input_layernorm"), ("mlp", NORMS[0])),
    "nomic_bert": layout(
        "post",
        ("self_attn", NORMS[0]),
        ("mlp", "post_mlp_layernorm"),
        norms_behind=(NORMS[0], "post_mlp_layernorm"),
    ),
    "cohere": layout("parallel", ("self_attn", "input_layernorm"), ("mlp", "input_layernorm")),
    "gpt_neox": layout(
        "parallel",
        ("attention", "input_layernorm"),
        ("mlp", NORMS[0]),
        mlp_in=("mlp.dense_h_to_4h",),
        mlp_out="mlp.dense_4h_to_h",
    ),
    "bert": layout(
        "post",
        ("attention",),
        ("intermediate", "output"),
        norms_behind=("attention.output.LayerNorm", "output.LayerNorm"),
        mlp_in=("intermediate.dense",),
        mlp_out="output.dense",
        blocks="encoder.layer",
    ),
    "distilbert": layout(
        "post",
        ("attention", "sa_layer_norm"),
        ("ffn", "output_layer_norm"),
        norms_behind=("sa_layer_norm", "output_layer_norm"),
        mlp_in=("ffn.lin1",),
        mlp_out="ffn.lin2",
        blocks="transformer.layer",
    ),
}
BEHIND = tuple(name for name in CASES if hasattr(CASES[name], "norms_behind"))


def model_of(name: str) -> nn.Module:
    """Three blocks, whose norms are not all ones."""
    own = {"n_layers": 3, "n_heads": 4, "dim": 32, "hidden_dim": 48} if name == "distilbert" else {}
    heads = {"gemma2": {"head_dim": 8}, "granite": {"residual_multiplier": 0.3}}.get(name, {})
    given = {"vocab_size": 60, **own} if own else {**SIZES, "num_hidden_layers": 3, **heads, "pad_token_id": 0}
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(name, **given)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model


def output(model: nn.Module) -> Tensor:
    ids = torch.arange(1, 25).view(2, 12)
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]


def dropped(name: str, cases: list[tuple[bool, bool]], keep_norms: bool = False) -> nn.Module:
    """Without (attention, MLP) of each block."""
    model = model_of(name)
    for block, (attention, mlp) in zip(model.get_submodule(CASES[name].blocks), cases, strict=True):
        if attention or mlp:
            drop(block, CASES[name], attention, mlp, keep_norms)
    return model


@pytest.mark.parametrize(("name", "keep_norms"), [*((name, False) for name in CASES), *((n, True) for n in BEHIND)])
@pytest.mark.parametrize("cases", [[(True, False), (False, True), (True, True)], [(False, True), (True, False)] * 2])
def test_a_dropped_sub_layer_equals_one_whose_output_is_masked(
    name: str, keep_norms: bool, cases: list[tuple[bool, bool]]
) -> None:
    """A block without both gives what it is given, whatever is said of norms."""
    cases, masked = cases[:3], model_of(name)
    for block, gone in zip(masked.get_submodule(CASES[name].blocks), cases, strict=True):
        for kind, missing in zip(("attention", "mlp"), gone, strict=True):
            if missing:
                silence(block, CASES[name], kind, keep_norms and not all(gone))
    found = output(dropped(name, cases, keep_norms))
    torch.testing.assert_close(found, output(masked), rtol=0, atol=1e-5)
    assert (found - output(model_of(name))).abs().max() > 0.01


@pytest.mark.parametrize("name", CASES)
def test_nothing_of_a_dropped_sub_layer_is_left_and_all_of_the_other(name: str) -> None:
    row = CASES[name]
    for attention, mlp in [(True, False), (False, True), (True, True), (False, False)]:
        block = dropped(name, [(attention, mlp)] * 3).get_submodule(row.blocks)[0]
        left = {path.partition(".")[0] for path, _ in block.named_parameters()}
        assert left == {*(() if attention else row.attention), *(() if mlp else row.mlp)}


@pytest.mark.parametrize("name", BEHIND)
def test_of_a_dropped_sub_layer_nothing_but_its_norm_is_left(name: str) -> None:
    row, whole = CASES[name], model_of(name).get_submodule(CASES[name].blocks)[0]
    names = {path for path, _ in whole.named_parameters()}
    for index, gone in enumerate([(True, False), (False, True)]):
        block = dropped(name, [gone] * 3, keep_norms=True).get_submodule(row.blocks)[0]
        theirs = {path for path in names if path.partition(".")[0] in (row.attention, row.mlp)[index]}
        norm = {f"{row.norms_behind[index]}.{part}" for part in ("weight", "bias")}
        assert norm < theirs
        assert {path for path, _ in block.named_parameters()} == names - theirs | norm


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("keep_norms", [False, True])
def test_one_after_the_other_is_both_at_once(name: str, keep_norms: bool) -> None:
    row, model, keep_norms = CASES[name], model_of(name), keep_norms and name in BEHIND
    together = dropped(name, [(True, True), (False, False), (True, False)], keep_norms)
    blocks = model.get_submodule(row.blocks)
    for index, attention, mlp in [(0, False, True), (0, True, False), (1, False, False), (2, True, False)]:
        drop(blocks[index], row, attention, mlp, keep_norms)
    torch.testing.assert_close(output(model), output(together), rtol=0, atol=1e-5)
    assert model.state_dict().keys() == together.state_dict().keys()


@pytest.mark.parametrize("name", CASES)
def test_a_narrow_mlp_equals_masked_neurons(name: str) -> None:
    row, narrowed, masked = CASES[name], model_of(name), model_of(name)
    kept = torch.tensor([0, 3, 4, 11, 30, 47])
    narrow(narrowed.get_submodule(row.blocks)[1], row, kept)
    gate = torch.zeros(48).index_fill(0, kept, 1.0)
    out = masked.get_submodule(row.blocks)[1].get_submodule(row.mlp_out)
    out.register_forward_pre_hook(lambda _m, args: (args[0] * gate,))
    torch.testing.assert_close(output(narrowed), output(masked), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "pre_norm"), [("llama", True), ("bert", False)])
def test_a_layout_of_the_first_version_says_whether_norms_come_first(name: str, pre_norm: bool) -> None:
    old = copy.copy(CASES[name])
    del old.norm_placement
    old.pre_norm = pre_norm
    model = model_of(name)
    drop(model.get_submodule(old.blocks)[1], old, attention=True, mlp=False)
    expected = dropped(name, [(False, False), (True, False), (False, False)])
    assert torch.equal(output(model), output(expected))
