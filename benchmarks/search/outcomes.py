"""A table's rows: what was measured of each plan, and what the product's formulas say of any plan of its model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search import plans
from benchmarks.search.plans import RANKING, Point
from benchmarks.search.table import read_parts
from effir_dist.importance.ranking import Importance
from effir_dist.models.families.base import ModelDict, block_count, mlp_width
from effir_dist.models.operations.base import Sizes
from effir_dist.models.operations.neuron_order import NeuronOrder
from effir_dist.models.pruning import PruningPlan, count_parameters, make_plan

Row = dict[str, float]
"""Column -> what was measured; columns without a number are missing."""


@dataclass(frozen=True)
class Shape:
    """What a plan leaves of the model, by formula."""

    widths: tuple[float, ...]
    """[L] share of the neurons left in each MLP; 0 where it is dropped."""
    attention: tuple[bool, ...]
    """[L] whether a block has its attention."""
    size: float
    """Parameters, as a share of the unpruned model's."""
    moving: float
    """Those that each token is multiplied with, as a share: what a step or a scored token costs."""


@dataclass(frozen=True)
class Table:
    """What `table` left in a folder."""

    name: str
    model_config: ModelDict
    importance: Importance
    neurons: np.ndarray
    """[L, F] of the ranking `plans.RANKING`."""
    work: dict[str, float]
    """Tokens that pass the model: `train_S` of a training, `score` of the whole collection, `score_small`."""
    top: int
    """Steps of the full training. What was scored on the way there is left out."""
    points: tuple[Point, ...]
    rows: dict[PruningPlan, Row]
    keep_norms: bool
    """Whether its plans leave the norms behind dropped sub-layers (`prune.keep_norms`)."""
    mark: str
    """Changes with the table's numbers: runs in different tables are never mixed."""
    _plans: dict[Point, PruningPlan] = field(default_factory=dict, repr=False)
    _shapes: dict[PruningPlan, Shape] = field(default_factory=dict, repr=False)

    @property
    def blocks(self) -> int:
        return block_count(self.model_config)

    @property
    def groups(self) -> int:
        """Runs of blocks with a width of their own, in the plans that tell the most apart."""
        return max(len(point.ratios) for point in self.points)

    @property
    def space(self) -> dict[str, Any]:
        """What is searched, as a search space says it, without `layers` and groups: that of the shipped spaces of these
        models, and no more MLPs and attentions dropped than the table knows of."""
        whole = self.blocks <= plans.MOST_ALL_SETS
        width = {"low": 0.25, "high": 1.0, "step": 0.25} if whole else {"low": 0.3, "high": 1.0, "step": 0.1}
        found = {"drop_mlp": {"max": max(len(point.dropped) for point in self.points)}, "width_ratio": width}
        attentions = max(len(point.attentions) for point in self.points)
        return {**found, **({"drop_attention": {"max": attentions}} if attentions else {})}

    @property
    def drops_attentions(self) -> bool:
        """Whether a row does."""
        return any(point.attentions for point in self.points)

    @property
    def columns(self) -> tuple[str, ...]:
        """What is predicted of a plan, in the order in which a plan comes to it."""
        return ("small_0", "ndcg_0", f"ndcg_{self.top}", f"test_{self.top}")

    def plan(self, point: Point) -> PruningPlan:
        """Which model a point means."""
        if point not in self._plans:
            own = (point.dropped, point.attentions, point.ratios)
            self._plans[point] = make_plan(self.model_config, *own, self._order, RANKING, keep_norms=self.keep_norms)
        return self._plans[point]

    def shape(self, plan: PruningPlan) -> Shape:
        """What a plan leaves."""
        if plan not in self._shapes:
            left, full = plan.sizes(self.model_config), Sizes.of(self.model_config)
            widths = tuple(width / mlp_width(self.model_config) for width in left.widths)
            size = left.parameters() / full.parameters()
            moving = left.block_parameters() / full.block_parameters()
            self._shapes[plan] = Shape(widths, left.attention, size, moving)
        return self._shapes[plan]

    def unpruned(self) -> Row:
        """What was measured of the unpruned model."""
        return self.rows[PruningPlan()]

    @cached_property
    def _order(self) -> NeuronOrder:
        return NeuronOrder(self.neurons)


def load(folder: Path) -> Table:
    """A table that `table` left in a folder, or is making there; a plan counts with what was measured of it.

    Raises ValueError where the unpruned model was not trained in full: all scores are shares of its.
    """
    facts = json.loads((folder / "facts.json").read_text())
    lines = list(read_parts(folder).values())
    top = max(int(name.removeprefix("ndcg_")) for name in lines[0] if name.startswith("ndcg_"))
    points = tuple(Point.from_key(line["key"]) for line in lines)
    model_config = facts.get("model_config") or minilm()
    dropped = next(each for each in points if each.dropped and {*each.ratios} == {1.0})
    share = float(lines[points.index(dropped)]["parameters_fraction"])
    found = Table(
        name=folder.name,
        model_config=model_config,
        importance=Importance(**{kind: tuple(facts["importance"][kind]) for kind in ("mlp", "attention", "block")}),
        neurons=np.load(folder / "neurons.npz")[RANKING],
        work=facts["work"],
        top=top,
        points=points,
        rows={},
        keep_norms=_keeps_norms(model_config, dropped, share),
        mark=hashlib.sha256(json.dumps([lines, facts["work"]], sort_keys=True).encode()).hexdigest()[:8],
    )
    for point, line in zip(points, lines, strict=True):
        found.rows[found.plan(point)] = {name: float(line[name]) for name in found.columns if line[name]}
    if f"test_{found.top}" not in found.rows.get(PruningPlan(), {}):
        raise ValueError(f"{folder} has no full training of the unpruned model, by which all others are measured")
    return found


def _keeps_norms(config: ModelDict, point: Point, share: float) -> bool:
    """Told by the parameters that a row has: older tables do not say. point: drops an MLP, no width matters to it."""
    counts = []
    for kept in (False, True):
        plan = make_plan(config, point.dropped, point.attentions, keep_norms=kept)
        counts.append(abs(count_parameters(config, plan) / count_parameters(config) - share))
    return counts[1] < counts[0]


def minilm() -> ModelDict:
    """The config of all-MiniLM-L6-v2, for tables that were made before facts.json held it."""
    from effir_dist.models import pretrained

    return pretrained.find("minilm", "").config
