"""`block_configs` against what vLLM's DeciLM code reads of it (vllm/model_executor/models/nemotron_nas.py, 2026-11).

vLLM is no dependency; `python -m benchmarks.vllm_exports` runs it. `deci` below does what that code does with a config
and a checkpoint, in plain torch: which attributes it reads, which weights it asks for and in which shape, in which
order it adds and normalises. What it cannot show: vLLM's own kernels, its scheduler, and whether a release changes
that code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from effir_dist.export.model_folder import block_configs, write_folder
from effir_dist.models.encoder import Encoder, load_encoder, prune_encoder
from effir_dist.models.families.registry import FAMILIES
from effir_dist.models.pruning import PruningPlan

DECILM = tuple(name for name, row in FAMILIES.items() if row.decilm is not None)
PLANS = {
    "mlps": PruningPlan(dropped_mlp=(0, 2), widths=((1, 20), (3, 31)), ranking="magnitude"),
    "both": PruningPlan(dropped_mlp=(1,), dropped_attention=(1, 3), widths=((2, 7),), ranking="magnitude"),
    "first block": PruningPlan(dropped_mlp=(0,), dropped_attention=(0,)),
}


class Weights(dict[str, torch.Tensor]):
    """Tensors of a checkpoint; remembers which were asked for."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__(tensors)
        self.used: set[str] = set()

    def linear(self, x: torch.Tensor, name: str, size: int, bias: bool) -> torch.Tensor:
        names = [f"{name}.weight", *([f"{name}.bias"] if bias else [])]
        self.used.update(names)
        weight = self[names[0]]
        assert tuple(weight.shape) == (size, x.shape[-1]), name
        return functional.linear(x, weight, self[names[1]] if bias else None)

    def norm(self, x: torch.Tensor, residual: torch.Tensor, name: str, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(normalised sum, sum)."""
        self.used.add(f"{name}.weight")
        total = x + residual
        return functional.rms_norm(total, total.shape[-1:], self[f"{name}.weight"], eps), total


def rotate(x: torch.Tensor, theta: float) -> torch.Tensor:
    """[H, T, d] with rotary positions, halves of the head as pairs."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] / theta ** (torch.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    turned = (first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin())
    return torch.cat(turned, dim=-1)


def attend(config: Any, block: Any, weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    heads, width = config.num_attention_heads, config.hidden_size
    size = getattr(config, "head_dim", None) or width // heads
    kv_heads = heads // block.attention.n_heads_in_group
    bias = out_bias = getattr(config, "attention_bias", False) or getattr(config, "bias", False)
    if hasattr(config, "qkv_bias"):
        bias = config.qkv_bias
    theta = config.rope_parameters["rope_theta"]
    q, k, v = (
        weights.linear(x, f"{name}.{part}_proj", count * size, bias).unflatten(-1, (count, size)).transpose(0, 1)
        for part, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
    )
    mixed = functional.scaled_dot_product_attention(
        rotate(q, theta), rotate(k, theta), v, is_causal=True, enable_gqa=True
    )
    return weights.linear(mixed.transpose(0, 1).flatten(1), f"{name}.o_proj", width, out_bias)


def deci(config: Any, weights: Weights, ids: torch.Tensor) -> torch.Tensor:
    """[T] ids -> [T, D] hidden states after the last norm."""
    weights.used.add("embed_tokens.weight")
    hidden, residual = weights["embed_tokens.weight"][ids], None
    for number in range(config.num_hidden_layers):
        block, name = config.block_configs[number], f"layers.{number}"
        if not block.attention.no_op:
            start = torch.zeros_like(hidden) if residual is None else residual
            hidden, residual = weights.norm(hidden, start, f"{name}.input_layernorm", config.rms_norm_eps)
            hidden = attend(config, block, weights, f"{name}.self_attn", hidden)
        if not block.ffn.no_op:
            assert not hasattr(block.ffn, "ffn_mult"), "it would take the place of intermediate_size"
            width, bias = block.ffn.intermediate_size, getattr(config, "mlp_bias", False)
            assert residual is not None, "the first block's attention sets it"
            hidden, residual = weights.norm(hidden, residual, f"{name}.post_attention_layernorm", config.rms_norm_eps)
            gate, up = (weights.linear(hidden, f"{name}.mlp.{p}_proj", width, bias) for p in ("gate", "up"))
            hidden = weights.linear(functional.silu(gate) * up, f"{name}.mlp.down_proj", config.hidden_size, bias)
    start = torch.zeros_like(hidden) if residual is None else residual
    return weights.norm(hidden, start, "norm", config.rms_norm_eps)[0]


def pruned(checkpoint: Path, plan: PruningPlan) -> Encoder:
    import numpy as np

    return prune_encoder(load_encoder(str(checkpoint)), plan, np.random.default_rng(0).random((4, 48)))


@pytest.mark.parametrize("family", DECILM)
@pytest.mark.parametrize("plan", PLANS)
def test_what_decilm_reads_is_the_pruned_model(
    family: str, plan: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoConfig

    import effir_dist.auto  # noqa: F401

    encoder = pruned(checkpoints[family], PLANS[plan])
    write_folder(encoder, tmp_path, "float32", {})
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.architectures == ["DeciLMForCausalLM"]
    assert config.hidden_act == "silu"
    assert config.tie_word_embeddings, "no LM head is asked for"
    weights = Weights(load_file(tmp_path / "model.safetensors"))
    ids = torch.tensor([5, 9, 17, 33, 120, 7, 3])
    with torch.no_grad():
        expected = encoder.backbone(input_ids=ids[None], use_cache=False).last_hidden_state[0]
        found = deci(config, weights, ids)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert weights.used == set(weights), "each weight is read, and each that is asked for is there"


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(DECILM)))
def test_families_that_decilm_is_not_have_no_block_configs(family: str, checkpoints: dict[str, Path]) -> None:
    assert block_configs(load_encoder(str(checkpoints[family])).model_config, PLANS["mlps"]) == {}


def test_a_first_block_with_an_mlp_alone_has_none_either(checkpoints: dict[str, Path]) -> None:
    config = load_encoder(str(checkpoints["llama"])).model_config
    assert block_configs(config, PruningPlan(dropped_attention=(0,))) == {}
