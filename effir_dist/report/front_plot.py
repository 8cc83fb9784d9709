"""The plot of cost against quality: all trials of a table, the front, its labels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from effir_dist.core.measures import BLOCKS, MEASURES, QUALITY, SIZE, Measure
from effir_dist.report.frames import front_of
from effir_dist.runs.objectives import Goal, first_axis
from effir_dist.runs.pareto import non_dominated, plan_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, LIGHT = "#222222", "#6b6b6b", "#b9c2cb"
FRONT, TEST = "#0072b2", "#d55e00"  # distinct with any kind of colour blindness (Okabe and Ito)
ON_TEST = f"test_{QUALITY}"
# Where a label is tried: degrees and points away. Above left first: a trial there would be on the front itself.
ANGLES = (135, 110, 160, 90, 180, 60, 30, -45, -20, 0, -70, -90)
DISTANCES = (8, 13, 18, 24, 31)
CAPTION = "Each point is one pruned, fine-tuned and scored model. Labels: MLPs dropped, and the width of the others."


def front_figure(table: pd.DataFrame, title: str, note: str = "", goal: Goal | None = None) -> Figure:
    """The plot of a `trials_table` with a complete trial that is on the front, with room for title, legend and
    footnote. goal: of the search; the horizontal axis is `objectives.first_axis`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), dpi=200, facecolor="white")
    ax = figure.subplots()
    figure.subplots_adjust(left=0.085, right=0.97, top=0.83, bottom=0.185)
    plain: dict[str, Any] = {"x": 0.022, "va": "center", "parse_math": False}
    figure.text(y=0.955, s=title, fontsize=14, fontweight="bold", color=INK, **plain)
    figure.text(y=0.915, s=CAPTION, fontsize=9, color=GREY, **plain)
    draw_front(ax, table, goal)
    style: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": INK, "handletextpad": 0.4}
    figure.legend(loc="lower left", bbox_to_anchor=(0.012, 0.045), ncols=5, columnspacing=1.6, **style)
    failed = int((table["state"] != "complete").sum())
    counts = f"{len(table)} trials" + (f", {failed} failed (not shown)" if failed else "")
    figure.text(y=0.03, s=f"{note}: {counts}" if note else counts, fontsize=8, color=GREY, **plain)
    return figure


def draw_front(ax: Axes, table: pd.DataFrame, goal: Goal | None = None) -> Axes:
    """Draw a `trials_table`: every complete trial, the front as a step line, test scores hollow, the unpruned model.

    `ax` has its final size already: labels are placed where they overlap nothing.
    """
    scored = table[table[QUALITY].notna() & (table["state"] == "complete")]
    goal, full = goal or Goal(), MEASURES[SIZE].unpruned
    rows: Any = scored[[name for name in (SIZE, BLOCKS) if name in scored]].astype(float).to_dict("records")
    cost = first_axis(goal, rows)
    axis = _axis(scored, MEASURES[cost])
    scored = scored.assign(cost=axis.position(scored[cost].astype(float))).dropna(subset="cost")
    best = front_of(scored, goal).iloc[::-1]
    baseline = scored[scored[SIZE] == scored[full]].nlargest(1, QUALITY)
    _set_limits(ax, scored, best)
    _draw_points(ax, scored, best, baseline)
    rest = float(rows[0][SIZE] - rows[0][BLOCKS]) if cost == BLOCKS else 0.0
    whole = (float(scored[full].iloc[0]) - rest) / axis.unit, rest / axis.unit
    _style(ax, axis, _Whole(*whole) if cost in (SIZE, BLOCKS) else None)
    _label(ax, best, baseline, scored)
    return ax


@dataclass(frozen=True)
class _Axis:
    """The horizontal axis, where less is better."""

    title: str
    unit: float
    """How much 1 on the axis is."""
    inverse: bool
    """Whether it shows the time that a speed-up leaves, in percent."""

    def position(self, values: pd.Series) -> pd.Series:
        return 100 / values if self.inverse else values / self.unit


@dataclass(frozen=True)
class _Whole:
    """The unpruned model, in the unit of an axis of sizes."""

    size: float
    """What the axis shows of it."""
    rest: float
    """What is in every plan and the axis leaves out: embeddings; 0 where it shows all."""

    def text(self, share: float) -> str:
        """A share of `size` in percent: '71 %', and of the total where that is another: '71 (84) %'."""
        total = (share / 100 * self.size + self.rest) / (self.size + self.rest)
        return f"{share:g} ({100 * total:.0f}) %" if self.rest else f"{share:g} %"


def _axis(scored: pd.DataFrame, cost: Measure) -> _Axis:
    if cost.better > 0:
        return _Axis(f"time, % of the unpruned model's ({cost.label})", 1.0, True)
    # The largest model says the unit: that is the unpruned one's, where it is known.
    largest = float(scored[cost.unpruned if cost.unpruned in scored else cost.name].max())
    return _Axis(cost.axis_title(largest), cost.unit.axis_unit(largest)[1], False)


def _set_limits(ax: Axes, scored: pd.DataFrame, best: pd.DataFrame) -> None:
    x, front_y = scored["cost"], [*best[QUALITY], *best[ON_TEST].dropna()]
    wide = max(x.max() - x.min(), 0.05 * x.max())
    ax.set_xlim(x.min() - 0.10 * wide, x.max() + 0.06 * wide)
    # One collapsed trial must not flatten the front: what lies far below it is drawn at the edge.
    lowest = min(scored[QUALITY].min(), *front_y)
    low = max(lowest, min(front_y) - 0.5 * max(max(front_y) - min(front_y), 0.05))
    high = max(front_y)
    tall = max(high - low, 0.02)
    ax.set_ylim(low - 0.08 * tall, high + 0.14 * tall)


def _draw_points(ax: Axes, scored: pd.DataFrame, best: pd.DataFrame, baseline: pd.DataFrame) -> None:
    bottom = ax.get_ylim()[0]
    x, y = _steps(ax, best)
    ax.fill_between(x, y, bottom, color=FRONT, alpha=0.06, linewidth=0)
    ax.plot(x, y, color=FRONT, linewidth=1.4, zorder=3)
    rest = scored[~scored["on_front"]]
    below = rest[QUALITY] < bottom
    _mark(ax, rest[~below], QUALITY, "trial", "o", 5, color=LIGHT, zorder=2)
    edge = rest[below].assign(**{QUALITY: bottom})
    _mark(ax, edge, QUALITY, "trial far below", "v", 6, color=LIGHT, clip_on=False, zorder=2)
    _mark(ax, best, QUALITY, "Pareto front", "o", 7.5, color=FRONT, markeredgecolor="white", zorder=5)
    hollow = {"markerfacecolor": "white", "markeredgewidth": 1.4}
    _mark(ax, best, ON_TEST, "front on the test queries", "D", 6, color=TEST, zorder=4, **hollow)
    hollow = {"markerfacecolor": "none", "markeredgewidth": 1.2}
    _mark(ax, baseline, QUALITY, "unpruned model", "o", 13, color=INK, zorder=6, **hollow)


def _steps(ax: Axes, best: pd.DataFrame) -> tuple[list[float], list[float]]:
    # A trial beats all to its right and below: between two trials of the front the smaller one's score holds. Of three
    # objectives some of the front are beaten in the two that are drawn.
    drawn = best.iloc[non_dominated([*zip(best["cost"], best[QUALITY], strict=True)])]
    x = [v for v in drawn["cost"] for _ in range(2)]
    y = [v for v in drawn[QUALITY] for _ in range(2)]
    return [*x, ax.get_xlim()[1]], [ax.get_ylim()[0], *y]


def _mark(ax: Axes, rows: pd.DataFrame, y: str, label: str, marker: str, size: float, **style: Any) -> None:
    rows = rows[rows[y].notna()]
    if len(rows):
        ax.plot(rows["cost"], rows[y], marker, label=label, markersize=size, **style)


def _style(ax: Axes, axis: _Axis, full: _Whole | None) -> None:
    """full: the unpruned model's size, where the axis is of sizes."""
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xlabel(axis.title, color=INK)
    ax.set_ylabel(MEASURES[QUALITY].label, color=INK)
    spines = [*ax.spines.values(), *(_share_axis(ax, full) if full else [])]
    ax.tick_params(colors=INK, length=3)
    ax.grid(color="#e8e8e8", linewidth=0.7)
    ax.set_axisbelow(True)
    for spine in spines:
        spine.set_color("#c8c8c8")


def _share_axis(ax: Axes, full: _Whole) -> list[Any]:
    """The share of the unpruned model's size on top; its spines."""
    factor: Any = 100 / full.size
    top = ax.secondary_xaxis("top", functions=(lambda size: size * factor, lambda share: share / factor))
    top.xaxis.set_major_formatter(lambda value, _: full.text(value))
    of = f"{MEASURES[BLOCKS].label} (of all)" if full.rest else MEASURES[SIZE].label
    top.set_xlabel(f"share of the unpruned model's {of}", color=GREY, fontsize=9)
    top.tick_params(colors=GREY, labelsize=9, length=3)
    return [*top.spines.values()]


def _label(ax: Axes, best: pd.DataFrame, baseline: pd.DataFrame, scored: pd.DataFrame) -> None:
    """Name the front's trials and the unpruned model, each where the name covers no mark, line or other name."""
    import numpy as np

    def pixels(rows: pd.DataFrame, y: str) -> Any:
        return ax.transData.transform(rows.loc[rows[y].notna(), ["cost", y]].to_numpy(float))

    line = ax.transData.transform(np.column_stack(_steps(ax, best)))
    along = [np.linspace(a, b, max(2, int(np.abs(b - a).max() / 4))) for a, b in pairwise(line)]
    labels = _Labels(ax, np.concatenate([pixels(scored, QUALITY), pixels(best, ON_TEST), *along]))
    named = {row["trial"]: row for row in [*baseline.to_dict("records"), *best.to_dict("records")]}
    for row in named.values():
        mlps, attentions = (len([n for n in row[k].split(",") if n]) for k in ("dropped_mlp", "dropped_attention"))
        text = plan_text(mlps, row["width_ratio"], attentions, minus="\N{MINUS SIGN}")
        labels.place((row["cost"], row[QUALITY]), text)


class _Labels:
    """Places texts beside points so that they cover no mark, no line and no other text; else leaves them out."""

    def __init__(self, ax: Axes, taken: Any) -> None:
        """`taken` [N, 2]: what no text may cover, in pixels."""
        self.ax, self.taken, self.pixels = ax, taken, ax.figure.dpi / 72

    def place(self, at: tuple[float, float], text: str) -> None:
        """Write `text` beside the point `at` of the data, with a thin line where it is not next to it."""
        import numpy as np

        style: dict[str, Any] = {"fontsize": 8.5, "color": INK, "zorder": 7, "ha": "center", "va": "center"}
        note = self.ax.annotate(text, at, (0, 0), textcoords="offset points", **style)
        extent, origin = note.get_window_extent(), self.ax.transData.transform(at)
        size = np.array([extent.width, extent.height])
        tried = (self._try(origin, size, distance, angle) for distance in DISTANCES for angle in ANGLES)
        found = next((way for way in tried if way), None)
        if found is None:
            note.remove()
            return
        centre, leader = found
        note.set_position(tuple((centre - origin) / self.pixels))
        self.ax.plot(*self.ax.transData.inverted().transform(leader).T, color=GREY, linewidth=0.6, zorder=4)
        grid = np.stack(np.meshgrid(*(np.linspace(-s / 2, s / 2, max(3, int(s / 6))) for s in size)), -1)
        self.taken = np.concatenate([self.taken, leader, centre + grid.reshape(-1, 2)])

    def _try(self, origin: Any, size: Any, distance: float, angle: float) -> tuple[Any, Any] | None:
        """Centre of the text and the points of its line, in pixels, or None where it would cover something."""
        import numpy as np

        towards = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        anchor = origin + towards * distance * self.pixels
        centre = anchor + np.clip(1.5 * towards, -1, 1) * size / 2
        low, high = centre - size / 2 - 3 * self.pixels, centre + size / 2 + 3 * self.pixels
        outside = (low < self.ax.bbox.min).any() or (high > self.ax.bbox.max).any()
        if outside or ((self.taken > low) & (self.taken < high)).all(axis=1).any():
            return None
        steps = np.linspace(5 / distance, 1, 12 if distance > DISTANCES[1] else 0)[:, None]
        leader = origin + steps * (anchor - origin)
        others = self.taken[np.linalg.norm(self.taken - origin, axis=1) > 10 * self.pixels]
        crossed = np.linalg.norm(others[:, None] - leader, axis=2) < 3 * self.pixels
        return None if crossed.any() else (centre, leader)
