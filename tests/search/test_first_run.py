"""What a first search prints is what `first_run_*.txt` has."""

from __future__ import annotations

import pytest

from tests.search.first_run import ORDERS, golden, printed

COPIED = ("Export", "wrote")
"""How lines begin that hold a command or a path, which stay whole."""


@pytest.mark.parametrize("order", ORDERS)
def test_it_reads_as_it_should_and_fits_80_columns(order: str) -> None:
    text = printed(order)
    again = "if this is what it should say: python -m tests.search.first_run"
    assert text.splitlines() == golden(order).read_text().splitlines(), again
    assert max(len(line) for line in text.splitlines() if not line.strip().startswith(COPIED)) <= 80
    assert "\x1b" not in text
