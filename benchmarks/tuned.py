"""A retriever made of SmolLM2, from the package index alone: distilled from mpnet on the built-in data.

    python -m benchmarks.tuned [--steps 128] [--batch 32]

Prints the folder, in this user's cache, that the tables, the recipe and the replication start from. It is made once:
half an hour on two cores at most where these multiply bfloat16, four times as long in float32. A run that is stopped
goes on from its last checkpoint, and equal settings give an equal model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import torch

from effir_dist.core.config import replace
from effir_dist.core.mapped import cache_root
from effir_dist.core.settings import RunConfig
from effir_dist.data import roles
from effir_dist.data.pairs import TrainingPairs, training_pairs
from effir_dist.evaluate.evaluation import evaluate
from effir_dist.export.model_folder import write_folder
from effir_dist.models import pretrained
from effir_dist.models.encoder import build_encoder, cast, make_settings, resolve_dtype
from effir_dist.search.trial.preparation import token_cache
from effir_dist.search.trial.start import base_encoder
from effir_dist.training.batches import Teacher, distinct
from effir_dist.training.train_state import TrainState, read_state, write_state
from effir_dist.training.trainer import train

SETTINGS = {
    "model.backbone": "smollm2",
    "model.pooling": "mean",
    "model.query_prompt": "",
    "model.max_query_length": 32,
    "model.max_document_length": 64,
    "data.max_queries": 150,
    "data.max_documents": 400,
    "data.max_test_queries": 300,
    "data.max_test_documents": 800,
    "train.teacher": "mpnet",
    "train.distill_similarities": 1.0,
    "train.learning_rate": 1.5e-4,
    "train.temperature": 0.05,
    "train.checkpoint_minutes": 4.0,
}


def main(argv: list[str] | None = None) -> None:
    """Make the folder where it is not there yet; print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuned", description=__doc__)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(tuned(args.steps, args.batch), flush=True)


def tuned(steps: int = 128, batch: int = 32) -> Path:
    """The folder of the tuned model, which is made where it is missing."""
    sizes = {"train.steps": steps, "train.batch_size": batch, "data.max_train_pairs": steps * batch}
    values = {**SETTINGS, **sizes}
    name = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache_root() / "tuned" / f"smollm2-{name}"
    if not (folder / "tuned.json").is_file():
        partial = folder.with_name(folder.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        _make(replace(RunConfig(), values), partial / "state", partial / "model", values)
        os.replace(partial / "model", folder)
        shutil.rmtree(partial)
    return folder


def _make(config: RunConfig, state: Path, folder: Path, values: dict[str, object]) -> None:
    begun, pairs = time.monotonic(), training_pairs(config.data, 0)
    teacher = _teacher(config, pairs)
    taught = f"{len(pairs.queries):,} pairs, embedded by {config.train.teacher}"
    print(f"{taught} in {time.monotonic() - begun:.0f} s", flush=True)
    encoder = base_encoder(config)
    outcome = train(encoder, pairs, config.train, lambda p: print(p, flush=True), token_cache(), teacher, _State(state))
    seconds = time.monotonic() - begun
    cast(encoder, resolve_dtype(config.score.dtype)).eval()
    scores = {}
    for split, read in (("dev", roles.search_collection), ("test", roles.test_collection)):
        found = evaluate(encoder, read(config.data.paths[0], config.data, 0), 0, token_cache())
        scores[split] = found.metrics["ndcg_at_10"]
    facts = {"settings": values, "loss": outcome.last_loss, "seconds": round(seconds), "ndcg_at_10": scores}
    facts["dtype"] = resolve_dtype(config.train.dtype)
    shutil.rmtree(folder, ignore_errors=True)
    write_folder(encoder, folder, "float32", {})
    (folder / "tuned.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts), flush=True)


def _teacher(config: RunConfig, pairs: TrainingPairs) -> Teacher:
    """Embeddings of the training texts by `train.teacher`, in its own settings but at most as long as the student's."""
    source = pretrained.find(config.train.teacher)
    lengths = {"max_query_length": config.model.query_length, "max_document_length": config.model.document_length}
    model = replace(RunConfig(), {f"model.{name}": value for name, value in lengths.items()}).model
    dtype = resolve_dtype(config.score.dtype)
    encoder = build_encoder(pretrained.load_base(source, dtype), make_settings(model, source), dtype)
    texts = zip(("query", "document"), distinct(pairs, False), strict=True)
    found = [encoder.encode_tokens(encoder.tokenize(each, kind, token_cache()), 0) for kind, each in texts]
    pretrained.forget()
    return Teacher(*found)


class _State:
    """The training's state on disk; `trainer.Checkpoints`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> TrainState | None:
        return read_state(self.path, "tuned")

    def save(self, state: TrainState) -> None:
        write_state(self.path, state, "tuned")

    def urgent(self) -> bool:
        return False


if __name__ == "__main__":
    main()
