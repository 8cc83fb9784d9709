"""Data sets by name, and the folders that they become: what is a name, where it is kept, how it gets there."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from effir_dist.core.errors import InputError
from effir_dist.core.mapped import cache_root, made_once
from effir_dist.core.values import Json
from effir_dist.data.named import beir_sets, hub_sets, mteb_tasks
from effir_dist.data.named.download import Unreachable

EXAMPLES = "a name such as beir:scifact, hf:BeIR/nfcorpus or mteb:NFCorpus"
FILES = "corpus.jsonl, queries.jsonl and qrels/"


class Provider(Protocol):
    """Where data sets of a kind come from: a module."""

    def check_name(self, name: str) -> None: ...
    def label(self, name: str) -> str: ...
    def origin(self, name: str) -> str: ...
    def root(self, name: str, cache: Path) -> Path: ...
    def check_reachable(self, name: str) -> None: ...
    def write(self, name: str, empty: Path, target: Path) -> None: ...


PROVIDERS: dict[str, Provider] = {"beir": beir_sets, "hf": hub_sets, "mteb": mteb_tasks}


@dataclass(frozen=True)
class Named:
    """A name that was checked. own: without its prefix."""

    prefix: str
    own: str

    @property
    def provider(self) -> Provider:
        return PROVIDERS[self.prefix]

    @property
    def root(self) -> Path:
        """The folder that is made at once."""
        return self.provider.root(self.own, cache())

    @property
    def folder(self) -> Path:
        """The data set's folder, made or not."""
        return self.root / beir_sets.part_of(self.own) if self.prefix == "beir" else self.root

    def __str__(self) -> str:
        return f"{self.prefix}:{self.own}"


def cache() -> Path:
    """Where named data sets are kept."""
    return cache_root() / "datasets"


def is_name(path: str) -> bool:
    """Whether a data path is a name and no folder."""
    return path.partition(":")[0] in PROVIDERS and ":" in path


def parse(path: str) -> Named:
    """A name that its provider may have. Raises InputError for others."""
    prefix, _, own = path.partition(":")
    PROVIDERS[prefix].check_name(own)
    return Named(prefix, own)


def expanded(paths: Iterable[str]) -> tuple[str, ...]:
    """Data paths; a name of several data sets (beir:cqadupstack) becomes all of them. Raises InputError for others."""
    found: list[str] = []
    for path in paths:
        named = parse(path) if is_name(path) else None
        found += beir_sets.expanded(named.own) if named and named.prefix == "beir" else [path]
    return tuple(found)


def label(path: str) -> str:
    """What results call a named data set."""
    named = parse(path)
    return named.provider.label(named.own)


def is_here(path: str) -> bool:
    """Whether a named data set is in this machine's cache."""
    return _is_whole(parse(path).folder)


def _is_whole(folder: Path) -> bool:
    return (folder / "corpus.jsonl").is_file() or any(folder.glob("*/corpus.jsonl"))


def plan(path: str) -> str:
    """What is done for a named data set that is not here, in words."""
    named = parse(path)
    return f"{named} is fetched from {named.provider.origin(named.own)} into {named.root}"


def plans(paths: Iterable[str]) -> list[str]:
    """`plan` of the names among data paths that are not here; sets of one download once."""
    missing = [path for path in paths if is_name(path) and not is_here(path)]
    together = dict[Path, list[str]]()
    for path in missing:
        together.setdefault(parse(path).root, []).append(path)
    return [plan(each[0]) + (f", with {len(each) - 1} more" if each[1:] else "") for each in together.values()]


def folder(path: str) -> Path:
    """The BEIR-format folder of a named data set. It is fetched first where it is not in the cache, by one process.

    Raises InputError for an unknown name, for what cannot be fetched or is damaged, and for a cache without room.
    """
    named = parse(path)
    if not _is_whole(named.folder):
        _make(named)
    return named.folder


def remove(path: str) -> Path:
    """Remove this machine's copy of a named data set; returns where it was."""
    root = parse(path).root
    shutil.rmtree(root)
    return root


def _make(named: Named) -> None:
    _check_alone(named)
    try:
        made_once(named.root, lambda empty: named.provider.write(named.own, empty, named.root), lambda _: _read(named))
    except Unreachable as reason:
        raise InputError(
            f"{named} is not in the cache and cannot be fetched from {named.provider.origin(named.own)} ({reason}); "
            f"{_by_hand(named)}"
        ) from None
    beir_sets.remove_download(named.root)


def _read(named: Named) -> bool:
    if not _is_whole(named.folder):
        raise FileNotFoundError(named.folder)
    return True


def _by_hand(named: Named) -> str:
    files = f"put its {FILES} into {named.folder}"
    also = {"beir": f", or {named.root.name}.zip into {named.root.parent}", "hf": ", or pass --train-data FILE.parquet"}
    return files + also.get(named.prefix, "")


def _check_alone(named: Named) -> None:
    """What a user put into the folder is not replaced. Raises InputError where that is not whole."""
    if named.root.is_dir() and not _is_whole(named.folder):
        raise InputError(
            f"{named.folder} has no corpus.jsonl; complete it ({FILES}), or remove {named.root} and it is fetched"
        )


def check_reachable(path: str) -> str:
    """Of a data set that is not here: that it can be fetched, in words. Raises InputError where it cannot."""
    named = parse(path)
    try:
        named.provider.check_reachable(named.own)
    except Unreachable as reason:
        raise InputError(f"{plan(path)}, which does not answer ({reason}); {_by_hand(named)}") from None
    return f"{plan(path)} before a trial"


def source_of(path: str) -> Json:
    """What a folder's maker noted of where it is from; empty where a user put it there."""
    from effir_dist.core.files import read_json

    file = parse(path).root / "source.json"
    return read_json(file) if file.is_file() else {}
