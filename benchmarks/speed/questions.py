"""The questions that `reports/speed.md` answers, and a table for each: ratios first, the peers beside."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.speed.results import Peer, Result

SPACE = "\u00a0"
"""At which no line is broken."""
Table = list[list[str]]
"""Its head, then its rows."""
NAMED = re.compile(r"(?P<model>[^,]+), (?P<plan>.+), (?P<dtype>bfloat16|float32), (?P<texts>[^,]+)")
"""How a pruned model's row is named."""
PEERS = ("sentence-transformers", "OpenVINO", "onnxruntime")
"""Tools that encode what ours does, in the same quality."""
TOLD_SECONDS = 2.0
"""Of a first call, above the others, from which on it is told."""
WITHIN = 0.1
"""How far 100 times nDCG@10 in bfloat16 is meant to be from float32's at most."""
SHOWN = {
    "every second MLP dropped": "every second MLP dropped",
    "all MLPs at half width": "all MLPs at half width",
    "a mixture of widths, multiples of 64": "a mixture of widths, multiples of 64",
    "every second block dropped": "every second block dropped",
}
"""Plan -> its column. Widths that do not suit the hardware are in the JSON alone."""


@dataclass(frozen=True)
class Question:
    """One section of the report."""

    title: str
    told: str
    """What is compared, and what is meant to be reached."""
    table: Callable[[Sequence[Result]], Table]
    glance: str = ""
    """What the ratios are that stand for it at the top of the report; empty where there are none."""
    ratios: Callable[[Sequence[Result]], list[float]] = lambda _: []


def against(*groups: str) -> Callable[[Sequence[Result]], Table]:
    """A table of ratios, a column a group of peers, those whose names begin alike: the fastest of a group counts."""

    def table(results: Sequence[Result]) -> Table:
        there = [group for group in groups if any(_fastest(result, group) for result in results)]
        head = ["what", "machine", *(f"against {group}" for group in there), "ours"]
        return [
            head,
            *([*_what(r), *(_beside(_fastest(r, group), group) for group in there), _rate(r)] for r in results),
        ]

    return table


def encoded(results: Sequence[Result]) -> Table:
    """The same of encoding, with how exact each tool is: a peer may be faster and give other embeddings."""
    head, *rows = against(*PEERS, "int8 by onnxruntime", "plain transformers", "its own matrices", "matrix product")(
        results
    )
    exact = [result.facts.get("least cosine with float32", {}) for result in results]
    cells = ["<br>".join(f"{name.split(', ')[0]} {value:.5f}" for name, value in each.items()) for each in exact]
    return [[*head, "least cosine"], *([*row, cell or "-"] for row, cell in zip(rows, cells, strict=True))]


def fastest_of(*groups: str) -> Callable[[Sequence[Result]], list[float]]:
    """The ratios to the fastest of some groups."""
    return lambda results: [peer.ratio.median for result in results if (peer := _fastest(result, *groups))]


def pruned(results: Sequence[Result]) -> Table:
    """A row a model and length of its texts, a column a plan: what is reached of what the FLOPs promise."""
    named = [(result, match.groupdict()) for result in results if (match := NAMED.fullmatch(result.name))]
    plans = [plan for plan in SHOWN if any(name["plan"] == plan for _, name in named)]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for result, name in named:
        what = f"{name['model']}, {name['dtype']}, {name['texts']}"
        promised = number(result.facts.get("promised speed-up"))
        found = [f"{_bold(peer)} of {promised}<br>{_bounds(peer)}" for peer in result.peers]
        rows.setdefault((what, result.machine.name), {})[name["plan"]] = found[0] if found else "-"
    head = ["what", "machine", *(SHOWN[plan] for plan in plans)]
    return [head, *([*key, *(cells.get(plan, "") for plan in plans)] for key, cells in rows.items())]


def sizes(results: Sequence[Result]) -> Table:
    """A column a machine: the share of its matrix rate, and the rate."""
    machines = list(dict.fromkeys(result.machine.name for result in results))
    rows: dict[str, dict[str, str]] = {}
    for result in results:
        share = f"**{result.peers[0].ratio.median:.2f}**, " if result.peers else ""
        rows.setdefault(result.name, {})[result.machine.name] = share + _rate(result)
    return [["what", *machines], *([name, *(cells.get(m, "") for m in machines)] for name, cells in rows.items())]


def exactness(results: Sequence[Result]) -> Table:
    """nDCG@10 in both dtypes."""
    rows = []
    for result in results:
        scores = {name: numbers.get("nDCG@10") for name, numbers in result.numbers.items()}
        half, single = scores.get("bfloat16"), scores.get("float32")
        if half is not None and single is not None and result.peers:
            faster = f"{result.peers[0].ratio.median:.2f} x"
            told = f"**{half - single:+.2f}**" if abs(half - single) <= WITHIN else f"{half - single:+.2f}"
            rows.append([*_what(result), told, f"{half:.2f}", f"{single:.2f}", faster])
    return [["what", "machine", "difference", "bfloat16", "float32", "bfloat16 is faster by"], *rows]


def memory(results: Sequence[Result]) -> Table:
    """Bytes predicted and found."""
    rows = []
    for result in results:
        found = next(iter(result.numbers.values()), {})
        predicted, most = result.facts.get("predicted_bytes"), found.get("bytes")
        ratio = f"**{predicted / most:.2f}**" if predicted and most else "-"
        amounts = [_gigabytes(predicted), _gigabytes(most), _gigabytes(found.get("reserved_bytes"))]
        rows.append([*_what(result), ratio, *amounts, _rate(result)])
    return [["what", "machine", "predicted by found", "predicted", "found", "reserved by torch", "rate"], *rows]


def figures(results: Sequence[Result]) -> Table:
    """All that is known of each row, where ratios mean nothing."""
    return [["what", "machine", "found"], *([*_what(result), "<br>".join(_figures(result))] for result in results)]


QUESTIONS = {
    "training": Question(
        "How fast does it train?",
        "Pairs a second beside sentence-transformers' loss in a plain loop: the same texts, batch, lengths and AdamW. "
        "The fastest of its ways counts; dropout as its models come costs it as much again.",
        against("sentence-transformers", "ours, eight padded groups", "ours, recovering from a teacher"),
        "training, against the fastest of sentence-transformers",
        fastest_of("sentence-transformers"),
    ),
    "encoding": Question(
        "How fast does it encode?",
        "From texts to vectors, beside each peer at its fastest, the model's own linear layers as plain "
        "products, and the machine's limit: a matrix product of as many FLOPs. Least cosine: of a text's embeddings "
        "with ours in float32.",
        encoded,
        "encoding, against the fastest peer",
        fastest_of(*PEERS),
    ),
    "pruned": Question(
        "Does pruned mean faster?",
        "The measured speed-up over the unpruned model by the one that FLOPs promise; the goal is 0.95.",
        pruned,
        "pruned, of the promised speed-up",
        fastest_of("unpruned"),
    ),
    "side_by_side": Question(
        "What do trials gain that share a GPU?",
        "Eight small trials at once, with CUDA's multi-process service, beside one at a time and beside taking turns.",
        against("one at a time", "8 at once, taking turns"),
        "trials that share a GPU, against one at a time",
        fastest_of("one at a time"),
    ),
    "memory": Question(
        "Does a training take the memory that was predicted?",
        "The peak of one step by `training.memory` and as torch counted it.",
        memory,
    ),
    "eight_gpus": Question(
        "Does a 7 B model train on eight GPUs?",
        "`python -m benchmarks.eight_gpus`: from random weights to a model that scores on one GPU as it did on all.",
        figures,
    ),
    "exactness": Question(
        "What does bfloat16 cost?", "nDCG@10 times 100 of all-MiniLM-L6-v2 in both; meant to be within 0.1.", exactness
    ),
    "search": Question(
        "How fast is the search?",
        "Exact, the best 100 documents of each query. Ours is faiss, or a matrix product where that is the faster.",
        against("faiss", "matrix product and top-k"),
        "search, against the fastest of faiss",
        fastest_of("faiss"),
    ),
    "sizes": Question(
        "What does a passage cost as corpus and model grow?",
        "The share of the machine's matrix rate, and passages a second.",
        sizes,
        "encoding, of the machine's matrix rate",
        fastest_of("matrix product"),
    ),
    "trials": Question(
        "What does a trial cost beside its work?", "In a warm process, and from one trial to the next.", figures
    ),
}
"""Subject -> its section, in the report's order."""


def question(subject: str) -> Question:
    """A subject that has no section of its own gets its figures."""
    return QUESTIONS.get(subject, Question(subject.replace("_", " ").capitalize(), "", figures))


def _what(result: Result) -> list[str]:
    return [result.name, result.machine.name]


def _fastest(result: Result, *groups: str) -> Peer | None:
    alike = [peer for peer in result.peers if peer.name.startswith(groups)]
    return max(alike, key=lambda peer: peer.per_second, default=None)


def _beside(peer: Peer | None, group: str) -> str:
    """A ratio with what it is against: the way of the group, and its rate."""
    if peer is None:
        return "-"
    way = peer.name.removeprefix(group).lstrip(", ")
    return f"{_ratio(peer)}<br>{way}{': ' if way else ''}{number(peer.per_second)}/s"


def _ratio(peer: Peer) -> str:
    return f"{_bold(peer)} {_bounds(peer)}" + ("" if _met(peer) else f", goal {peer.goal:g}")


def _bold(peer: Peer) -> str:
    return f"**{peer.ratio.median:.2f}**" if _met(peer) else f"{peer.ratio.median:.2f}"


def _bounds(peer: Peer) -> str:
    return f"[{peer.ratio.least:.2f},{SPACE}{peer.ratio.largest:.2f}]"


def _met(peer: Peer) -> bool:
    """Whether its goal is met, or there is none."""
    return peer.goal is None or peer.ratio.median >= peer.goal


def _rate(result: Result) -> str:
    if result.per_second is None:
        return "-"
    first = f"<br>first call {number(result.preparing)}{SPACE}s more" if result.preparing > TOLD_SECONDS else ""
    return f"{number(result.per_second)}{SPACE}{result.unit}/s{first}"


def _figures(result: Result) -> list[str]:
    found = [f"{_ratio(peer)} x {peer.name}" for peer in result.peers]
    pairs = [*result.facts.items(), *(pair for each in result.numbers.values() for pair in each.items())]
    return found + [f"{key.replace('_', ' ')}: {_figure(key, value)}" for key, value in pairs]


def _figure(key: str, value: Any) -> str:
    return _gigabytes(value) if key.endswith("_bytes") else number(value)


def _gigabytes(size: float | None) -> str:
    return f"{size / 1e9:.2f} GB" if size else "-"


def number(value: Any) -> str:
    """Three digits that count, and more before the point."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
