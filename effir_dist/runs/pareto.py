"""Geometry of fronts and hypervolumes; sizes and plans in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from effir_dist.core.measures import BLOCKS_SHARE, SIZE_SHARE

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


def non_dominated_losses(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points, all of whose N coordinates are to be small, that none is at least as good as, in order.

    Of equal points the first stays; points with NaN or infinite values are left out.
    """
    import numpy as np

    if not points:
        return []
    if len(points[0]) == 2:
        return sorted(non_dominated([(p[0], -p[1]) for p in points]))
    losses = np.asarray(points, float)
    finite = np.isfinite(losses).all(axis=1)
    found: list[int] = []
    for i in np.flatnonzero(finite):
        as_good = (losses <= losses[i]).all(axis=1) & finite
        equal = (losses == losses[i]).all(axis=1)
        if not (as_good & ~equal).any() and int(np.flatnonzero(equal & finite)[0]) == i:
            found.append(int(i))
    return found


def hypervolume_losses(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume that `points` (all coordinates to be small, two or three of them) dominate within `reference`."""
    inside = [p for p in points if all(math.isfinite(v) and v < r for v, r in zip(p, reference, strict=True))]
    if len(reference) == 2:
        return hypervolume([(p[0], -p[1]) for p in inside], (reference[0], -reference[1]))
    # A slab for each step of the last coordinate: what dominates there is an area of the other two.
    inside.sort(key=lambda p: p[2])
    volume, flat = 0.0, list[Sequence[float]]()
    for number, point in enumerate(inside):
        flat = [*flat, point[:2]]
        flat = [flat[i] for i in non_dominated_losses(flat)]
        above = inside[number + 1][2] if number + 1 < len(inside) else reference[2]
        if above > point[2]:
            volume += (above - point[2]) * hypervolume_losses(flat, reference[:2])
    return volume


def parameters_text(parameters: float) -> str:
    """18_900_000 -> '18.9 M', to three digits."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= 0.9995 * size:
            value = parameters / size
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    return f"{parameters:.0f}"


def shares_text(values: Mapping[str, float | None]) -> str:
    """What is left of the unpruned model: 'blocks 71 % (total 84 %)', or 'total 84 %' where the blocks' is not known.

    values: those of a record or of a row of a table.
    """
    blocks, total = (values.get(name) for name in (BLOCKS_SHARE, SIZE_SHARE))
    if total is None or math.isnan(total):
        return ""
    whole = f"total {100 * total:3.0f} %"
    return whole if blocks is None or math.isnan(blocks) else f"blocks {100 * blocks:3.0f} % ({whole})"


def plan_text(mlps: int, width: float, attentions: int = 0, minus: str = "-", others: Sequence[str] = ()) -> str:
    """What was pruned, short enough for a plot: '-3 MLP, 70 %'."""
    parts = [f"{minus}{count} {name}" for count, name in ((mlps, "MLP"), (attentions, "attn")) if count]
    if width < 0.9995:
        parts.append(f"{'' if parts else 'width '}{100 * width:.0f} %")
    return ", ".join([*parts, *others]) or "unpruned"
