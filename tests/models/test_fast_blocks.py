"""Which modules of a model are computed in another way, and that nothing of it is left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from effir_dist.models.encoder import load_encoder
from effir_dist.models.kernels import tiled
from effir_dist.models.kernels.fast_blocks import fast_blocks
from effir_dist.models.kernels.processor import Processor
from tests.tiny import MODEL_NAMES, tiny_checkpoint

REPLACED = ("RMSNorm", "MPNetSelfAttention")


def replaced(backbone: nn.Module) -> set[str]:
    return {name for name, module in backbone.named_modules() if "forward" in vars(module)}


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_all_norms_by_mean_square_are_replaced_and_given_back(name: str, tmp_path: Path) -> None:
    backbone = load_encoder(str(tiny_checkpoint(tmp_path, name))).backbone
    expected = {name for name, module in backbone.named_modules() if type(module).__name__.endswith(REPLACED)}
    with fast_blocks(backbone):
        assert replaced(backbone) == expected
        with fast_blocks(backbone):
            assert replaced(backbone) == expected
        assert replaced(backbone) == expected
    assert not replaced(backbone)


@pytest.mark.parametrize("name", ["llama", "olmo2", "gemma2"])
def test_a_norm_in_bfloat16_is_what_transformers_computes(name: str, tmp_path: Path) -> None:
    """But for the order in which squares are summed: one number in a thousand may be rounded the other way."""
    backbone = load_encoder(str(tiny_checkpoint(tmp_path, name)), "bfloat16").backbone
    norm, states = backbone.norm, torch.randn(50, 32, generator=torch.manual_seed(0)).bfloat16() * 3
    nn.init.normal_(norm.weight)
    with torch.inference_mode():
        expected = norm(states)
        with fast_blocks(backbone):
            found = norm(states)
    torch.testing.assert_close(found, expected, rtol=0.008, atol=0)
    assert (found != expected).float().mean() < 0.01


def test_a_norm_that_computes_something_else_is_left_alone(tmp_path: Path) -> None:
    backbone = load_encoder(str(tiny_checkpoint(tmp_path, "llama"))).backbone

    class LlamaRMSNorm(type(backbone.norm)):  # type: ignore[misc]
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(states)

    backbone.norm.__class__ = LlamaRMSNorm
    with fast_blocks(backbone):
        assert "norm" not in replaced(backbone)
        assert "layers.0.input_layernorm" in replaced(backbone)


@pytest.mark.parametrize("window", [None, 1, 7, 40])
@pytest.mark.parametrize("causal", [True, False])
def test_tiles_are_attention(causal: bool, window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of all pairs in float64, with all that may be done to them; six heads share two keys."""
    monkeypatch.setattr(tiled, "MOST_ROWS", 16)
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, heads, 37, 8, dtype=torch.float64) for heads in (6, 2, 2))
    padding = torch.arange(37) >= torch.tensor([37, 20, 1])[:, None]
    seen = tiled.Seen(causal, window, padding, torch.randn(1, 6, 37, 37, dtype=torch.float64), softcap=2.0)
    found = tiled.attend(query, key, value, 0.3, seen)

    scores = 2.0 * torch.tanh(0.3 * query @ key.repeat_interleave(3, 1).mT / 2.0) + seen.bias
    distance = torch.arange(37)[:, None] - torch.arange(37)
    hidden = (distance < 0) & causal | (distance.abs() >= (window or 37))
    scores = scores.masked_fill(hidden | padding[:, None, None], -torch.inf)
    expected = (scores.softmax(-1) @ value.repeat_interleave(3, 1)).transpose(1, 2)
    assert found.isfinite().all()
    torch.testing.assert_close(found[~padding], expected[~padding])


def test_tiles_are_taken_where_they_are_faster() -> None:
    """docs/experiments.md has the measurements."""
    zen, xeon = Processor(amd=True, avx512_bf16=True), Processor(amx=True, avx512_bf16=True)
    short, long, narrow = (
        torch.empty(1, 4, *sizes, dtype=torch.bfloat16) for sizes in ((16, 64), (256, 64), (256, 32))
    )
    causal, both = tiled.Seen(True), tiled.Seen(False)
    assert all(tiled.pays(each, causal, zen) for each in (short, long, narrow))
    assert tiled.pays(long, both, zen)
    assert not tiled.pays(narrow, both, zen)
    assert tiled.pays(long, causal, xeon)
    assert not tiled.pays(short, causal, xeon)
    assert not tiled.pays(long, both, xeon)
    assert tiled.pays(long.float(), causal, zen)
    assert not tiled.pays(long.float(), both, zen)
