"""Speed by a fixed protocol: the unpruned model beside the pruned one, and a ratio that holds on a busy machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from effir_dist.core.settings import ScoreConfig, SearchConfig
from effir_dist.evaluate.speed import Speed, measure, peak_tensor_bytes
from effir_dist.models.encoder import Encoder, load_encoder, prune_encoder
from effir_dist.models.pruning import PruningPlan
from tests.tiny import tiny_checkpoint

WIDE = {"hidden_size": 128, "intermediate_size": 2048, "num_hidden_layers": 4}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Encoder]:
    """(without any MLP, the whole model); of which MLPs are nine tenths."""
    path = str(tiny_checkpoint(tmp_path_factory.mktemp("wide"), "llama", **WIDE))
    return prune_encoder(load_encoder(path), PruningPlan(dropped_mlp=(0, 1, 2, 3)), None), load_encoder(path)


@pytest.fixture(scope="module")
def measured(models: tuple[Encoder, Encoder]) -> Speed:
    return measure(*models, ScoreConfig(speed_batch=4, speed_document_length=48))


def test_a_model_without_mlps_is_faster_than_the_whole_one(measured: Speed) -> None:
    assert measured.values["document_speedup"] > 1.3
    assert measured.values["query_latency_ms"] > 0
    assert measured.values["batch_documents_per_second"] > 0


def test_what_was_measured_is_in_the_record_with_how(measured: Speed) -> None:
    protocol = measured.protocol
    shape = ("query_tokens", "document_tokens", "documents", "warm_up", "repeats", "dtype")
    assert [protocol[name] for name in shape] == [16, 48, 4, 2, 9, "float32"]
    low, high = protocol["document_speedup_quartiles"]
    assert low <= measured.values["document_speedup"] <= high
    fast, slow = measured.values["batch_documents_per_second"], protocol["unpruned_documents_per_second"]
    assert measured.values["document_speedup"] == pytest.approx(fast / slow, rel=0.5), (
        "a median of ratios, near that of medians"
    )


def test_memory_is_the_weights_and_what_encoding_holds_at_once() -> None:
    class Steps(torch.nn.Module):
        """[B, T] ids -> a table of 4 MB, a copy, and a sum; at most the table and its copy live together."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1000, 1000))

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            first = self.weight + 1
            second = first * 2
            del first
            third = second.view(-1, 10)[:5]  # a view takes nothing
            return third + 1

    ids = torch.ones(1, 1)
    found = peak_tensor_bytes(Steps(), (ids, ids))  # type: ignore[arg-type]
    assert 3 * 4_000_000 <= found <= 3 * 4_000_000 + 1000


def test_memory_is_the_same_each_time_and_falls_with_what_is_dropped(models: tuple[Encoder, Encoder]) -> None:
    ids = torch.ones(4, 48, dtype=torch.int64)
    pruned, whole = (peak_tensor_bytes(model, (ids, ids)) for model in models)
    assert peak_tensor_bytes(models[0], (ids, ids)) == pruned
    weights = [sum(p.numel() * 4 for p in model.parameters()) for model in models]
    assert pruned > weights[0]
    assert whole - pruned > weights[1] - weights[0], "activations of the MLPs go with them"


def test_measuring_changes_no_embedding(models: tuple[Encoder, Encoder], measured: Speed) -> None:
    pruned = models[0]
    before = pruned.encode(["a text", "another one"])
    measure(*models, ScoreConfig(speed_batch=1, speed_document_length=4, speed_repeats=1))
    np.testing.assert_array_equal(pruned.encode(["a text", "another one"]), before)


@pytest.mark.gpu
def test_a_gpu_is_waited_for(models: tuple[Encoder, Encoder]) -> None:
    """Without waiting, a pass seems to take what its launch takes, whatever its size."""
    on_gpu = [model.to("cuda") for model in models]
    small, large = (measure(*on_gpu, ScoreConfig(speed_batch=batch, speed_document_length=128)) for batch in (8, 2048))
    seconds = [b / m.values["batch_documents_per_second"] for b, m in ((8, small), (2048, large))]
    assert seconds[1] > 4 * seconds[0]


def test_a_trial_measures_where_an_objective_or_a_constraint_asks_for_it() -> None:
    from effir_dist.runs.objectives import Goal

    asking = [SearchConfig(objectives=("query_speedup", "ndcg_at_10"))]
    asking += [SearchConfig(constraints=("query_latency_ms <= 5",))]
    asking += [SearchConfig(objectives=("parameters", "memory_bytes", "ndcg_at_10"))]
    assert all(Goal.of(search).measured for search in asking)
    told_by_plan = SearchConfig(objectives=("index_bytes", "ndcg_at_10"), constraints=("parameters <= 0.5",))
    assert not Goal.of(told_by_plan).measured


def test_a_tiny_checkpoint_of_any_family_is_measured(checkpoints: dict[str, Path]) -> None:
    for path in checkpoints.values():
        encoder, whole = load_encoder(str(path)), load_encoder(str(path))
        prune_encoder(encoder, PruningPlan(dropped_mlp=(1,)), None)
        found = measure(encoder, whole, ScoreConfig(speed_batch=2, speed_document_length=8, speed_repeats=3))
        assert found.values["memory_bytes"] < found.values["full_memory_bytes"]
