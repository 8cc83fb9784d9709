"""Attention of a model in bfloat16 while it trains on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from effir_dist.models.encoder import Encoder, load_encoder, pad
from effir_dist.models.kernels.attention import NAME, for_training, replaceable
from tests.tiny import MODEL_NAMES, REPLACEABLE, tiny_checkpoint, windowed

WORDS = ["abcde", "fghij", "klm nop", "q, rs", "tuv. w", "xyz", "0 12", "345 6", "789"]
BATCHES = [[" ".join(WORDS[i :: i % 3 + 1][:n] * 2) for n in (1, 7, 3, 5)] for i in range(6)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: tiny_checkpoint(folder, name, **windowed(name)) for name in MODEL_NAMES}


def gradients(encoder: Encoder) -> Tensor:
    """Of all weights, for each batch of texts of different lengths: of one alone, rounding errors differ by chance."""
    return torch.cat([gradient(encoder, texts) for texts in BATCHES])


def gradient(encoder: Encoder, texts: list[str]) -> Tensor:
    encoder.zero_grad()
    tokens = encoder.tokenize(texts, "document")
    vectors = encoder(*pad(tokens, np.arange(len(texts)), encoder.pad_id, encoder.device))
    (vectors @ vectors.T).float().logsumexp(1).mean().backward()
    return torch.cat([w.grad.float().flatten() for w in encoder.parameters() if w.grad is not None])


@pytest.mark.parametrize("name", REPLACEABLE)
def test_gradients_are_no_further_from_those_in_float32(name: str, checkpoints: dict[str, Path]) -> None:
    exact = gradients(load_encoder(str(checkpoints[name])))
    plain = gradients(load_encoder(str(checkpoints[name]), "bfloat16"))
    encoder = load_encoder(str(checkpoints[name]), "bfloat16")
    with for_training(encoder.backbone):
        assert encoder.backbone.config._attn_implementation == NAME
        found = gradients(encoder)
    assert encoder.backbone.config._attn_implementation == "sdpa"
    # Rounding elsewhere makes 0.8 to 1.3 of it, by the seed.
    assert (found - exact).norm() <= 1.5 * (plain - exact).norm()


def test_a_model_in_float32_is_left_alone(checkpoints: dict[str, Path]) -> None:
    encoder = load_encoder(str(checkpoints["llama"]))
    with for_training(encoder.backbone):
        assert encoder.backbone.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", sorted({*MODEL_NAMES} - {*REPLACEABLE}))
def test_an_attention_that_ours_do_not_compute_is_left_alone(name: str, checkpoints: dict[str, Path]) -> None:
    encoder = load_encoder(str(checkpoints[name]), "bfloat16")
    assert not replaceable(encoder.backbone)
    with for_training(encoder.backbone):
        assert encoder.backbone.config._attn_implementation == "eager"
