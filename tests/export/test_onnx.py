"""The ONNX graph gives the encoder's embeddings at any batch size and length; int8 says what it costs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from effir_dist.core.errors import InputError
from effir_dist.data.sets import load_collection
from effir_dist.evaluate.evaluation import evaluate_texts
from effir_dist.export.command import export
from effir_dist.models.encoder import load_encoder
from effir_dist.runs.sizes import SetSize
from tests import needs
from tests.exports import MIXED, cosines, machine_paths, texts, write_run
from tests.tiny import MODEL_NAMES

# torch.export takes ten seconds and more a family.
QUICK = "bert"
FAMILIES = [QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in MODEL_NAMES if name != QUICK)]


@pytest.mark.parametrize("family", FAMILIES)
def test_onnxruntime_gives_the_same_embeddings_and_int8_is_measured(
    family: str, checkpoints: dict[str, Path], collection: Path, tmp_path: Path
) -> None:
    from effir_dist.export.onnx_model import OnnxEncoder

    for name in ("onnx", "onnxscript", "onnxruntime"):
        needs.module(name)
    run = write_run(tmp_path / "run", checkpoints[family], collection)
    export(run, run.result(MIXED), tmp_path / "out", onnx=True, int8=True)
    assert machine_paths(tmp_path / "out", tmp_path, checkpoints[family].parent) == {}
    encoder = load_encoder(str(run.trial_folder(MIXED)))
    graph = OnnxEncoder(tmp_path / "out" / "onnx" / "encoder.onnx", encoder)
    expected = encoder.encode(texts())
    for batch_tokens in (1, 300, 8192):
        found = graph.encode(texts(), batch_tokens=batch_tokens)
        assert cosines(found, expected).min() >= 0.9999
    one = torch.tensor([[5]]), torch.tensor([[1]])
    with torch.no_grad():
        np.testing.assert_allclose(graph(*one).numpy(), encoder(*one).numpy(), atol=1e-5)
        padded = [[encoder.pad_id, encoder.pad_id, 5, 6], [7, 8, 9, 10]]
        left = torch.tensor(padded), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
        np.testing.assert_allclose(graph(*left).numpy(), encoder(*left).numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    measured = json.loads((tmp_path / "out" / "onnx" / "int8.json").read_text())
    row = measured["ndcg_at_10"]["toy"]
    assert measured["split"] == "test"
    assert row["low"] <= row["difference"] <= row["high"]
    assert row["difference"] == pytest.approx(row["int8"] - row["float32"])
    scores = evaluate_texts(encoder, load_collection(str(collection), "test"), 4096)
    assert row["float32"] == pytest.approx(scores.metrics["ndcg_at_10"])
    assert measured["bytes"]["int8"] < measured["bytes"]["float32"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| toy | {SetSize(row['queries'], row['documents'])} | {row['float32']:.4f} | {row['int8']:.4f} |" in card


def test_without_onnx_it_says_what_to_install(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sys

    from effir_dist.export.onnx_model import write_onnx

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"install `effir_dist\[onnx\]`"):
        write_onnx(load_encoder(str(checkpoints["bert"])), tmp_path / "onnx")
