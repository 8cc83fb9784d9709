"""Importance scores equal a plain reading of the paper's definition: one text at a time, no padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from effir_dist.backbones import family
from effir_dist.importance import Importance, score_model
from tests.test_pruning import encoder_of
from tests.tiny import FAMILY_NAMES

TEXTS = ["a first text of some length", "second", "and a third one, longer than both of the others together"]


def plain_scores(encoder, kind: str) -> list[float]:
    """1 - cos(x, x + F(x)) per token: x and F recorded at the sub-layer itself."""
    row = family(encoder.model_config)
    distances: dict[int, list[float]] = {}

    def compare(index, before, after):
        for x, y in zip(before[0].double(), after[0].double(), strict=True):
            distances.setdefault(index, []).append(1 - float(x @ y / (x.norm() * y.norm())))

    for index, block in enumerate(encoder.backbone.get_submodule(row.blocks)):
        record(block, row, kind, lambda before, after, i=index: compare(i, before, after))
    for text in TEXTS:
        ids = torch.as_tensor(encoder.tokenize([text], "document")[0])[None].long()
        with torch.inference_mode():
            encoder(ids, torch.ones_like(ids))
    return [float(np.mean(distances[i])) for i in range(len(distances))]


def record(block, row, kind, done):
    if row.pre_norm:
        # The norm's input is the residual stream; what the sub-layer returns is added to it.
        module, norm = row.attention if kind == "attention" else row.mlp
        stream = {}
        block.get_submodule(norm).register_forward_pre_hook(lambda _m, args: stream.update(x=args[0]))
        block.get_submodule(module).register_forward_hook(
            lambda _m, _a, out: done(stream["x"], stream["x"] + (out[0] if isinstance(out, tuple) else out))
        )
    elif kind == "attention":
        block.attention.register_forward_hook(lambda _m, args, out: done(args[0], out[0]))
    else:
        block.output.register_forward_hook(lambda _m, args, out: done(args[1], out))


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_scores_equal_the_definition(name: str, checkpoints: dict[str, Path]) -> None:
    scores = score_model(encoder_of(checkpoints[name]), TEXTS, batch_tokens=500).importance
    np.testing.assert_allclose(scores.mlp, plain_scores(encoder_of(checkpoints[name]), "mlp"), atol=1e-5)
    np.testing.assert_allclose(scores.attention, plain_scores(encoder_of(checkpoints[name]), "attention"), atol=1e-5)


def test_batches_do_not_change_scores(checkpoints: dict[str, Path]) -> None:
    together = score_model(encoder_of(checkpoints["bert"]), TEXTS, batch_tokens=10_000)
    alone = score_model(encoder_of(checkpoints["bert"]), TEXTS, batch_tokens=1)
    np.testing.assert_allclose(together.importance.mlp, alone.importance.mlp, atol=1e-6)
    np.testing.assert_allclose(together.neurons["activation"], alone.neurons["activation"], rtol=1e-4)


def test_a_silent_neuron_ranks_last(checkpoints: dict[str, Path]) -> None:
    for name in ("bert", "llama"):
        encoder = encoder_of(checkpoints[name])
        row = family(encoder.model_config)
        with torch.no_grad():
            encoder.backbone.get_submodule(row.blocks)[2].get_submodule(row.mlp_out).weight[:, 7] = 0
        for ranking in score_model(encoder, TEXTS).neurons.values():
            assert ranking.argmin() == 2 * ranking.shape[1] + 7


def test_the_drop_order_is_by_rising_score() -> None:
    importance = Importance(mlp=(0.3, 0.1, 0.2), attention=(0.1, 0.1, 0.0))
    assert importance.drop_order() == [1, 2, 0]
    assert importance.drop_order("attention") == [2, 0, 1]
