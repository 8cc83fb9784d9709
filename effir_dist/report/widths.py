"""The width of each MLP at several width ratios, for each ranking of neurons: a table, then a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

RATIOS = (0.9, 0.7, 0.5, 0.3)


def widths_table(neurons: dict[str, np.ndarray]) -> pd.DataFrame:
    """Columns ranking, width_ratio (of all MLPs together), block, width (neurons), share (of the full width).

    neurons: ranking -> [L, F] scores, ranked over all blocks as in a plan that drops no MLP.
    """
    import pandas as pd

    from effir_dist.models.pruning import kept_by_rank

    rows = [
        {"ranking": name, "width_ratio": ratio, "block": block, "width": int(width), "share": width / scores.shape[1]}
        for name, scores in neurons.items()
        for ratio in RATIOS
        for block, width in enumerate(kept_by_rank(scores, ratio))
    ]
    return pd.DataFrame(rows)


def widths_figure(table: pd.DataFrame, title: str) -> Figure:
    """A panel a ranking: the share of its neurons that each block keeps, a line a width ratio."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(table["ranking"]))
    figure = Figure(figsize=(1.4 + 3.0 * len(names), 3.9), dpi=150, layout="constrained")
    axes: Any = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    shades = {ratio: f"{0.75 * i / len(RATIOS):.2f}" for i, ratio in enumerate(reversed(RATIOS))}
    for ax, name in zip(axes, names, strict=True):
        for ratio, rows in table[table["ranking"] == name].groupby("width_ratio"):
            style = {"color": shades[ratio], "marker": "o", "markersize": 3.5}
            ax.plot(rows["block"], 100 * rows["share"], label=f"{ratio:.0%} of all", **style)
        ax.set_title(name, fontsize=11)
        ax.set_xlabel("block")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_ylim(-3, 103)
        ax.grid(color="#e8e8e8", linewidth=0.7)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("neurons kept (%)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=len(RATIOS), frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=12)
    return figure
