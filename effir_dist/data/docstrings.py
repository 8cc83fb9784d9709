"""Docstrings as pairs of a query and a passage: which docstrings of a module make a sensible one."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

QUERY_WORDS = (3, 48)
PROSE_WORDS = 8
"""Words of running text that a passage needs, so that it is more than a list of parameters."""
ILLUSTRATED_WORDS = 40
"""Words of any kind that a passage with examples or notes needs instead."""

_LISTING = re.compile(
    r"(?i)((keyword |other )?(args|arguments|param(eter)?s)|attributes|methods|inputs?|outputs?|shape|returns?|yields?"
    r"|raises?|warns|see also|references|usage)\s*:*$"
)
_RUNNING = re.compile(r"(?i)(notes?|warnings?|explanation|description|details)\s*:*$")
_EXAMPLES = re.compile(r"(?i)examples?\s*:*$")
_ILLUSTRATED = re.compile(r"(?im)^\s*(examples?|notes?|see also|warnings?)\s*:*\s*$")
_MARKUP = re.compile(r"(:(param|type|returns?|rtype|raises|arg|keyword|meta|i?var)\b|@param|@return|>>>|\.\.\. |\.\. )")
_RULE = re.compile(r"\s*([-=~^*#\"'`+])\1{2,}\s*$")
_BLANK = re.compile(r"\n[ \t]*(?=\n)")
_TEMPLATE = re.compile(r"%\(\w+\)s")
_WORD = re.compile(r"[A-Za-z]{2,}")
_LETTER = re.compile(r"[^\W\d_]")
_NO_QUERY = re.compile(r"(?i)(\.\. |>>>|[:@*-]|(args|arguments|parameters|examples?|authors?|usage|todo)\b)")
_LEGAL = re.compile(r"(?i)copyright|licen[sc]ed? |all rights reserved|spdx-")
_DEPRECATED = re.compile(r"(?i)deprecat")


@dataclass(frozen=True)
class Pair:
    """A docstring in two parts. name: the dotted name of what it describes."""

    name: str
    query: str
    passage: str


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    """The cleaned docstring if it has two paragraphs, else None: to clean the others would take seconds."""
    raw = ast.get_docstring(node, clean=False)
    if raw is None or not _BLANK.search(raw):
        return None
    return _BLANK.sub("\n", inspect.cleandoc(raw))


def docstrings(node: ast.stmt | ast.Module, prefix: str) -> Iterator[tuple[str, str]]:
    """(dotted name, docstring) of `node` and what it defines, in source order, without functions within functions."""
    name = prefix
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        name = prefix if isinstance(node, ast.Module) else f"{prefix}.{node.name}"
        text = _docstring(node)
        if text:
            yield name, text
    if isinstance(node, ast.Module | ast.ClassDef | ast.If | ast.Try):
        for child in node.body:
            yield from docstrings(child, name)


def _prose_words(lines: list[str]) -> int:
    """Number of words outside lists of parameters, examples, directives and rules."""
    count, running = 0, True
    for line in lines:
        text = line.strip()
        if _LISTING.match(text) or _EXAMPLES.match(text):
            running = False
        elif _RUNNING.match(text):
            running = True
        elif running and not _MARKUP.match(text):
            count += len(_WORD.findall(text))
    return count


def _flat(lines: list[str]) -> str:
    text = " ".join(line for line in lines if not _RULE.match(line))
    return " ".join(_TEMPLATE.sub(" ", text).split())


def _is_query(text: str) -> bool:
    words = len(_WORD.findall(text))
    plain = len(_LETTER.findall(text)) >= 0.7 * len(text.replace(" ", ""))
    unwanted = _NO_QUERY.match(text) or _LEGAL.search(text) or _DEPRECATED.search(text)
    return (
        plain
        and words >= QUERY_WORDS[0]
        and len(text.split()) <= QUERY_WORDS[1]
        and not (unwanted or text.endswith(":"))
    )


def _is_passage(rest: str, passage: str, query: str) -> bool:
    if rest.startswith(".. deprecated") or _LEGAL.search(passage) or query.casefold() in passage.casefold():
        return False
    if _prose_words(rest.splitlines()) >= PROSE_WORDS:
        return True
    return len(_WORD.findall(passage)) >= ILLUSTRATED_WORDS and _ILLUSTRATED.search(rest) is not None


def pair(name: str, docstring: str) -> Pair | None:
    """A cleaned docstring as query and passage, or None where it is no sensible pair."""
    first, _, rest = docstring.partition("\n\n")
    if not rest or any(p.startswith("__") for p in name.split(".")):
        return None
    query, passage = _flat(first.splitlines()), _flat(rest.splitlines())
    if not _is_query(query) or not _is_passage(rest.strip(), passage, query):
        return None
    return Pair(name, query, passage)
