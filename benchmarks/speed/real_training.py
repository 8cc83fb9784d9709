"""Pairs a second in training real models on a CPU: MiniLM, mpnet and SmolLM2, with their own weights.

Beside sentence-transformers without dropout, at the best of the batches that were tried with the same pairs (bfloat16
by autocast, as its trainer does with bf16=True, and without float32 weights), ours in eight padded groups of like
length, as it was before it packed, and ours while it recovers from a teacher's embeddings.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.speed import trained, training
from benchmarks.speed.frame import Comparison, Options, Variant
from benchmarks.speed.models import there
from benchmarks.speed.training import STEADY, Case, loop, prepared

if TYPE_CHECKING:
    from effir_dist.data.pairs import TrainingPairs

LENGTH = 96
PAIRS = {"smollm2": 12, "mpnet": 12, "minilm": 32}
GOALS = {"smollm2": 1.5, "mpnet": 1.5, "minilm": 1.5}
"""Times the pairs a second of sentence-transformers."""
PADDED, TEACHER = "ours, eight padded groups", "ours, recovering from a teacher"
RECOVERY = 0.95
"""Of the pairs a second without a teacher: at most 5 % more than without."""


def comparisons(options: Options) -> Iterator[Comparison]:
    """One a model."""
    with trained.scratch() as folder:
        for name in there(*PAIRS):
            batch = 4 if options.small else PAIRS[name]
            case = Case(name, trained.real(name, Path(folder)), batch, 1, {}, 16 if options.small else LENGTH)
            yield from compared(case, options)
            gc.collect()


def compared(case: Case, options: Options) -> Iterator[Comparison]:
    """Ours in its ways beside theirs."""
    pairs = trained.pairs(case.batch)
    others, tried = theirs(case, options, pairs)
    with prepared(case, options, pairs) as ours:
        padded = functools.partial(ours.steps, ours.collator(packs=False, groups=8))
        distil = {"distill_embeddings": 1.0, "distill_similarities": 1.0}
        recovering = functools.partial(ours.steps, None, teacher(ours), **distil)
        yield Comparison(
            name=f"{case.name}, {case.batch} pairs of up to {case.length} tokens, {options.dtype}",
            variants={"ours": Variant(ours.steps), PADDED: Variant(padded), TEACHER: Variant(recovering), **others},
            amount=case.batch,
            unit="pairs",
            goals={**dict.fromkeys(others, GOALS[case.name]), TEACHER: RECOVERY},
            facts={**ours.facts(), **tried},
        )


def teacher(ours: training.Prepared) -> Any:
    """Made up embeddings of length 1: what they are costs nothing."""
    from effir_dist.training.batches import Teacher

    rng, found = np.random.default_rng(0), []
    for texts in (ours.examples.queries, ours.examples.passages):
        vectors = rng.standard_normal((len(texts), ours.encoder.dimension), np.float32)
        found.append((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16))
    return Teacher(*found)


def theirs(case: Case, options: Options, pairs: TrainingPairs) -> tuple[dict[str, Variant], dict[str, Any]]:
    """sentence-transformers with and without float32 weights, at the fastest of the batches tried; all seconds."""
    import torch

    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        return {}, {}
    found, tried = {}, {}
    kinds = {"": torch.float32} | ({", no float32 weights": torch.bfloat16} if options.dtype == "bfloat16" else {})
    for kind, dtype in kinds.items():
        options_of = {"model_kwargs": {"dtype": dtype}, "config_kwargs": STEADY}
        model = SentenceTransformer(case.folder, device=options.device, **options_of)
        model.max_seq_length = case.length
        seconds = {}
        for batch in dict.fromkeys((case.batch, max(2, case.batch // 4))):
            parts = dataclasses.replace(case, batch=batch, steps=case.batch // batch)
            run = loop(model, parts, options, pairs)
            run() if not seconds else None
            begun = time.process_time()
            run()
            seconds[batch] = (time.process_time() - begun, run)
        best = min(seconds, key=lambda batch: seconds[batch][0])
        found[f"sentence-transformers, no dropout, batches of {best}{kind}"] = Variant(seconds[best][1])
        tried[f"sentence-transformers{kind}"] = {f"batches of {n}": round(s, 2) for n, (s, _) in seconds.items()}
    return found, {"tried": tried}
