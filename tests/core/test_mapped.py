"""Data that processes share on disk: written by one, and whole or not at all."""

from __future__ import annotations

import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from effir_dist.core import mapped
from effir_dist.core.errors import InputError
from effir_dist.core.mapped import made_once


def text_of(folder: Path) -> str:
    return (folder / "text").read_text()


def test_of_many_at_once_one_writes_and_all_read(tmp_path: Path) -> None:
    everybody, written = threading.Barrier(5), []
    missed = threading.local()

    def read(folder: Path) -> str:
        if not hasattr(missed, "once"):
            missed.once = everybody.wait(60)  # all of them see that nothing is there
        return text_of(folder)

    def write(folder: Path) -> None:
        written.append(folder)
        (folder / "text").write_text("whole")

    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda _: made_once(tmp_path / "made", write, read), range(5)))
    assert (found, len(written)) == (["whole"] * 5, 1)
    assert os.listdir(tmp_path) == ["made"]


def test_what_a_killed_process_left_is_no_part_and_goes(tmp_path: Path) -> None:
    left = tmp_path / f"made{mapped.UNFINISHED}x" / "whole"
    left.mkdir(parents=True)
    (left / "text").write_text("hal")
    (tmp_path / "made.lock").write_text("")

    def broken(folder: Path) -> None:
        (folder / "text").write_text("hal")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        made_once(tmp_path / "made", broken, text_of)
    assert not (tmp_path / "made").exists()
    assert made_once(tmp_path / "made", lambda folder: folder.joinpath("text").write_text("whole"), text_of) == "whole"
    assert os.listdir(tmp_path) == ["made"]


def test_without_locks_the_first_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(mapped.NO_LOCKS[0], "No locks available")

    def write(folder: Path) -> None:
        other = tmp_path / "made"
        other.mkdir()
        for place, text in ((other, "theirs"), (folder, "ours")):
            (place / "text").write_text(text)

    # Another process ends between our look at what is there and our renaming.
    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(mapped.shutil, "rmtree", lambda *_, **__: None)
    assert made_once(tmp_path / "made", write, text_of) == "theirs"


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="cannot write the cache .*made: No space left.*XDG_CACHE_HOME"):
        made_once(tmp_path / "made", full, text_of)
