"""Runs with pruned tiny models in them, written as a search writes them, and what they give for 200 texts."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np

from effir_dist.core import config
from effir_dist.core.measures import METRICS
from effir_dist.core.storage import written_locally
from effir_dist.models import pretrained
from effir_dist.models.encoder import load_encoder, make_settings, prune_encoder
from effir_dist.models.pruning import PruningPlan, make_plan
from effir_dist.runs.records import TrialRecord, TrialSpec
from effir_dist.runs.run_folder import Run, write_queries
from effir_dist.runs.sizes import SetSize
from tests import ROOT

MODEL = {"model.max_query_length": 48, "model.max_document_length": 96, "model.document_prompt": "d: "}
UNPRUNED, MIXED, EQUAL = "0000", "0001", "0002"


def texts(count: int = 200) -> list[str]:
    """Of every length from a letter to more than the model takes."""
    rng = random.Random(0)
    words = ["alpha", "beta", "gamma ray", "delta, epsilon", "naïve", "x", "42 %"]
    return [" ".join(rng.choices(words, k=rng.randint(1, 22))) for _ in range(count)]


def plans(model_config: dict[str, Any], scores: np.ndarray) -> dict[str, PruningPlan]:
    """Trial -> plan: nothing pruned; dropped sub-layers and other widths; equal widths and nothing dropped."""
    equal = PruningPlan(widths=tuple((block, 20) for block in range(4)), ranking="magnitude")
    mixed = make_plan(model_config, [2], [1], 0.6, scores, "magnitude")
    return {UNPRUNED: PruningPlan(), MIXED: mixed, EQUAL: equal}


def write_run(folder: str | Path, checkpoint: Path, data: Path) -> Run:
    """A finished run of three trials on a tiny model, all with weights, the first two on the front."""
    places = {"model.path": str(checkpoint), "data.paths": [str(data)], "score.dtype": "float32"}
    settings = config.replace(config.RunConfig(), {**MODEL, **places})
    extra = {"data": [{"name": "toy", "path": str(data), "sha256": "0" * 64}], "versions": {"torch": "2"}}
    run = Run.create(folder, config.to_dict(settings), {**extra, "command": "python -m effir_dist.search --name tiny"})
    base = load_encoder(str(checkpoint))
    neurons = np.random.default_rng(0).random((4, 48))
    for number, (trial, plan) in enumerate(plans(base.model_config, neurons).items()):
        encoder = load_encoder(str(checkpoint))
        encoder.settings = make_settings(settings.model, pretrained.find("", str(checkpoint)))
        with written_locally(run.trial_folder(trial)) as trial_folder:
            prune_encoder(encoder, plan, neurons).save(trial_folder)
        per_query = {"toy": {f"q{i}": dict.fromkeys(METRICS, i % (3 + number) / 4) for i in range(20)}}
        write_queries(run.queries_path(trial), per_query)
        means = dict.fromkeys(METRICS, float(np.mean([v["ndcg_at_10"] for v in per_query["toy"].values()])))
        spec = TrialSpec(number, suggested={}, distributions={}, plan=plan)
        values = {**spec.values(encoder.model_config), **means, "train_seconds": 3.0}
        facts = spec.facts(encoder.model_config)
        sizes, datasets = {"toy": SetSize(20, 30, 20, 40)}, {"toy": means}
        run.write_result(TrialRecord(spec, "complete", "", facts, values, datasets, sizes))
    return run


def machine_paths(folder: Path, *more: Path) -> dict[str, str]:
    """File -> the first place of this machine that it names: the checkout, the environment, the home, `more`."""
    places = [str(place) + "/" for place in (ROOT, sys.prefix, Path.home(), *more)]
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    named = {name: next((p for p in places if p.encode() in content), "") for name, content in files.items()}
    return {name: place for name, place in named.items() if place}


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[N, D], [N, D] -> [N]."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(axis=1) / norms
