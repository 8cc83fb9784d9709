"""Prose for a terminal: lines of a width at most, broken between words."""

from __future__ import annotations

import textwrap

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
