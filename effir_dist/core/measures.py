"""Every figure of a trial that may be an objective, a constraint or a column: one entry each, read by all others.

To add a measure, add its entry here and let its `source` put the number into the record's values. Records, tables,
plots, the page, the model card, the terminal and error texts take label, unit, direction and format from the entry.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from effir_dist.core.errors import InputError, suggest
from effir_dist.core.units import (
    BYTES,
    GIBIBYTES,
    MEGABYTES,
    MILLISECONDS,
    PARAMETERS,
    RATE,
    RATIO,
    SCORE,
    SECONDS,
    SHARE,
    Unit,
)

PLAN, SPEED, QUALITY_SETS, CLOCK = "plan", "speed", "quality", "clock"
"""Who measures: a formula of the plan (models/facts.py); evaluate/speed.py beside the unpruned model; scoring on data
sets; the trial's own clock and memory (search/trial/costs.py)."""
TABLE, PAGE, TERMINAL, STUDY = "table", "page", "terminal", "study"
"""Views of a run: trials.csv, the page's table, the printed front, and `study.db`."""


@dataclass(frozen=True)
class Measure:
    """A figure of a record."""

    name: str
    """Its field in records, and its column in tables."""
    label: str
    """For people."""
    source: str
    """Who measures it: PLAN, SPEED, QUALITY_SETS or CLOCK."""
    better: int
    """1 where more is better, -1 where less is."""
    unit: Unit = SCORE
    most: float = math.inf
    """The largest value that it can have."""
    unpruned: str = ""
    """The field of the same record with the unpruned model's figure, where that is recorded beside it."""
    objective: bool = False
    """Whether a search may trade it off. What differs from machine to machine may not."""
    constraint: bool = False
    """Whether a constraint may bound it."""
    instead: str = ""
    """The objective to use in its place, where it is none itself."""
    views: tuple[str, ...] = ()
    """Where it is shown though the search does not go by it: TABLE, PAGE, TERMINAL, STUDY. What an objective or a
    constraint names is shown in all."""
    head: str = ""
    """Of its column, where the label is too long; lines separated by newlines."""
    short: str = ""
    """What the page's filter may call it besides its name."""
    axis: str = ""
    """Title of a plot's axis, without the unit, where the label says too little."""
    note: str = ""
    """A sentence on what it means, for below a plot of it."""

    def __post_init__(self) -> None:
        if self.objective and not self.quality and not self.unpruned and (self.better < 0 or self.unit != RATIO):
            raise ValueError(
                f"{self.name}: an objective is compared with the unpruned model's: it must be a ratio of "
                "which more is better, or name the field `unpruned` with that model's figure"
            )

    @property
    def quality(self) -> bool:
        """Whether it is a score of the data sets."""
        return self.source == QUALITY_SETS

    @property
    def measured(self) -> bool:
        """Whether it takes evaluate/speed.py's measurement."""
        return self.source == SPEED

    @property
    def speedup(self) -> bool:
        """Whether it is a measured ratio to the unpruned model's speed."""
        return self.measured and self.objective and self.better > 0

    @property
    def known(self) -> bool:
        """Whether it follows from the plan, before anything is trained."""
        return self.source == PLAN

    @property
    def share(self) -> bool:
        """Whether it is compared as a share of the unpruned model's; others as they are."""
        return self.quality or bool(self.unpruned)

    @property
    def column(self) -> str:
        """The head of its column on one line."""
        return " ".join((self.head or self.label).split())

    def text(self, value: float | None) -> str:
        """A value for people, with its unit; '-' where there is none."""
        return self.unit.text(value)

    def axis_title(self, largest: float) -> str:
        """Of a plot's axis, with its unit. largest: of the values, which the unit suits."""
        name, _ = self.unit.axis_unit(largest)
        return (self.axis or self.label) + (f" ({name})" if name else "")


def _cost(name: str, label: str, source: str, unit: Unit, *views: str, head: str = "", axis: str = "") -> Measure:
    known = Measure(name, label, source, -1, unit, unpruned=f"full_{name}", objective=True, constraint=True)
    return replace(known, views=views, head=head, axis=axis)


def _speedup(name: str, label: str, what: str) -> Measure:
    head, axis = label.replace(" ", "\n"), f"times as fast as the unpruned model, {what}"
    shown = (TABLE, PAGE)
    return Measure(name, label, SPEED, 1, RATIO, objective=True, constraint=True, views=shown, head=head, axis=axis)


def _quality(name: str, label: str, *views: str, objective: bool = False) -> Measure:
    short = name.partition("_")[0]
    return Measure(
        name, label, QUALITY_SETS, 1, most=1.0, constraint=True, objective=objective, views=views, short=short
    )


_SHARED = (
    "Speed is what scoring the trial reached, in batches, without tokenising. Trials that ran side by side shared the "
    "machine."
)
_ENTRIES = (
    Measure(
        "block_parameters_fraction", "share of the parameters without embeddings", PLAN, -1, SHARE, 1.0,
        instead="block_parameters", views=(TABLE, PAGE, TERMINAL), head="blocks", short="blocks",
        axis="share of the unpruned model’s parameters without embeddings",
    ),
    Measure(
        "parameters_fraction", "share of the parameters", PLAN, -1, SHARE, 1.0, instead="parameters",
        views=(TABLE, PAGE, TERMINAL, STUDY), head="total", short="share",
        axis="share of the unpruned model’s parameters",
    ),
    _cost("parameters", "parameters", PLAN, PARAMETERS, TABLE, PAGE, TERMINAL),
    _cost(
        "block_parameters", "parameters without embeddings", PLAN, PARAMETERS, TABLE,
        head="parameters without\nembeddings",
    ),
    _cost("index_bytes", "index bytes", PLAN, BYTES, head="index\nbytes", axis="bytes of a document in the index"),
    _cost("memory_bytes", "memory", SPEED, MEGABYTES, TABLE, axis="memory of weights and of encoding a batch"),
    Measure(
        "query_latency_ms", "query latency", SPEED, -1, MILLISECONDS, constraint=True, instead="query_speedup",
        views=(TABLE,),
    ),
    _speedup("query_speedup", "query speed-up", "a query"),
    Measure("batch_documents_per_second", "documents per second in a batch", SPEED, 1, RATE, views=(TABLE,)),
    _speedup("document_speedup", "document speed-up", "a batch of documents"),
    _quality("ndcg_at_10", "nDCG@10", TABLE, PAGE, TERMINAL, objective=True),
    _quality("recall_at_100", "Recall@100", TABLE, STUDY),
    _quality("mrr_at_10", "MRR@10", TABLE, STUDY),
    Measure(
        "queries_per_second", "queries per second", CLOCK, 1, RATE, instead="query_speedup", views=(TABLE,),
        axis="queries encoded per second", note=_SHARED,
    ),
    Measure(
        "documents_per_second", "documents per second", CLOCK, 1, RATE, instead="document_speedup",
        views=(TABLE, PAGE, STUDY), head="documents\nper second", short="speed", axis="documents encoded per second",
        note=_SHARED,
    ),
    Measure(
        "train_seconds", "training time", CLOCK, -1, SECONDS, constraint=True, views=(TABLE, PAGE, STUDY),
        head="training", short="train",
    ),
    Measure("score_seconds", "scoring time", CLOCK, -1, SECONDS, views=(TABLE,)),
    Measure("other_seconds", "time of the rest of the trial", CLOCK, -1, SECONDS, views=(TABLE,)),
    Measure(
        "total_seconds", "time of the trial", CLOCK, -1, SECONDS, constraint=True,
        views=(TABLE, PAGE, TERMINAL, STUDY), head="time", short="total",
    ),
    Measure("peak_memory_bytes", "peak memory", CLOCK, -1, GIBIBYTES, constraint=True, instead="memory_bytes"),
)  # fmt: skip
MEASURES: dict[str, Measure] = {entry.name: entry for entry in _ENTRIES}
"""By name, in the order of tables."""
QUALITY = "ndcg_at_10"
"""The quality that every search raises."""
SIZE, SIZE_SHARE = "parameters", "parameters_fraction"
"""The cost that a search lowers by default, and its share of the unpruned model's."""
BLOCKS, BLOCKS_SHARE = "block_parameters", "block_parameters_fraction"
"""What a user pays for at each token: the parameters without embeddings, and their share of the unpruned model's."""
TRAIN_SECONDS, SCORE_SECONDS, TRIAL_SECONDS = "train_seconds", "score_seconds", "total_seconds"
"""What a trial takes: training, scoring, all."""
PEAK_MEMORY = "peak_memory_bytes"
"""Bytes that a trial took at most, of a GPU or of main memory."""
DEFAULT = (SIZE, QUALITY)
METRICS = tuple(entry.name for entry in _ENTRIES if entry.quality)
"""The qualities of a record: means over queries, then over data sets."""


def objectives() -> tuple[str, ...]:
    """What `search.objectives` may name."""
    return tuple(entry.name for entry in MEASURES.values() if entry.objective)


def costs() -> tuple[str, ...]:
    """The objectives that are traded off against quality."""
    return tuple(name for name in objectives() if not MEASURES[name].quality)


def constraints() -> tuple[str, ...]:
    """What `search.constraints` may bound."""
    return tuple(entry.name for entry in MEASURES.values() if entry.constraint)


def shown_in(view: str, wanted: Collection[str] = ()) -> list[Measure]:
    """The measures of a view, in the order of tables. wanted: a search's objectives and constraints, shown too."""
    return [entry for entry in MEASURES.values() if view in entry.views or entry.name in wanted]


def check_objectives(names: Sequence[str]) -> None:
    """Raises InputError unless these are two or three known measures, quality and cost among them."""
    for name in names:
        entry = MEASURES.get(name)
        if entry and entry.instead:
            reason = "is no objective, as trials of different machines would not compare"
            reason = "is no objective" if entry.known else reason
            raise InputError(f"search.objectives: {name!r} {reason}; use {entry.instead!r}")
        if not entry or not (entry.objective or entry.quality):
            raise InputError(f"search.objectives: unknown objective {name!r}; {suggest(name, objectives())}")
    chosen = [name for name in names if not MEASURES[name].quality]
    distinct = len(set(chosen)) == len(chosen)
    if QUALITY not in names or len(chosen) != len(names) - 1 or not distinct or not 1 <= len(chosen) <= 2:
        known = f"the costs: {', '.join(costs())}"
        raise InputError(f"search.objectives must be {QUALITY} and one or two costs, got {list(names)}; {known}")


@dataclass(frozen=True)
class Constraint:
    """`parameters <= 0.5`: a share of the unpruned model's, or a value where the measure is no share."""

    name: str
    at_most: bool
    bound: float

    @property
    def measure(self) -> Measure:
        return MEASURES[self.name]

    @property
    def text(self) -> str:
        return f"{self.name} {'<=' if self.at_most else '>='} {self.bound:g}"

    def violation(self, values: Mapping[str, float], baseline: Mapping[str, float]) -> float | None:
        """By how much values exceed the bound, 0 or less where they satisfy it; None where that is not known.

        values: a record's, or those that follow from a plan. baseline: the unpruned model's; empty where not known.
        """
        figure = self._figure(values, baseline)
        if figure is None:
            return None
        # A rounding error is no violation.
        return (figure - self.bound if self.at_most else self.bound - figure) - 1e-9

    def _figure(self, values: Mapping[str, float], baseline: Mapping[str, float]) -> float | None:
        value = values.get(self.name)
        if value is None or not self.measure.share:
            return value
        other = baseline.get(self.name) if self.measure.quality else values.get(self.measure.unpruned)
        return value / other if other else None


def parse_constraint(text: str) -> Constraint:
    """Read `NAME <= NUMBER` or `NAME >= NUMBER`. Raises InputError for anything else."""
    match = re.fullmatch(r"\s*([\w@.]+)\s*(<=|>=)\s*([-+.\deE]+)\s*", text)
    try:
        bound = float(match[3]) if match else None
    except ValueError:
        bound = None
    if not match or bound is None:
        raise InputError(
            f"search.constraints: {text!r} is no constraint; expected NAME <= NUMBER or NAME >= NUMBER, "
            "for example 'parameters <= 0.5' (a share of the unpruned model's)"
        )
    if match[1] not in constraints():
        raise InputError(
            f"search.constraints: {text!r}: unknown measure {match[1]!r}; {suggest(match[1], constraints())}"
        )
    found = Constraint(match[1], match[2] == "<=", bound)
    if found.measure.share and not 0 < bound <= 10:
        raise InputError(f"search.constraints: {text!r} must bound a share of the unpruned model's, such as 0.5")
    return found
