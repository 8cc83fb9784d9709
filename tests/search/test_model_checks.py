"""A model's checks, in a process of their own: once for the same files and texts, and ended where another one fails."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import pytest

from effir_dist.core.errors import InputError
from effir_dist.models import pretrained
from effir_dist.search import model_checks
from effir_dist.search.model_checks import checks_of

TEXTS = ["some words", "and more of them"]


@pytest.fixture(autouse=True)
def _as_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch, and with an empty cache."""
    monkeypatch.setattr(model_checks, "has_torch", lambda: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_what_passed_is_not_looked_at_again(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(shutil.copytree(checkpoints["bert"], tmp_path / "model"))
    source = pretrained.find(str(model))
    with checks_of([source]) as models:
        assert models.warnings(TEXTS) == []
    monkeypatch.setattr(model_checks, "ProcessPoolExecutor", None)
    with checks_of([source]) as models:
        assert models.warnings(TEXTS) == []
    (model / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(TypeError, match="not callable"), checks_of([source]):
        pass


def test_an_error_of_other_checks_ends_the_process(checkpoints: dict[str, Path]) -> None:
    before, source = set(multiprocessing.active_children()), pretrained.find(str(checkpoints["bert"]))

    def failing() -> None:
        with checks_of([source]):
            assert set(multiprocessing.active_children()) > before
            raise InputError("of the data")

    with pytest.raises(InputError, match="of the data"):
        failing()
    assert set(multiprocessing.active_children()) <= before


def test_a_process_that_is_killed_is_one_sentence(checkpoints: dict[str, Path]) -> None:
    before, source = set(multiprocessing.active_children()), pretrained.find(str(checkpoints["bert"]))

    def killed() -> None:
        with checks_of([source]) as models:
            for process in set(multiprocessing.active_children()) - before:
                process.kill()
            models.warnings(TEXTS)

    with pytest.raises(InputError, match="was killed: is memory short"):
        killed()
