"""Which queries of which data set train, steer the search, and test what it found: no text has two of these roles.

A query that is in several keeps the first of: test, search, training. It is known by its text (`normalised`), whatever
its id and its data set. Held-out data is not read before its turn, so there it is the other way round: its queries that
trained or steered are not scored.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from effir_dist.core.errors import InputError
from effir_dist.core.model_settings import LIMITS
from effir_dist.core.settings import DataConfig
from effir_dist.data import beir
from effir_dist.data.sets import Collection, Split, collection, dataset_name, load_collection, read_split, resolve
from effir_dist.data.texts import Texts
from effir_dist.runs.sizes import text

SYMBOLS = "#%&*/@\\_"
"""Punctuation to Unicode, and a part of words: `C#` is not `C`."""


@dataclass(frozen=True)
class LeftOut:
    """Queries of a data set that lost a role, as their text has another."""

    dataset: str
    role: str
    """What they would have been: `training`, `search` or `held-out`."""
    other: str
    """What their text is: `test`, `search` or `training`."""
    queries: int

    def __str__(self) -> str:
        queries = "query" if self.queries == 1 else "queries"
        return f"{self.dataset}: {self.queries} {self.role} {queries} left out, as the text is a {self.other} query too"


@dataclass(frozen=True)
class Part:
    """The queries of a split that have a role."""

    split: Split
    queries: list[str]
    """Their ids, in the order of the qrels."""
    label: str
    """What the queries are called in results."""
    left_out: tuple[LeftOut, ...] = ()


def normalised(text: str) -> str:
    """A text as two queries are compared by: NFKC, case folded, white space collapsed, no punctuation at the ends.

    A text of nothing but punctuation stays. `SYMBOLS` are no punctuation here.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = " ".join(unicodedata.normalize("NFKC", folded).split())
    first, last = 0, len(words)
    while first < last and _ends(words[first]):
        first += 1
    while last > first and _ends(words[last - 1]):
        last -= 1
    return words[first:last] or words


def _ends(character: str) -> bool:
    return character == " " or (unicodedata.category(character)[0] == "P" and character not in SYMBOLS)


def texts_of(split: Split, queries: Iterable[str]) -> set[str]:
    """The normalised texts of these queries."""
    return {normalised(split.queries[query]) for query in queries}


def positives_by_text(split: Split) -> dict[str, set[str]]:
    """Normalised text of a query -> ids of all documents relevant to a query with that text, whatever its id."""
    found: dict[str, set[str]] = {}
    for query, grades in split.qrels.items():
        found.setdefault(normalised(split.queries[query]), set()).update(d for d, grade in grades.items() if grade > 0)
    return found


def described(data: DataConfig) -> str:
    """Such as `scifact, nfcorpus (trained on msmarco)`: what scores the search, and what trains where that differs."""
    scored, trained = (", ".join(map(dataset_name, paths)) for paths in (data.paths, data.trained))
    return scored if data.trained == data.paths else f"{scored} (trained on {trained or 'nothing'})"


def has_search_split(folder: Path, data: DataConfig) -> bool:
    """Whether a split of its own steers the search; else a share of the training queries does."""
    return data.search_split != data.train_split and data.search_split in beir.splits(folder)


def search_part(path: str, data: DataConfig, seed: int) -> Part:
    """What evaluates the trials of a data set in `data.paths`. Raises InputError where nothing is left."""
    return _search_part(path, _plain(data), seed, _signatures(data.paths))


def train_part(path: str, data: DataConfig, seed: int) -> Part:
    """What a data set of `data.trained` trains on, before `max_train_pairs`. One of `data.paths` without such a split
    has no queries; of `data.train_paths` it raises InputError."""
    return _train_part(path, _plain(data), seed, _signatures((*data.trained, *data.paths)))


def left_out(data: DataConfig, seed: int) -> list[LeftOut]:
    """How many queries lost a role to another, in all data sets but those that are held out."""
    parts = [search_part(path, data, seed) for path in data.paths]
    parts += [train_part(path, data, seed) for path in data.trained]
    return [each for part in parts for each in part.left_out]


def _signatures(paths: Iterable[str]) -> tuple[object, ...]:
    return tuple(beir.signature(resolve(path)) for path in paths)


def _plain(data: DataConfig) -> DataConfig:
    """Without what does not say who has which role: samples and held-out data."""
    return dataclasses.replace(data, held_out=(), **dict.fromkeys(LIMITS, 0))  # type: ignore[arg-type]


@functools.lru_cache(maxsize=4 * beir.CORPORA_KEPT)
def _split_texts(path: str, split: str, _signature: tuple[object, ...]) -> frozenset[str]:
    """The normalised texts of a split's judged queries; none where there is no such split."""
    folder = resolve(path)
    if split not in beir.splits(folder):
        return frozenset()
    file = beir.require_split(folder, split)
    queries = beir.read_queries(file.parent.parent / "queries.jsonl")
    return frozenset(normalised(queries[q]) for q in beir.read_qrels(file) if q in queries)


def _texts_in(data: DataConfig, split: str) -> set[str]:
    """The texts of a split's queries in all scored data sets. The training split is none that scores."""
    if split in ("", data.train_split):
        return set()
    return {t for path in data.paths for t in _split_texts(path, split, beir.signature(resolve(path)))}


@functools.lru_cache(maxsize=beir.CORPORA_KEPT)
def _search_part(path: str, data: DataConfig, seed: int, _signature: tuple[object, ...]) -> Part:
    folder, tested = resolve(path), _texts_in(data, data.test_split)
    if not has_search_split(folder, data):
        return _share_of_training(path, data, seed, tested | _texts_in(data, data.search_split))
    split = read_split(folder, data.search_split)
    queries = [q for q in split.qrels if normalised(split.queries[q]) not in tested]
    if not queries:
        raise InputError(
            f"{folder}: the text of every query of {data.search_split!r} is also a query of {data.test_split!r}, so "
            "none is left to evaluate the trials; take other queries for one of them"
        )
    gone = len(split.qrels) - len(queries)
    lost = (LeftOut(dataset_name(path), "search", "test", gone),) if gone else ()
    return Part(split, queries, data.search_split, lost)


def _share_of_training(path: str, data: DataConfig, seed: int, scored: set[str]) -> Part:
    folder = resolve(path)
    if data.train_split not in beir.splits(folder):
        beir.require_split(folder, data.search_split)
    split = read_split(folder, data.train_split)
    texts = {q: normalised(split.queries[q]) for q in split.qrels}
    chosen = set_aside({q: t for q, t in texts.items() if t not in scored}, data.search_share, seed)
    if not chosen:
        raise InputError(
            f"{folder}: every query of {data.train_split!r} is also in {data.test_split!r}, so none is left to "
            f"evaluate the trials; add a split {data.search_split!r} or take the test queries out of the training split"
        )
    return Part(split, [q for q in split.qrels if q in chosen], f"{data.train_split} (held out)")


def set_aside(texts: Mapping[str, str], share: float, seed: int) -> set[str]:
    """A share of queries (id -> normalised text), at least one: all ids of a text or none. It does not depend on their
    order."""
    ids: dict[str, list[str]] = {}
    for query, asked in texts.items():
        ids.setdefault(asked, []).append(query)
    by_hash = sorted(ids.values(), key=lambda group: hashlib.sha256(f"{seed}\0{min(group)}".encode()).digest())
    return {query for group in by_hash[: max(1, round(share * len(by_hash)))] for query in group}


@functools.lru_cache(maxsize=beir.CORPORA_KEPT)
def _train_part(path: str, data: DataConfig, seed: int, _signature: tuple[object, ...]) -> Part:
    folder = resolve(path)
    if data.train_split not in beir.splits(folder) and path not in data.train_paths:
        return Part(Split(folder, data.train_split, Texts.of({}), Texts.of({}), {}, []), [], data.train_split)
    split, tested = read_split(folder, data.train_split), _texts_in(data, data.test_split)
    steering = {other: search_part(other, data, seed) for other in data.paths}
    searched = _texts_in(data, data.search_split).union(*(texts_of(p.split, p.queries) for p in steering.values()))
    aside = steering.get(path)
    own = set() if aside is None or has_search_split(folder, data) else set(aside.queries)
    kept, gone = list[str](), {"test": 0, "search": 0}
    for query in (q for q in split.qrels if q not in own):
        asked = normalised(split.queries[query])
        if asked in tested:
            gone["test"] += 1
        elif asked in searched:
            gone["search"] += 1
        else:
            kept.append(query)
    lost = (LeftOut(dataset_name(path), "training", other, count) for other, count in gone.items() if count)
    return Part(split, kept, data.train_split, tuple(lost))


def search_collection(path: str, data: DataConfig, seed: int) -> Collection:
    """What evaluates the trials: `data.search_split`, or a share of the training queries over their corpus.

    Do not change it: it is shared.
    """
    return _search_collection(path, data, seed, _signatures(data.paths))


@functools.lru_cache(maxsize=beir.CORPORA_KEPT)
def _search_collection(path: str, data: DataConfig, seed: int, _signature: tuple[object, ...]) -> Collection:
    part = search_part(path, data, seed)
    return collection(path, part.split, part.queries, part.label, (data.max_queries, data.max_documents), seed)


def searched_text(data: DataConfig, seed: int) -> str:
    """What a trial's scores are of, as `sizes.text`."""
    collections = (search_collection(path, data, seed) for path in data.paths)
    return text({each.name: each.size} for each in collections)


def test_collection(path: str, data: DataConfig, seed: int) -> Collection:
    """What evaluates the finished front: `data.test_split`, whole but for `data.max_test_queries` and
    `data.max_test_documents`."""
    return load_collection(path, data.test_split, data.max_test_queries, data.max_test_documents, seed)


test_collection.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it where it is imported


def held_out_collection(path: str, data: DataConfig, seed: int) -> tuple[Collection, LeftOut | None]:
    """What evaluates the finished front on a held-out data set, and how many queries are not scored, since their text
    trained or steered. Raises InputError where none is left."""
    # Comparisons in which nothing is selected have no test split; the held-out data sets' is then the usual one.
    split = read_split(resolve(path), data.test_split or DataConfig.test_split)
    parts = [train_part(each, data, seed) for each in data.trained]
    parts += [search_part(each, data, seed) for each in data.paths]
    seen = {asked for part in parts for asked in texts_of(part.split, part.queries)}
    queries = [q for q in split.qrels if normalised(split.queries[q]) not in seen]
    if not queries:
        raise InputError(f"the text of every query of the held-out {path} trained or steered the search; none is left")
    limits = (data.max_held_out_queries, data.max_held_out_documents)
    gone = len(split.qrels) - len(queries)
    lost = LeftOut(dataset_name(path), "held-out", "training or search", gone) if gone else None
    return collection(path, split, queries, split.name, limits, seed), lost
