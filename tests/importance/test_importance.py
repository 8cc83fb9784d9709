"""Importance scores equal a plain reading of the paper's definition: one text at a time, no padding."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from effir_dist.importance import command as importance_command
from effir_dist.importance.ranking import Importance, Method, calibrate, greedy_order
from effir_dist.models.encoder import Encoder, prune_encoder
from effir_dist.models.families.base import Family
from effir_dist.models.families.registry import FAMILIES, family
from effir_dist.models.pruning import PruningPlan
from tests.models.reference import record
from tests.models.test_pruning import encoder_of
from tests.tiny import MODEL_NAMES, registered, tiny_checkpoint

BEHIND = ("sandwich", "res_post")
"""Placements with a norm behind a sub-layer, before it is added."""
TEXTS = ["a first text of some length", "second", "and a third one, longer than both of the others together"]


def change(x: torch.Tensor, y: torch.Tensor, distance: str) -> float:
    return float((y - x).norm() / x.norm() if distance == "l2" else 1 - x @ y / (x.norm() * y.norm()))


def plain_scores(encoder, kind: str, method: Method | None = None) -> list[float]:
    """1 - cos(x, x + F(x)) per token: x and F recorded at the sub-layer itself."""
    method = method or Method()
    row = family(encoder.model_config)
    distances: dict[int, list[float]] = {}

    def compare(index, before, after):
        x, y = before[0].double(), after[0].double()
        if method.granularity == "pooled":
            last = encoder.settings.pooling == "last"
            x, y = (x[-1:], y[-1:]) if last else (x.mean(0, keepdim=True), y.mean(0, keepdim=True))
        distances.setdefault(index, []).extend(change(a, b, method.distance) for a, b in zip(x, y, strict=True))

    for index, block in enumerate(encoder.backbone.get_submodule(row.blocks)):
        record(block, row, kind, lambda before, after, i=index: compare(i, before, after), method.keep_norms)
    for text in TEXTS:
        ids = torch.as_tensor(encoder.tokenize([text], "document")[0])[None].long()
        with torch.inference_mode():
            encoder(ids, torch.ones_like(ids))
    return [float(np.mean(distances[i])) for i in range(len(distances))]


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_scores_equal_the_definition(name: str, checkpoints: dict[str, Path]) -> None:
    scores = calibrate(encoder_of(checkpoints[name]), TEXTS, batch_tokens=500).importance
    np.testing.assert_allclose(scores.mlp, plain_scores(encoder_of(checkpoints[name]), "mlp"), atol=1e-5)
    np.testing.assert_allclose(scores.attention, plain_scores(encoder_of(checkpoints[name]), "attention"), atol=1e-5)


def test_parallel_sub_layers_are_scored_apart(tmp_path: Path) -> None:
    """Each by what it makes of the stream that both read; a pruned model by what is left."""
    values = {f.name: getattr(FAMILIES["llama"], f.name) for f in dataclasses.fields(Family)}
    norm = "input_layernorm"
    own = {"model_type": "cohere", "class_name": "Cohere", "norm_placement": "parallel", "backbones": ()}
    parts = {"attention": ("self_attn", norm), "mlp": ("mlp", norm), "short_names": {}}
    with registered(Family(**{**values, **own, **parts})):
        path = tiny_checkpoint(tmp_path, "cohere")
        scores = calibrate(encoder_of(path), TEXTS, batch_tokens=500)
        for kind in ("mlp", "attention"):
            expected = plain_scores(encoder_of(path), kind)
            np.testing.assert_allclose(getattr(scores.importance, kind), expected, atol=1e-5)
        assert np.isfinite(scores.saliency["activation"]).all()
        left = calibrate(prune_encoder(encoder_of(path), PruningPlan((0, 2), (1, 2)), None), TEXTS).importance
        assert left.mlp[1] == pytest.approx(left.block[1])
        assert left.attention[0] == pytest.approx(scores.importance.attention[0], abs=1e-6)
        assert left.block[2] == pytest.approx(0, abs=1e-6)


def test_batches_do_not_change_importance(checkpoints: dict[str, Path]) -> None:
    together = calibrate(encoder_of(checkpoints["bert"]), TEXTS, batch_tokens=10_000)
    alone = calibrate(encoder_of(checkpoints["bert"]), TEXTS, batch_tokens=1)
    np.testing.assert_allclose(together.importance.mlp, alone.importance.mlp, atol=1e-6)
    np.testing.assert_allclose(together.saliency["activation"], alone.saliency["activation"], rtol=1e-4)


@pytest.mark.parametrize("name", [n for n, r in FAMILIES.items() if r.norm_placement in BEHIND])
def test_a_norm_behind_the_mlp_takes_its_scale_from_its_neurons(name: str, checkpoints: dict[str, Path]) -> None:
    """Ten times the output of an MLP is the same model, with the same shares of the stream from its neurons."""
    plain, scaled = encoder_of(checkpoints[name]), encoder_of(checkpoints[name])
    row = family(plain.model_config)
    for encoder, factor in ((plain, 1e5), (scaled, 1e6)):  # large beside the norm's epsilon
        with torch.no_grad():
            encoder.backbone.get_submodule(row.blocks)[1].get_submodule(row.mlp_out).weight *= factor
    np.testing.assert_allclose(plain.encode(TEXTS), scaled.encode(TEXTS), atol=1e-3)
    found, expected = (calibrate(encoder, TEXTS).saliency["activation"] for encoder in (scaled, plain))
    np.testing.assert_allclose(found, expected, rtol=0.02)


def test_a_massive_first_token_does_not_hide_what_neurons_do_to_the_others(checkpoints: dict[str, Path]) -> None:
    """From some block on, an LLM's first token has a stream a hundred times as long as that of the others."""
    encoder = encoder_of(checkpoints["llama"])
    plain = calibrate(encoder, TEXTS).saliency["activation"]

    def grows(_module: Any, _args: Any, output: Any) -> Any:
        stream = output[0] if isinstance(output, tuple) else output
        stream[:, 0, 0] += 1e4
        return output

    encoder.backbone.get_submodule(family(encoder.model_config).blocks)[1].register_forward_hook(grows)
    massive = calibrate(encoder, TEXTS).saliency["activation"]
    np.testing.assert_allclose(massive[:2], plain[:2], rtol=1e-5)
    ratios = np.median(massive[2:], axis=1) / np.median(plain[2:], axis=1)
    assert (ratios > 0.5).all(), "a mean of lengths made it 0.01"
    assert (ratios < 2).all()


def test_a_silent_neuron_ranks_last(checkpoints: dict[str, Path]) -> None:
    for name in ("bert", "llama"):
        encoder = encoder_of(checkpoints[name])
        row = family(encoder.model_config)
        with torch.no_grad():
            encoder.backbone.get_submodule(row.blocks)[2].get_submodule(row.mlp_out).weight[:, 7] = 0
        for ranking in calibrate(encoder, TEXTS).saliency.values():
            assert ranking.argmin() == 2 * ranking.shape[1] + 7


def test_the_drop_order_is_by_rising_importance() -> None:
    importance = Importance(mlp=(0.3, 0.1, 0.2), attention=(0.1, 0.1, 0.0), block=(0.0, 0.2, 0.1))
    assert importance.drop_order() == [1, 2, 0]
    assert importance.drop_order("attention") == [2, 0, 1]
    assert importance.drop_order("block") == [0, 2, 1]


@pytest.mark.parametrize("name", ["llama", "bert"])
@pytest.mark.parametrize(
    "method", [Method("l2"), Method("cosine", "pooled"), Method("l2", "pooled"), Method(keep_norms=False)]
)
def test_the_other_methods_equal_their_definitions(name: str, method: Method, checkpoints: dict[str, Path]) -> None:
    scores = calibrate(encoder_of(checkpoints[name]), TEXTS, 500, method).importance
    for kind in ("mlp", "attention"):
        expected = plain_scores(encoder_of(checkpoints[name]), kind, method)
        np.testing.assert_allclose(getattr(scores, kind), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_pruned_model_is_scored_where_something_is_left(name: str, checkpoints: dict[str, Path]) -> None:
    plan = PruningPlan(dropped_mlp=(0, 2), dropped_attention=(1, 2))
    encoder = prune_encoder(encoder_of(checkpoints[name]), plan, None)
    scores = calibrate(encoder, TEXTS).importance
    assert [np.isnan(score) for score in scores.mlp] == [True, False, True, False]
    assert [np.isnan(score) for score in scores.attention] == [False, True, True, False]
    assert scores.block[2] == pytest.approx(0, abs=1e-6)
    # With one sub-layer left, what it changes is what the block changes.
    assert scores.block[0] == pytest.approx(scores.attention[0])
    assert scores.block[1] == pytest.approx(scores.mlp[1])


def test_greedy_is_scoring_again_after_each_drop(checkpoints: dict[str, Path]) -> None:
    def make(gone: list[int]) -> Encoder:
        return prune_encoder(encoder_of(checkpoints["llama"]), PruningPlan(dropped_mlp=tuple(sorted(gone))), None)

    order = greedy_order(make, "mlp", 4, TEXTS, Method())
    assert sorted(order) == [0, 1, 2, 3]
    for dropped in range(4):
        scores = calibrate(make(order[:dropped]), TEXTS).importance.mlp
        assert scores[order[dropped]] == pytest.approx(np.nanmin(scores))


def test_the_command_writes_scores_and_heat_map(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts").write_text("\n".join(TEXTS))
    command = ["importance", "--model", str(checkpoints["llama"]), "--texts", str(tmp_path / "texts")]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(tmp_path / "out"), "--greedy"])
    importance_command.main()
    table = pd.read_csv(tmp_path / "out" / "importance.csv")
    scores = calibrate(encoder_of(checkpoints["llama"]), TEXTS).importance
    np.testing.assert_allclose(table["mlp_importance"], scores.mlp, atol=1e-6)
    assert sorted(table["attention_drop"]) == [1, 2, 3, 4]
    assert (tmp_path / "out" / "importance.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "block    MLP  drop  attention  drop  whole block  drop" in out
    assert max(map(len, out.splitlines()[1:-2])) <= 80, "all but the paths"
    (tmp_path / "texts").write_text("\n \n")
    with pytest.raises(SystemExit) as stopped:
        importance_command.main()
    assert stopped.value.code == 2
    assert "no calibration text" in capsys.readouterr().err


def test_the_heat_map_fills_a_block_from_its_drop_on() -> None:
    figure = importance_command.heat_map({"mlp": [1, 0, 2], "attention": [0, 1, 2], "block": [2, 1, 0]}, "x")
    values = np.asarray(figure.axes[0].collections[0].get_array()).reshape(3, 3)
    assert values.tolist() == [[0, 1, 1], [1, 1, 1], [0, 0, 1]]


def test_pooled_streams_are_without_a_prompt_that_pooling_leaves_out(checkpoints: dict[str, Path]) -> None:
    encoder = encoder_of(checkpoints["bert"])
    found: dict[tuple[str, bool], list[float]] = {}
    for granularity in ("token", "pooled"):
        for include in (True, False):
            changes = {"document_prompt": "a prompt: ", "include_prompt": include}
            encoder.settings = dataclasses.replace(encoder.settings, **changes)
            texts = ["some text", "some more of it", "x"]
            method = Method("cosine", granularity, False)
            found[granularity, include] = list(calibrate(encoder, texts, method=method).importance.mlp)
    np.testing.assert_allclose(found["token", True], found["token", False])
    assert np.abs(np.subtract(found["pooled", True], found["pooled", False])).min() > 1e-6
