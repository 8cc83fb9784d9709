"""Training pairs of the data sets with their hard negatives, and all checks of data that a search makes."""

from __future__ import annotations

import functools
import itertools
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effir_dist.core.errors import InputError
from effir_dist.core.settings import DataConfig
from effir_dist.core.strings import Ragged, Strings, joined, picked
from effir_dist.data import beir
from effir_dist.data.roles import left_out, normalised, positives_by_text, search_part, train_part
from effir_dist.data.sets import Split, dataset_name, ignores_identical_ids, read_split, resolve, sample
from effir_dist.data.texts import Texts


@dataclass(frozen=True)
class TrainingPairs:
    """Queries, a relevant document for each, its hard negatives and a teacher's scores: columns of equal length.

    Of corpora in memory maps they are rows and numbers: a text is decoded when it is asked for.
    """

    queries: Sequence[str]
    positives: Sequence[str]
    negatives: Sequence[Sequence[str]]
    scores: Sequence[Sequence[float]]
    """Of the positive and then of the negatives; NaN where the teacher has none."""
    answers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Query -> every known relevant document, those too whose pair `data.max_train_pairs` left out: no negatives."""


class _Known(NamedTuple):
    """Hard negatives of a query."""

    rows: array[int]
    """Places in the corpus."""
    scores: array[float]
    """A teacher's, NaN where it has none."""


NONE = _Known(array("q"), array("d"))


@dataclass(frozen=True)
class _Hard:
    """The content of `negatives/SPLIT.jsonl`; empty where there is no such file."""

    file: Path
    negatives: dict[str, _Known]
    """By query id."""
    positives: dict[tuple[str, str], float]
    """(Query id, document id) -> a teacher's score."""
    warnings: list[str]

    def of(self, query: str) -> _Known:
        return self.negatives.get(query, NONE)

    def scores(self, query: str, positive: str) -> list[float]:
        """The scores of a query's positive and of its negatives."""
        return [self.positives.get((query, positive), math.nan), *self.of(query).scores]


@dataclass(frozen=True)
class _Part:
    """The pairs of one data set: ids of queries and documents."""

    split: Split
    known: list[tuple[str, str]]
    """All of them."""
    pairs: list[tuple[str, str]]
    """Those that are trained on."""
    hard: _Hard


def _negatives(train: Split) -> _Hard:
    """The hard negatives of a split. Raises InputError where a negative is a positive too."""
    file = train.folder / "negatives" / f"{train.name}.jsonl"
    negatives: dict[str, _Known] = {}
    positives: dict[tuple[str, str], float] = {}
    missing: set[str] = set()
    lines = beir.read_negatives(file) if file.is_file() else ()
    answers = positives_by_text(train) if lines else {}
    for line in lines:
        _check_negatives(line, train)
        # What answers the same text under another id is no negative either.
        known = answers.get(normalised(train.queries.get(line.query, "")), set())
        found = negatives.setdefault(line.query, _Known(array("q"), array("d")))
        for document in line.negatives:
            row = train.documents.find(document)
            if row is None:
                missing.add(document)
            elif document not in known:
                found.rows.append(row)
                found.scores.append(line.scores.get(document, math.nan))
        positives.update(((line.query, d), line.scores[d]) for d in line.positives if d in line.scores)
    warning = f"{file} names {len(missing)} documents that are not in corpus.jsonl; left out"
    return _Hard(file, negatives, positives, [warning] if missing else [])


def _check_negatives(line: beir.Negatives, train: Split) -> None:
    positives = {d for d, grade in train.qrels.get(line.query, {}).items() if grade > 0}.union(line.positives)
    wrong = [d for d in line.negatives if d in positives]
    if wrong:
        raise InputError(f"{line.where}: {wrong[0]!r} is both negative and positive of query {line.query!r}; drop one")


def _training_part(path: str, data: DataConfig, seed: int, need_scores: bool = False) -> _Part:
    part = train_part(path, data, seed)
    known = [(q, d) for q in part.queries for d, grade in part.split.qrels[q].items() if grade > 0]
    found = _Part(part.split, known, sample(known, data.max_train_pairs, seed), _negatives(part.split))
    if need_scores:
        _check_scores(found)
    return found


def _check_scores(part: _Part) -> None:
    scores = [part.hard.scores(query, positive) for query, positive in part.pairs]
    missing = sum(math.isnan(score) for row in scores for score in row)
    if missing:
        number, place = next((i, row.index(s)) for i, row in enumerate(scores) for s in row if math.isnan(s))
        query, document = part.pairs[number]
        document = part.split.documents.ids[part.hard.of(query).rows[place - 1]] if place else document
        raise InputError(
            f"{part.hard.file} has no score for {missing} of {sum(map(len, scores))} training passages, the first "
            f"query {query!r} with document {document!r}; add them (python -m effir_dist.negatives --reranker) or set "
            "train.distill_scores to 0"
        )


class _Pool:
    """The texts of several data sets, one after the other."""

    def __init__(self, parts: Sequence[Texts]) -> None:
        self._parts, self.texts = parts, joined([part.texts for part in parts])
        self.firsts = [0, *itertools.accumulate(map(len, parts))]

    def rows(self, ids: Iterable[Iterable[str]]) -> NDArray[np.int64]:
        """Places of ids, which are given data set by data set."""
        found = zip(self._parts, self.firsts[:-1], ids, strict=True)
        return np.array([first + part.row(key) for part, first, keys in found for key in keys], np.int64)


class _Answers(Mapping[str, list[str]]):
    """Query -> the documents of all queries with its text (`roles.normalised`), whatever their ids."""

    def __init__(self, queries: Sequence[str], documents: Sequence[str]) -> None:
        """All known pairs: two columns of equal length."""
        texts: dict[str, int] = {}
        self._groups: dict[str, int] = {}
        for query in queries:
            if query not in self._groups:
                self._groups[query] = texts.setdefault(normalised(query), len(texts))
        numbers = np.array([self._groups[query] for query in queries], np.int64)
        order = np.argsort(numbers, kind="stable")
        self._lists = Ragged.of_lengths(picked(documents, order), np.bincount(numbers, minlength=len(texts)).tolist())

    def __getitem__(self, query: str) -> list[str]:
        return [*dict.fromkeys(self._lists[self._groups[query]])]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)


def _columns(parts: Sequence[_Part]) -> TrainingPairs:
    """The pairs of all data sets in turn."""
    queries, documents = _Pool([p.split.queries for p in parts]), _Pool([p.split.documents for p in parts])

    def texts(pairs: Sequence[list[tuple[str, str]]]) -> tuple[Sequence[str], Sequence[str]]:
        rows = queries.rows([q for q, _ in of_part] for of_part in pairs)
        return picked(queries.texts, rows), picked(documents.texts, documents.rows([d for _, d in p] for p in pairs))

    starts = zip(parts, documents.firsts[:-1], strict=True)
    pairs = [(first, part.hard, q, d) for part, first in starts for q, d in part.pairs]
    hard = np.array([first + row for first, hard, q, _ in pairs for row in hard.of(q).rows], np.int64)
    lengths = [len(hard.of(q).rows) for _, hard, q, _ in pairs]
    negatives = Ragged.of_lengths(picked(documents.texts, hard), lengths)
    numbers = array("d", (score for _, hard, q, d in pairs for score in hard.scores(q, d)))
    scores = Ragged.of_lengths(np.array(numbers), [1 + length for length in lengths])
    mapped = isinstance(negatives.flat, Strings)
    return TrainingPairs(
        *texts([part.pairs for part in parts]),
        negatives if mapped else [*negatives],
        scores if mapped else [*scores],
        _Answers(*texts([part.known for part in parts])),
    )


def training_pairs(data: DataConfig, seed: int) -> TrainingPairs:
    """A pair for each relevant document of each query of `roles.train_part`, of all data sets that are trained on in
    turn. Do not change them: shared."""
    return _pairs(data, seed, tuple(beir.signature(resolve(path)) for path in data.searched))


# Made once in a process, for all trials. The texts themselves are those that `beir` keeps.
@functools.lru_cache(maxsize=2)
def _pairs(data: DataConfig, seed: int, _signature: tuple[object, ...]) -> TrainingPairs:
    return _columns([_training_part(path, data, seed) for path in data.trained])


def check(data: DataConfig, seed: int = 0, need_scores: bool = False) -> list[str]:
    """All checks of the data sets but those that are held out, before a search starts. Returns warnings.

    need_scores: whether a teacher's scores are distilled, so that every training passage needs one. Raises InputError.
    """
    warnings: list[str] = []
    for path in data.paths:
        warnings += _check_scored(path, data, seed)
    for path in data.trained:
        part = _training_part(path, data, seed, need_scores)
        warnings += part.split.warnings + part.hard.warnings
    return list(dict.fromkeys([*warnings, *map(str, left_out(data, seed))]))


def _check_scored(path: str, data: DataConfig, seed: int) -> list[str]:
    name = dataset_name(path)
    same = [other for other in data.paths if dataset_name(other) == name]
    if len(same) > 1:
        raise InputError(f"data.paths has {len(same)} data sets called {name!r} ({', '.join(same)}); rename a folder")
    folder = resolve(path)
    test_warnings = read_split(folder, data.test_split).warnings if data.test_split else []
    ignores_identical_ids(folder, name)
    return test_warnings + search_part(path, data, seed).split.warnings


def check_training(data: DataConfig, seed: int) -> int:
    """Number of training pairs, for a search that trains. Raises InputError where there is none."""
    count = len(training_pairs(data, seed).queries)
    if not count:
        raise InputError(
            f"none of {', '.join(data.trained) or 'the data sets'} has a training pair in its split "
            f"{data.train_split!r} beside the queries that evaluate; name data with --train-data, add training "
            "judgements, or set train.steps and train.epochs to 0"
        )
    return count
