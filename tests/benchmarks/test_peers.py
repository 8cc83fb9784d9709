"""The tools that encoding is measured against compute the same embeddings, and one that is not there is told."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import time

import numpy as np
import pytest
import torch

from benchmarks.speed import peers
from benchmarks.speed.frame import Options
from effir_dist.models.encoder import load_encoder
from tests.tiny import tiny_checkpoint

TEXTS = ["abcde fghij "[: 1 + n % 12] * (n // 12 + 1) for n in (1, 60, 17, 90, 41)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> peers.Model:
    folder = tmp_path_factory.mktemp("peers")
    encoder = load_encoder(str(tiny_checkpoint(folder, "llama")))
    mean = {"pooling": "mean", "append_eos": False, "document_prompt": ""}
    encoder.settings = dataclasses.replace(encoder.settings, **mean)
    return peers.Model(encoder, folder, Options())


def test_peers_give_the_embeddings_that_we_give_whatever_the_batch(model: peers.Model) -> None:
    found = list(peers.peers(model, "float32", TEXTS, "documents"))
    there = {peer.label: peer for peer in found if isinstance(peer, peers.Peer)}
    assert {"sentence-transformers, float32", "onnxruntime, float32"} <= set(there)
    assert ("OpenVINO, float32" in there) == (importlib.util.find_spec("openvino") is not None)
    expected = model.float32.encode(TEXTS)
    for label, peer in there.items():
        for batch in (1, 3):
            cosines = (peer.encode(TEXTS, batch) * expected).sum(1)
            assert cosines.min() >= (0.9 if "int8" in label else 0.99999), label


def test_a_peer_whose_package_is_missing_is_told(model: peers.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("openvino", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    found = list(peers.peers(model, "bfloat16", TEXTS, "documents"))
    assert all(isinstance(each, str) and "is not installed" in each for each in found)
    assert len(found) == 2


def test_the_batch_with_the_least_processor_time_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def encode(texts: list[str], batch: int) -> np.ndarray:
        nonlocal now
        now += {2: 100.0, 1: 3.0, 4: 2.0, 16: 5.0}[batch]
        return np.zeros((len(texts), 2), np.float32)

    monkeypatch.setattr(time, "process_time", lambda: now)
    assert peers.best_batch(encode, ["a"] * 9, (1, 4, 16, 32)) == 4


def test_its_own_matrices_are_all_linear_layers_of_each_batch(model: peers.Model) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    weights = sum(m.weight.numel() for m in model.float32.backbone.modules() if isinstance(m, torch.nn.Linear))
    with FlopCounterMode(display=False) as counter:
        peers.own_matrices(model.float32, [7, 5])()
    assert counter.get_total_flops() == 2 * 12 * weights
