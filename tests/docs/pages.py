"""The pages of the documentation as tests read them: links, anchors, blocks of code and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests import ROOT

LOG = ROOT / "docs" / "experiments.md"
"""A log: its commands are those of their time."""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("bash", "console", "sh")
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<!\\)\]\(<?([^)\s>]+)>?\)")
_SPAN = re.compile(r"`([^`]+)`")
_MODULE = re.compile(r"python3? -m (effir_dist|benchmarks)\b")


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    language: str
    text: str


def name(page: Path) -> str:
    """For messages."""
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """The blocks of code of a page, in order."""
    return [Block(*found) for found in _FENCE.findall(page.read_text())]


def python(page: Path) -> list[str]:
    """The Python of a page, a text for each block."""
    return [block.text for block in blocks(page) if block.language == "python"]


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return _FENCE.sub("", page.read_text())


def links(page: Path) -> list[str]:
    """What a page links to, of files and headings of this repository."""
    without_spans = _SPAN.sub("", prose(page))
    return [link for link in _LINK.findall(without_spans) if not re.match(r"\w+:", link)]


def anchors(page: Path) -> set[str]:
    """What a link to a heading of a page may name, as GitHub makes it of the heading's text."""
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        again = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in found)
        found.append(f"{slug}-{again}" if again else slug)
    return {*found}


def commands(page: Path) -> list[str]:
    """The commands in a page's blocks of shell code, one each. Of a console's, what follows its prompt."""
    return [command for block in blocks(page) if block.language in SHELL for command in _commands(block)]


def _commands(block: Block) -> list[str]:
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    found = [_without_comment(line) for line in lines]
    return [part for line in found if line for part in _parts(line)]


def _without_comment(line: str) -> str:
    """A line of shell without its comment, and without the brackets around what may be left out."""
    bare = re.sub(r"(^|\s)#.*$", "", line).strip()
    return re.sub(r"\s\[([^\]=]+)\]", r" \1", bare).removesuffix("...").strip()


def _parts(line: str) -> list[str]:
    """The commands that `&&` joins, outside of quotes."""
    tokens, found = shlex.split(line, posix=False), [""]
    for token in tokens:
        found = [*found, ""] if token == "&&" else [*found[:-1], f"{found[-1]} {token}".strip()]
    return found


def modules_called(command: str) -> list[list[str]]:
    """The Python commands of ours in a command, those within its quotes too: module and arguments of each."""
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z]\w*=\S*", word)]
    if words[:2] in (["python", "-m"], ["python3", "-m"]) and words[2].split(".")[0] in ("effir_dist", "benchmarks"):
        rest = words[3 : words.index(">")] if ">" in words else words[3:]
        return [[words[2], *rest]]
    inner = [part for word in words if _MODULE.search(word) for part in _parts(word)]
    return [called for part in inner for called in modules_called(part)]


def mentioned(page: Path) -> list[str]:
    """Commands of ours that a page's text names with their arguments."""
    spans = (" ".join(span.split()) for span in _SPAN.findall(prose(page)))
    return [span for span in spans if _MODULE.match(span) and " " in span.partition(" -m ")[2]]
