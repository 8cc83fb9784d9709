"""Shared parts: everything offline, one thread a process, caches in a temporary folder, tiny checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes run beside each other, and start others
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

from tests import needs
from tests.browser import CHROMIUM
from tests.tiny import MODEL_NAMES, tiny_checkpoint, write_collection

LONGEST = (
    *("test_search.py", "test_search_rungs.py", "test_evaluation.py", "test_bucket.py"),
    *("test_old_runs.py", "test_wheel.py"),
)
"""Files that take minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of GPUs skip themselves where there is none; the longest files come first, since a file is one process's
    and one that begins last keeps the other waiting."""
    import torch

    items.sort(key=lambda item: item.path.name not in LONGEST)
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("browser") and not CHROMIUM.exists():
        needs.lacking(f"needs {CHROMIUM} (Debian: apt install chromium)")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny checkpoint of every family, and of its variants."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: tiny_checkpoint(folder, name) for name in MODEL_NAMES}


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BEIR-format folder with the splits train, dev and test."""
    return write_collection(tmp_path_factory.mktemp("data") / "toy", documents=60, queries=36)
