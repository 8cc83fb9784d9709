"""The widths that are plotted are those that a plan of the same ratio has."""

from __future__ import annotations

import numpy as np

from effir_dist.models.families.registry import BACKBONES
from effir_dist.models.pruning import make_plan, mlp_widths
from effir_dist.report.widths import RATIOS, widths_figure, widths_table

CONFIG = BACKBONES["minilm"].config


def test_the_table_is_what_plans_have() -> None:
    rng = np.random.default_rng(0)
    neurons = {name: rng.random((6, 1536)) * (1 + np.arange(6))[:, None] for name in ("slimming", "activation")}
    table = widths_table(neurons)
    assert len(table) == 2 * len(RATIOS) * 6
    for (name, ratio), rows in table.groupby(["ranking", "width_ratio"]):
        plan = make_plan(CONFIG, [], [], ratio, neurons[name], name)
        assert rows["width"].tolist() == mlp_widths(CONFIG, plan)
    figure = widths_figure(table, "widths")
    lines = figure.axes[1].get_lines()
    expected = table[(table["ranking"] == "activation") & (table["width_ratio"] == 0.3)]
    np.testing.assert_allclose(lines[0].get_ydata(), 100 * expected["share"])
    assert [ax.get_title() for ax in figure.axes] == ["slimming", "activation"]
