"""What is measured on a GPU, in order of worth: however early the time is up, the most telling figures are there."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from benchmarks.speed.frame import Cases, Options

ORDER = (
    "training: minilm",
    "encoding: qwen3-0.6b",
    "side_by_side: minilm",
    "training: qwen3-0.6b",
    "pruned: qwen3-0.6b",
    "memory: minilm, 8192 pairs in chunks",
    "training: smollm2",
    "memory: qwen3-0.6b, one process",
    "side_by_side: smollm2",
    "encoding: minilm",
    "pruned: llama-3.2-1b",
    "training: qwen3-0.6b, LoRA",
    "encoding: smollm2",
    "trials: warm",
    "training: minilm, 8192 pairs in chunks",
    "memory: qwen3-0.6b, ZeRO 3",
    "training: qwen3-0.6b, ZeRO 3",
    "memory: qwen3-0.6b, LoRA",
    "search: in memory",
    "exactness: pydocs",
    "training: minilm, large batch",
    "memory: qwen3-0.6b, chunks",
    "memory: qwen3-0.6b, checkpointing",
    "training: qwen3-0.6b, ZeRO 2",
    "memory: qwen3-0.6b, ZeRO 2",
    "memory: minilm",
    "sizes: qwen2.5-1.5b",
    "sizes: minilm",
    "sizes: bert-base",
    "memory: qwen3-0.6b, LoRA and more",
    "search: on disk",
    "exactness: more",
)
"""`subject: case`. The first case of every subject that is worth the most comes before the second of any other."""


def keys(subjects: Sequence[str]) -> list[str]:
    """The cases of these subjects, in order of worth."""
    return [key for key in ORDER if split(key)[0] in subjects]


def split(key: str) -> tuple[str, str]:
    """`subject: case` in two."""
    subject, _, name = key.partition(": ")
    return subject, name


def cases(subject: str, options: Options) -> Cases:
    """What a subject has for a GPU."""
    found: Cases = importlib.import_module(f"benchmarks.speed.{subject}").gpu_cases(options)
    return found
