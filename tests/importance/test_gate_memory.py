"""Memory of ranking neurons by slimming and Taylor: against a training step's, as `--dry-run` says it, and retried."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from effir_dist.core import config as c
from effir_dist.core.errors import InputError
from effir_dist.core.settings import PruneConfig, RunConfig, TrainConfig
from effir_dist.importance import gate_memory
from effir_dist.importance.slimming import slimming_saliency, taylor_saliency
from effir_dist.importance.store import has_importance, load_saliency
from effir_dist.models.encoder import load_encoder
from effir_dist.models.families.registry import backbone
from effir_dist.runs.run_folder import Run
from effir_dist.search import dry_run
from effir_dist.search.strategy import space_file
from effir_dist.search.trial import preparation
from effir_dist.training.batches import examples_of
from effir_dist.training.engine import start_distributed
from effir_dist.training.trainer import train
from tests import ROOT
from tests.peaks import Peak
from tests.tiny import tiny_checkpoint
from tests.training.test_training import make_pairs, quiet

STEPS = {"steps": 1, "batch_size": 16, "hard_negatives": 2}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bert", {"dtype": "float32", "gradcache_queries": 4}),
        ("llama", {"dtype": "bfloat16", "gradcache_queries": 4}),
        ("llama", {"dtype": "bfloat16", "gradient_checkpointing": True}),
    ],
)
def test_the_peak_is_that_of_a_training_step(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Within 10 % where the weights train along; with frozen weights it is less."""
    start_distributed()
    path = tiny_checkpoint(tmp_path, name, hidden_size=64, intermediate_size=256, num_hidden_layers=3)
    config = TrainConfig(**{**STEPS, **changes})
    prune = PruneConfig(slim_steps=1)
    peaks: dict[str, int] = {}
    for what in ("training", "weights", "gates", "taylor"):
        encoder = load_encoder(str(path), config.dtype)
        examples = examples_of(encoder, make_pairs(), config, None)
        with Peak() as peak:
            if what == "training":
                train(encoder, make_pairs(), config, quiet)
            elif what == "taylor":
                taylor_saliency(encoder, examples, prune, config)
            else:
                slimming_saliency(encoder, examples, replace(prune, slim_weights=what == "weights"), config)
        peaks[what] = peak.bytes
    assert peaks["gates"] > sum(p.nbytes for p in encoder.parameters())
    assert peaks["weights"] == pytest.approx(peaks["training"], rel=0.1)
    assert peaks["gates"] < peaks["training"]
    assert peaks["taylor"] < peaks["training"]


def lines_of(name: str, **changes: Any) -> list[str]:
    space = space_file.read_space(str(ROOT / "search_spaces" / "effir-paper.yaml"))
    config = c.replace(RunConfig(), {**space.settings, **changes})
    return dry_run.text(space, config, backbone(name).config, name).splitlines()


@pytest.mark.parametrize(("name", "least", "most"), [("mistral-7b", 20, 30), ("qwen3-0.6b", 3, 6)])
def test_the_dry_run_counts_the_ranking_of_the_papers_space(name: str, least: float, most: float) -> None:
    (line,) = [line for line in lines_of(name) if line.startswith("memory of ranking neurons (slimming)")]
    assert least < float(line.split("at most ")[1].split()[0]) < most
    assert not any("ranking neurons" in line for line in lines_of(name, **{"prune.ranking": "activation"}))


def test_what_does_not_fit_is_warned_of_with_what_would() -> None:
    def advice(**changes: Any) -> str:
        lines = lines_of("mistral-7b", **changes)
        place = next(i for i, line in enumerate(lines) if "ranking neurons" in line)
        return lines[place + 1]

    small: dict[str, Any] = {"resources.gpu_memory": 24.0}
    assert advice(**small).endswith("of which 10% stay free: train.gradcache_queries=2 would fit")
    weights = advice(**small, **{"prune.slim_weights": True})
    assert weights.endswith("prune.slim_weights=false train.gradcache_queries=2 would fit")
    tiny = advice(**{"resources.gpu_memory": 8.0})
    assert tiny.endswith("prune.ranking=activation needs no gradients")


def test_one_process_has_chunks_as_large_as_a_trials_worker() -> None:
    config = c.replace(RunConfig(), {"train.batch_size": 64, "resources.workers_per_trial": 8})
    assert gate_memory.settings(config).train.gradcache_queries == 8
    smaller = c.replace(config, {"train.gradcache_queries": 2})
    assert gate_memory.settings(smaller).train.gradcache_queries == 2
    by_tokens = c.replace(config, {"train.gradcache_tokens": 500})
    assert gate_memory.settings(by_tokens).train.gradcache_queries == 0


def test_a_ranking_that_runs_out_of_memory_is_tried_with_less_and_then_says_so(
    checkpoints: dict[str, Path], collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run of `prepare` is what --resume does."""
    values = {"model.path": str(checkpoints["llama"]), "data.paths": [str(collection)], "train.batch_size": 8}
    config = c.replace(RunConfig(), {**values, "prune.slim_steps": 2, "prune.calibration_texts": 5})
    run = Run.create(tmp_path / "run", c.to_dict(config))
    asked: list[TrainConfig] = []
    room = [False, False, True]

    def ranked(encoder: Any, examples: Any, prune: PruneConfig, settings: TrainConfig) -> Any:
        asked.append(settings)
        if not room.pop(0):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB")
        return slimming_saliency(encoder, examples, prune, settings)

    monkeypatch.setattr(preparation, "slimming_saliency", ranked)
    with pytest.raises(
        InputError, match="ranking the unpruned .* out of memory .* with little memory too; use --resume"
    ) as error:
        preparation.prepare(run, config, ["slimming"])
    assert "\n" not in str(error.value)
    assert not has_importance(run)
    assert [(s.gradcache_queries, s.gradient_checkpointing) for s in asked] == [(0, False), (1, True)]
    preparation.prepare(run, config, ["slimming"])
    assert load_saliency(run)["slimming"].shape == (4, 48)
