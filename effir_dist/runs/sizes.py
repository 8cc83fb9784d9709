"""What a score is of: how many queries over how many documents, and how many there are. A cut corpus is easier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from effir_dist.core.values import Json


@dataclass(frozen=True)
class SetSize:
    """Of one data set, as it was scored."""

    queries: int
    documents: int
    all_queries: int = 0
    """Of the split, without a limit; 0 where that is not known."""
    all_documents: int = 0

    @property
    def cut(self) -> bool:
        """Whether a part of the queries or documents was left out."""
        return self.queries < self.all_queries or self.documents < self.all_documents

    @property
    def texts(self) -> tuple[str, str]:
        """Queries and documents, each such as `300 of 2,848`, or `300` where that is all."""
        counts = ((self.queries, self.all_queries), (self.documents, self.all_documents))
        queries, documents = (f"{n:,} of {of:,}" if n < of else f"{n:,}" for n, of in counts)
        return queries, documents

    def __str__(self) -> str:
        return "{} queries, {} documents".format(*self.texts)


Sizes = Mapping[str, SetSize]
"""Data set -> what its scores are of. Empty in records of older versions."""
FIELDS = tuple(SetSize.__dataclass_fields__)


def total(sizes: Sizes) -> SetSize | None:
    """Of several data sets together; None where it is not known."""
    if not sizes:
        return None
    return SetSize(*(sum(getattr(size, name) for size in sizes.values()) for name in FIELDS))


def text(found: Iterable[Sizes]) -> str:
    """Such as `scifact 300 queries, 5,183 documents`; all that there are, where trials were not scored on the same."""
    said: dict[str, dict[str, None]] = {}
    for sizes in found:
        for name, size in sizes.items():
            said.setdefault(name, {}).setdefault(str(size))
    return "; ".join(f"{name} {' or '.join(each)}" for name, each in said.items())


def sizes_to_json(sizes: Sizes) -> dict[str, Json]:
    """Data set -> its counts by name."""
    return {name: dict(vars(size)) for name, size in sizes.items()}


def with_sizes(datasets: Mapping[str, Mapping[str, float]], sizes: Sizes) -> dict[str, Json]:
    """Data set -> its metrics and its counts, as records hold them."""
    counts = sizes_to_json(sizes)
    return {name: {**metrics, **counts.get(name, {})} for name, metrics in datasets.items()}
