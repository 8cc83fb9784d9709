"""Training pairs of the data sets with their hard negatives, and all checks of data that a search makes."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from effir_dist.core.errors import InputError
from effir_dist.core.settings import DataConfig
from effir_dist.data import beir
from effir_dist.data.roles import left_out, normalised, positives_by_text, search_part, train_part
from effir_dist.data.sets import Split, dataset_name, ignores_identical_ids, read_split, resolve, sample


@dataclass(frozen=True)
class TrainingPairs:
    """Queries, a relevant document for each, its hard negatives and a teacher's scores: lists of equal length."""

    queries: list[str]
    positives: list[str]
    negatives: list[list[str]]
    scores: list[list[float]]
    """Of the positive and then of the negatives; NaN where the teacher has none."""
    answers: dict[str, list[str]] = field(default_factory=dict)
    """Query -> every known relevant document, those too whose pair `data.max_train_pairs` left out: no negatives."""


@dataclass(frozen=True)
class _Hard:
    """The content of `negatives/SPLIT.jsonl`; empty where there is no such file."""

    file: Path
    negatives: dict[str, list[str]]
    """Query id -> ids of its hard negatives."""
    scores: dict[tuple[str, str], float]
    """(Query id, document id) -> a teacher's score."""
    warnings: list[str]

    def of(self, query: str, positive: str) -> list[float]:
        """The scores of a query's positive and of its negatives, NaN where there is none."""
        return [self.scores.get((query, d), math.nan) for d in (positive, *self.negatives.get(query, ()))]


def _negatives(train: Split) -> _Hard:
    """The hard negatives of a split. Raises InputError where a negative is a positive too."""
    file = train.folder / "negatives" / f"{train.name}.jsonl"
    negatives: dict[str, list[str]] = {}
    scores: dict[tuple[str, str], float] = {}
    missing: set[str] = set()
    lines = beir.read_negatives(file) if file.is_file() else ()
    answers = positives_by_text(train) if lines else {}
    for line in lines:
        positives = {d for d, grade in train.qrels.get(line.query, {}).items() if grade > 0}.union(line.positives)
        wrong = [d for d in line.negatives if d in positives]
        if wrong:
            raise InputError(
                f"{line.where}: {wrong[0]!r} is both negative and positive of query {line.query!r}; drop one"
            )
        missing.update(d for d in line.negatives if d not in train.documents)
        # What answers the same text under another id is no negative either.
        known = answers.get(normalised(train.queries.get(line.query, "")), set())
        kept = (d for d in line.negatives if d in train.documents and d not in known)
        negatives.setdefault(line.query, []).extend(kept)
        scores.update(((line.query, document), score) for document, score in line.scores.items())
    warning = f"{file} names {len(missing)} documents that are not in corpus.jsonl; left out"
    return _Hard(file, negatives, scores, [warning] if missing else [])


def _training_part(
    path: str, data: DataConfig, seed: int, need_scores: bool = False
) -> tuple[TrainingPairs, list[str]]:
    part = train_part(path, data, seed)
    train = part.split
    kept = [(q, d) for q in part.queries for d, grade in train.qrels[q].items() if grade > 0]
    pairs = sample(kept, data.max_train_pairs, seed)
    hard = _negatives(train)
    scores = [hard.of(q, d) for q, d in pairs]
    if need_scores:
        _check_scores(hard, pairs, scores)
    # Each text is one string: from memory maps it is decoded at each access.
    query, document = functools.cache(train.queries.__getitem__), functools.cache(train.documents.__getitem__)
    found = TrainingPairs(
        [query(q) for q, _ in pairs],
        [document(d) for _, d in pairs],
        [[document(d) for d in hard.negatives.get(q, ())] for q, _ in pairs],
        scores,
        _answers((query(q), document(d)) for q, d in kept),
    )
    return found, train.warnings + hard.warnings


def _answers(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Query -> the documents of all queries with its text (`roles.normalised`), whatever their ids."""
    texts: dict[str, str] = {}
    found: dict[str, dict[str, None]] = {}
    for query, document in pairs:
        text = texts.get(query) or texts.setdefault(query, normalised(query))
        found.setdefault(text, {}).setdefault(document)
    return {query: [*found[text]] for query, text in texts.items()}


def _check_scores(hard: _Hard, pairs: list[tuple[str, str]], scores: list[list[float]]) -> None:
    missing = [
        (query, document)
        for (query, positive), row in zip(pairs, scores, strict=True)
        for document, score in zip((positive, *hard.negatives.get(query, ())), row, strict=True)
        if math.isnan(score)
    ]
    if missing:
        query, document = missing[0]
        raise InputError(
            f"{hard.file} has no score for {len(missing)} of {sum(map(len, scores))} training passages, the first "
            f"query {query!r} with document {document!r}; add them (python -m effir_dist.negatives --reranker) or set "
            "train.distill_scores to 0"
        )


def training_pairs(data: DataConfig, seed: int) -> TrainingPairs:
    """A pair for each relevant document of each query of `roles.train_part`, of all data sets that are trained on in
    turn. Do not change them: shared."""
    return _pairs(data, seed, tuple(beir.signature(resolve(path)) for path in data.searched))


# Made once in a process, for all trials. The texts themselves are those that `beir` keeps.
@functools.lru_cache(maxsize=2)
def _pairs(data: DataConfig, seed: int, _signature: tuple[object, ...]) -> TrainingPairs:
    parts = [_training_part(path, data, seed)[0] for path in data.trained]
    return TrainingPairs(
        [q for p in parts for q in p.queries],
        [d for p in parts for d in p.positives],
        [n for p in parts for n in p.negatives],
        [s for p in parts for s in p.scores],
        _answers((q, d) for p in parts for q, documents in p.answers.items() for d in documents),
    )


def check(data: DataConfig, seed: int = 0, need_scores: bool = False) -> list[str]:
    """All checks of the data sets but those that are held out, before a search starts. Returns warnings.

    need_scores: whether a teacher's scores are distilled, so that every training passage needs one. Raises InputError.
    """
    warnings: list[str] = []
    for path in data.paths:
        warnings += _check_scored(path, data, seed)
    for path in data.trained:
        warnings += _training_part(path, data, seed, need_scores)[1]
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
