"""What a plan outside of a table would have scored: regressions that are fitted to the table, one for each column.

It is no surrogate of the search's: other inputs, other models, and all rows of the table. For each column several
models of scikit-learn are cross-validated, and the one with the smallest error is taken.

A plan comes to its columns in their order, and the columns before are inputs of the next: what a plan scored untrained
tells of its trained score what it tells in the table.

*What a strategy is told.* A cell of the table as measured. Else the prediction plus a residual: the cross-validated
errors of one row of the table, whole, so that errors of a row's columns stay together; of a row that is near in size,
as small models err by more; which one is drawn by a hash of the plan. So a plan has the same answer for all strategies
and seeds, and trainings are as noisy as they are in the table.

*What a plan is worth* is the prediction without a residual, and for a row of the table the cross-validated one: a lucky
training deceives a strategy, and counts for nothing. Else the best of 2^30 plans would be the luckiest one, and who
trains most would seem to find most.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr
from sklearn.base import RegressorMixin, clone
from sklearn.model_selection import KFold

from benchmarks.search.features import Features
from benchmarks.search.outcomes import Table
from benchmarks.search.regressions import candidates
from effir_dist.models.pruning import PruningPlan

FOLDS = 5
DIGITS = 6
"""Of scores, as in tables: a plan that is asked alone has the score that it has among others."""
NEAREST = 40
"""Rows of the table of a similar size, one of which lends a plan its residual."""


@dataclass(frozen=True)
class Error:
    """How one model does on rows that it has not seen."""

    table: str
    column: str
    model: str
    chosen: bool
    rows: int
    rmse: float
    deviation: float
    """Of the column itself: what the mean of all rows would err by."""
    spearman: float


@dataclass(frozen=True)
class Column:
    """One column's regression."""

    model: RegressorMixin
    held_out: dict[PruningPlan, float]
    """Rows that have the column -> what the model says of them that has not seen them."""


class Emulator:
    """Answers for any plan of a table's model. Answers are kept, so that each is computed once."""

    def __init__(self, table: Table, seed: int = 0) -> None:
        self.table, self.features = table, Features(table)
        self.errors: list[Error] = []
        self.fitted: dict[str, Column] = {}
        self._told: dict[str, dict[PruningPlan, float]] = {name: {} for name in table.columns}
        self._worth: dict[PruningPlan, float] = {}
        for name in table.columns:
            self.fitted[name] = self._fit(name, seed)
        self._residuals, self._sizes = self._residual_rows()

    def told(self, plans: Sequence[PruningPlan], column: str) -> np.ndarray:
        """[N] what a strategy is told of plans: nDCG@10."""
        known = self._told[column]
        new = [plan for plan in dict.fromkeys(plans) if plan not in known]
        if new:
            means, place = self._means(new, column), self.table.columns.index(column)
            for plan, mean in zip(new, means, strict=True):
                measured = self.table.rows.get(plan, {}).get(column)
                drawn = round(float(np.clip(mean + self._residual(plan)[place], 0, 1)), DIGITS)
                known[plan] = drawn if measured is None else measured
        return np.array([known[plan] for plan in plans])

    def worth(self, plans: Sequence[PruningPlan]) -> np.ndarray:
        """[N] what plans are worth, fully trained: nDCG@10 without luck."""
        final = f"ndcg_{self.table.top}"
        new = [plan for plan in dict.fromkeys(plans) if plan not in self._worth]
        if new:
            held_out = self.fitted[final].held_out
            for plan, mean in zip(new, self._means(new, final), strict=True):
                self._worth[plan] = round(held_out.get(plan, float(mean)), DIGITS)
        return np.array([self._worth[plan] for plan in plans])

    def _means(self, plans: Sequence[PruningPlan], column: str) -> np.ndarray:
        """[N] predictions, from what plans were told of the columns before."""
        earlier = self.table.columns[: self.table.columns.index(column)]
        inputs = np.column_stack([self.features.of(plans), *(self.told(plans, name) for name in earlier)])
        return np.asarray(self.fitted[column].model.predict(inputs), float)

    def _fit(self, column: str, seed: int) -> Column:
        """Cross-validate all models on the rows that have the column, and fit the best to all of them."""
        names = self.table.columns[: self.table.columns.index(column) + 1]
        rows = {plan: row for plan, row in self.table.rows.items() if all(name in row for name in names)}
        plans = list(rows)
        scores = np.array([[row[name] for name in names] for row in rows.values()])
        x, y = np.column_stack([self.features.of(plans), scores[:, :-1]]), scores[:, -1]
        found = {name: _cross_validated(model, x, y, seed) for name, model in self._candidates(len(names) - 1).items()}
        best = min(found, key=lambda name: _rmse(found[name], y))
        for name, predicted in found.items():
            shown = (len(y), _rmse(predicted, y), float(y.std()), float(spearmanr(predicted, y)[0]))
            self.errors.append(Error(self.table.name, column, name, name == best, *shown))
        model = _fitted(self._candidates(len(names) - 1)[best], x, y)
        return Column(model, dict(zip(plans, found[best].tolist(), strict=True)))

    def _candidates(self, earlier: int) -> dict[str, RegressorMixin]:
        """The models, which know which of their inputs are sums over the model."""
        return candidates([*self.features.sums, *range(self.features.count, self.features.count + earlier)])

    def _residual_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """[R, columns] errors of the rows that have every column, and [R] their sizes."""
        columns = self.table.columns
        whole = [plan for plan, row in self.table.rows.items() if all(name in row for name in columns)]
        errors = [[self.table.rows[p][name] - self.fitted[name].held_out[p] for name in columns] for p in whole]
        return np.array(errors), np.array([self.table.shape(plan).size for plan in whole])

    def _residual(self, plan: PruningPlan) -> np.ndarray:
        """[columns] the errors that a plan has."""
        near = np.argsort(abs(self._sizes - self.table.shape(plan).size), kind="stable")[:NEAREST]
        digest = hashlib.sha256(f"{self.table.name}/{plan.key()}".encode()).digest()
        return self._residuals[near[int.from_bytes(digest[:4], "little") % len(near)]]


def _cross_validated(model: RegressorMixin, x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """[N] predictions for each row by a model that has not seen it."""
    found = np.empty(len(y))
    for seen, held_out in KFold(min(FOLDS, len(y)), shuffle=True, random_state=seed).split(x):
        found[held_out] = _fitted(model, x[seen], y[seen]).predict(x[held_out])
    return found


def _fitted(model: RegressorMixin, x: np.ndarray, y: np.ndarray) -> RegressorMixin:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length scale at its bound says that an input does not matter
        return clone(model).fit(x, y)


def _rmse(predicted: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(np.mean((predicted - y) ** 2)))
