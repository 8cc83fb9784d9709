"""A pruned model that computes by liger-kernel's functions, or trains by our own, is the same model then.

Functions of the same signatures, in plain torch, stand in for the kernels, which need a GPU.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from effir_dist.models.encoder import Encoder, load_encoder, pad
from effir_dist.models.kernels import fused_blocks
from effir_dist.models.kernels.fused_blocks import Kernels, fused
from effir_dist.models.kernels.trained_blocks import trained_blocks
from tests import tiny
from tests.tiny import FAMILY_NAMES, tiny_checkpoint

TEXTS = ["some text", "another one that is longer", "x"]


def kernels(calls: Counter[str]) -> Kernels:
    """In plain torch; they count their calls."""

    def norm(states: Tensor, weight: Tensor, epsilon: float, offset: float, mode: str, in_place: bool) -> Tensor:
        calls["norm"] += 1
        assert mode in ("llama", "gemma")
        assert not in_place
        exact = states.float() * torch.rsqrt(states.float().pow(2).mean(-1, keepdim=True) + epsilon)
        if mode == "llama":
            return (offset + weight) * exact.to(states.dtype)
        return (exact * (offset + weight.float())).to(states.dtype)

    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        calls["rotate"] += 1
        found: tuple[Tensor, Tensor] = apply_rotary_pos_emb(q, k, cos, sin)
        return found

    def silu_times(gate: Tensor, up: Tensor) -> Tensor:
        calls["silu_times"] += 1
        return nn.functional.silu(gate) * up

    return Kernels(norm, rotate, silu_times)


def pruned(path: Path) -> Encoder:
    return tiny.pruned(load_encoder(str(path)))


def results(encoder: Encoder) -> tuple[Tensor, list[Tensor]]:
    """Embeddings, and the gradients of the weights."""
    tokens = encoder.tokenize(TEXTS, "document")
    encoder.zero_grad()
    vectors = encoder(*pad(tokens, np.arange(len(TEXTS)), encoder.pad_id, encoder.device))
    (vectors @ vectors.T).logsumexp(1).sum().backward()
    return vectors.detach(), [w.grad for w in encoder.parameters() if w.grad is not None]


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_pruned_model_computes_the_same_by_fused_functions(name: str, tmp_path: Path) -> None:
    encoder, calls = pruned(tiny_checkpoint(tmp_path, name)), Counter[str]()
    vectors, gradients = results(encoder)
    with fused(encoder.backbone, kernels(calls)):
        found, its = results(encoder)
    torch.testing.assert_close(found, vectors, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(its, gradients, rtol=1e-4, atol=1e-6)
    names = [type(module).__name__ for module in encoder.backbone.modules()]
    assert calls["norm"] == sum(each.endswith("RMSNorm") for each in names)
    assert not any("forward" in vars(module) for module in encoder.backbone.modules())


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_pruned_model_trains_the_same_by_steps_of_our_own(name: str, tmp_path: Path) -> None:
    encoder = pruned(tiny_checkpoint(tmp_path, name))
    for norm in (m for m in encoder.backbone.modules() if type(m).__name__.endswith("RMSNorm")):
        nn.init.normal_(norm.weight)
    vectors, gradients = results(encoder)
    with trained_blocks(encoder.backbone):
        found, its = results(encoder)
    torch.testing.assert_close(found, vectors, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(its, gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3"])
def test_in_bfloat16_gradients_are_no_further_from_exact_ones(name: str, tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path, name)
    exact = torch.cat([each.flatten() for each in results(load_encoder(str(path)))[1]])
    encoder = load_encoder(str(path), "bfloat16")
    plain = torch.cat([each.float().flatten() for each in results(encoder)[1]])
    with trained_blocks(encoder.backbone):
        found = torch.cat([each.float().flatten() for each in results(encoder)[1]])
    assert (found - exact).norm() <= 1.5 * (plain - exact).norm()


@pytest.mark.parametrize(
    ("name", "norms", "mlps", "turned"), [("llama", 7, 3, 3), ("qwen3", 13, 3, 3), ("bert", 0, 0, 0)]
)
def test_a_dropped_sub_layer_has_nothing_to_fuse(name: str, norms: int, mlps: int, turned: int, tmp_path: Path) -> None:
    """Of four blocks one lacks its MLP, one its attention, each with its norm; Qwen3 has two more norms in an
    attention."""
    encoder, calls = pruned(tiny_checkpoint(tmp_path, name)), Counter[str]()
    with fused(encoder.backbone, kernels(calls)), torch.inference_mode():
        encoder.encode(TEXTS)
    assert (calls["norm"], calls["silu_times"], calls["rotate"]) == (norms, mlps, turned)


def test_a_cpu_and_a_machine_without_the_package_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone: Any = load_encoder(str(tiny_checkpoint(tmp_path, "llama"))).backbone
    with fused_blocks.fused_blocks(backbone):
        assert not any("forward" in vars(module) for module in backbone.modules())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert fused_blocks.installed() is None


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_liger_kernel_computes_the_same_on_a_gpu(name: str, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    if fused_blocks.installed() is None:
        pytest.skip("needs liger-kernel: pip install liger-kernel")
    encoder = pruned(tiny_checkpoint(tmp_path, name)).to("cuda")
    vectors, gradients = results(encoder)
    with fused_blocks.fused_blocks(encoder.backbone):
        found, its = results(encoder)
    assert nn.functional.cosine_similarity(found, vectors).min() >= 0.99999
    torch.testing.assert_close(its, gradients, rtol=1e-2, atol=1e-4)
