"""The built-in data set: docstrings of installed packages. The first paragraph is a query, the rest its one passage.

Packages are found and parsed, never imported. It is built once for each set of versions, in the user's cache folder.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import gc
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from effir_dist.core.errors import InputError
from effir_dist.core.mapped import cache_root
from effir_dist.data.docstrings import Pair, docstrings, pair

FORMAT = 1
"""Raised whenever the same packages would give other bytes."""

# Evaluated splits come first: of two equal docstrings the first stays, so none of theirs is trained on.
PACKAGES: dict[str, tuple[str, ...]] = {
    "test": ("pandas", "scikit-learn"),
    "dev": ("scipy", "numpy"),
    "train": ("torch", "ray", "transformers", "sympy", "networkx"),
}
MODULES = {"scikit-learn": "sklearn"}

SKIPPED_FOLDERS = {
    *("tests", "test", "testing", "_testing"),
    *("_vendor", "_vendored", "externals", "third_party", "thirdparty", "thirdparty_files", "generated"),
}
# A third of all source for little: boilerplate of each model, internals of a compiler, other projects' code.
SKIPPED_TREES = {"transformers/models", "torch/_inductor", "torch/_dynamo", "scipy/_lib"}


def _missing(distribution: str) -> InputError:
    return InputError(
        f"the built-in data set 'pydocs' reads the docstrings of {distribution!r}, which is not installed: "
        f"pip install {distribution}"
    )


def versions() -> dict[str, str]:
    """Distribution -> installed version. Raises InputError for one that is not installed."""
    found, installed = {}, tuple((path, _changed(path)) for path in sys.path)
    for distribution in sorted(name for names in PACKAGES.values() for name in names):
        try:
            found[distribution] = _version(distribution, installed)
        except importlib.metadata.PackageNotFoundError:
            raise _missing(distribution) from None
    return found


@functools.lru_cache
def _version(distribution: str, _installed: tuple[tuple[str, int], ...]) -> str:
    return importlib.metadata.version(distribution)


def _changed(folder: str) -> int:
    """When a package was last installed in a folder or removed: the folder's own time, 0 where there is none."""
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


def _package_folder(distribution: str) -> Path:
    spec = importlib.util.find_spec(MODULES.get(distribution, distribution))
    if spec is None or not spec.submodule_search_locations:
        raise _missing(distribution)
    return Path(next(iter(spec.submodule_search_locations)))


def _source_files(root: Path) -> Iterator[tuple[str, Path]]:
    """(path relative to the folder that holds the package, file) of each module, sorted."""
    for folder, subfolders, names in os.walk(root):
        base = f"{root.name}/{Path(folder).relative_to(root).as_posix()}".removesuffix("/.")
        kept = (s for s in subfolders if s not in SKIPPED_FOLDERS and f"{base}/{s}" not in SKIPPED_TREES)
        subfolders[:] = sorted(kept)
        yield from ((f"{base}/{name}", Path(folder, name)) for name in sorted(names) if name.endswith(".py"))


def _parse(file: Path) -> ast.Module | None:
    source = file.read_bytes()
    if b'"""' not in source and b"'''" not in source:
        return None
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return None  # templates, and files for other versions of Python


def _pairs(distributions: tuple[str, ...]) -> Iterator[Pair]:
    for distribution in distributions:
        for path, file in _source_files(_package_folder(distribution)):
            tree = _parse(file)
            module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            for name, text in docstrings(tree, module) if tree else ():
                found = pair(name, text)
                if found:
                    yield found


def _unique(pairs: Iterator[Pair], seen: set[str]) -> list[Pair]:
    """The pairs whose query and passage are both new. Overloads of one name get a number."""
    kept, names = [], Counter[str]()
    for found in pairs:
        keys = {f"q {found.query.casefold()}", f"p {found.passage.casefold()}"}
        if keys & seen:
            continue
        seen |= keys
        names[found.name] += 1
        count = names[found.name]
        kept.append(Pair(f"{found.name}#{count}" if count > 1 else found.name, found.query, found.passage))
    return kept


def _write(folder: Path, split: str, pairs: list[Pair]) -> None:
    (folder / "qrels").mkdir(parents=True)
    # Ids of queries and documents differ, as beir by default leaves out a document with the query's own id.
    documents = [{"_id": f"d:{p.name}", "title": "", "text": p.passage} for p in pairs]
    queries = [{"_id": f"q:{p.name}", "text": p.query} for p in pairs]
    for file, records in (("corpus.jsonl", documents), ("queries.jsonl", queries)):
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / file).write_bytes(text.encode("utf-8", "backslashreplace"))
    rows = ["query-id\tcorpus-id\tscore", *(f"q:{p.name}\td:{p.name}\t1" for p in pairs)]
    (folder / "qrels" / f"{split}.tsv").write_bytes(("\n".join(rows) + "\n").encode())


@contextlib.contextmanager
def _quick_and_quiet() -> Iterator[None]:
    """Without garbage collection, which finds no cycles in syntax trees and doubles the time, and without warnings of
    odd escapes in source."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if enabled:
            gc.enable()


def build(target: Path) -> None:
    """Write the data set into the empty or new folder `target`: SPLIT/corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv."""
    seen: set[str] = set()
    with _quick_and_quiet():
        for split, distributions in PACKAGES.items():
            _write(target / split, split, _unique(_pairs(distributions), seen))


def built_folder() -> Path:
    """The folder of the data set for the installed versions, built or not. Raises InputError for a missing package."""
    key = repr((FORMAT, sys.version_info[:2], PACKAGES, versions()))
    return cache_root() / f"pydocs-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def folder() -> Path:
    """The folder of the data set for the installed versions. It is built first where it is missing (about 20 s).

    Raises InputError where a package is missing or the cache folder cannot be written.
    """
    target = built_folder()
    if target.is_dir():
        return target
    print("building the data set pydocs from installed packages (once)", file=sys.stderr)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="pydocs-building-") as temporary:
            build(Path(temporary, "data"))
            _publish(Path(temporary, "data"), target)
    except OSError as error:
        reason = f"cannot build the data set 'pydocs' in {target}: {error.strerror}"
        raise InputError(f"{reason}; set XDG_CACHE_HOME to a folder with 100 MB of room") from None
    return target


def _publish(built: Path, target: Path) -> None:
    """Rename `built` to `target`. Where another process was first, its equal result stays."""
    try:
        os.rename(built, target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(built)


def main(argv: list[str] | None = None) -> None:
    """Build the data set if it is missing, and print where it is and how many pairs it has."""
    argparse.ArgumentParser(prog="python -m effir_dist.pydocs", description=main.__doc__).parse_args(argv)
    place = folder()
    counts = {split: sum(1 for _ in (place / split / "queries.jsonl").open("rb")) for split in PACKAGES}
    print(f"{place}: pairs {', '.join(f'{split} {count:,}' for split, count in counts.items())}")
