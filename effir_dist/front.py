"""The Pareto front of parameters (down) against nDCG@10 (up), and how much it covers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

Point = tuple[float, float]
"""Size (down), quality (up)."""
REFERENCE: Point = (1.0, 0.0)
"""As large as the full model and no quality at all."""


def non_dominated(points: Sequence[Point]) -> list[int]:
    """Indices of the points that none is at least as small and as good as, smallest first.

    Of equal points the first stays; points with NaN or infinite values are left out.
    """
    finite = [i for i, p in enumerate(points) if math.isfinite(p[0]) and math.isfinite(p[1])]
    front: list[int] = []
    for i in sorted(finite, key=lambda i: (points[i][0], -points[i][1], i)):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def hypervolume(points: Sequence[Point], reference: Point = REFERENCE) -> float:
    """Area that `points` dominate within `reference`: 0 for none; more is better."""
    area, height = 0.0, reference[1]
    for size, quality in (points[i] for i in non_dominated(points)):
        if size < reference[0] and quality > height:
            area += (reference[0] - size) * (quality - height)
            height = quality
    return area


def complete(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with a score."""
    return [r for r in records if r["state"] == "complete" and r.get("ndcg_at_10") is not None]


def front(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records on the front, largest first: how much is lost by going smaller reads downwards."""
    scored = complete(records)
    return [scored[i] for i in reversed(non_dominated([(r["parameters"], r["ndcg_at_10"]) for r in scored]))]


def unpruned(records: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The first scored record of the whole model, where there is one."""
    return next((r for r in complete(records) if r["parameters"] == r["full_parameters"]), None)


def normalised(records: Iterable[dict[str, Any]]) -> list[Point]:
    """Scored records as (share of the full model's parameters, share of the unpruned model's nDCG@10).

    Without a scored unpruned model the nDCG@10 stays as it is.
    """
    scored = complete(records)
    whole = unpruned(scored)
    best = whole["ndcg_at_10"] if whole and whole["ndcg_at_10"] > 0 else 1.0
    return [(r["parameters"] / r["full_parameters"], r["ndcg_at_10"] / best) for r in scored]


def covered(records: Iterable[dict[str, Any]]) -> float:
    """Hypervolume of the normalised records: what a search tries to raise."""
    return hypervolume(normalised(records))


def parameters_text(parameters: float) -> str:
    """18_900_000 -> '18.9 M', to three digits."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= 0.9995 * size:
            value = parameters / size
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    return f"{parameters:.0f}"


def plan_text(mlps: int, width: float, attentions: int = 0, minus: str = "-") -> str:
    """What was pruned, short enough for a plot: '-3 MLP, 70 %'."""
    parts = [f"{minus}{count} {name}" for count, name in ((mlps, "MLP"), (attentions, "attn")) if count]
    if width < 0.9995:
        parts.append(f"{'' if parts else 'width '}{100 * width:.0f} %")
    return ", ".join(parts) or "unpruned"
