"""Prose for terminals, and for files."""

from __future__ import annotations

import io

import pytest

from effir_dist.core.errors import InputError, command
from effir_dist.core.wrapping import for_screen

LONG = f"error: {'of several words ' * 9}and a path {'/folder' * 15}"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_lines_of_its_width_and_a_file_whole_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = for_screen(LONG, Terminal()).splitlines()
    assert max(len(line) for line in lines if "/folder" not in line) <= 60
    assert f"  {'/folder' * 15}" in lines, "a path stays whole"
    assert " ".join(" ".join(lines).split()) == LONG, "no word is lost"
    assert for_screen(LONG, io.StringIO()) == LONG


def test_an_error_is_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    @command
    def fails() -> None:
        raise InputError("of several words " * 9)

    monkeypatch.setenv("COLUMNS", "60")
    for screen, count in ((Terminal(), 3), (io.StringIO(), 1)):
        monkeypatch.setattr("sys.stderr", screen)
        with pytest.raises(SystemExit):
            fails()
        assert len(screen.getvalue().splitlines()) == count
