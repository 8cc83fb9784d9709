"""Prose for a terminal: lines of a width at most, broken between words."""

from __future__ import annotations

import shutil
import textwrap
from typing import IO

WIDTH = 80
"""Columns of a terminal that nobody widened."""


def wrapped(text: str, width: int = WIDTH, indent: str = "") -> str:
    """`text` in lines of at most `width` columns; `indent` begins those that were broken off. Words, such as paths,
    stay whole."""
    lines = (
        textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    )
    return "\n".join(lines)


def for_screen(text: str, screen: IO[str]) -> str:
    """`text` wrapped where `screen` is a terminal; in a file every line stays one."""
    return wrapped(text, shutil.get_terminal_size((WIDTH, 24)).columns, "  ") if screen.isatty() else text
