"""The regressions that the emulator chooses among, all of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

ALPHAS = np.logspace(-2, 4, 13)
LEAST, MOST = 1e-3, 1 - 1e-3
"""Of a score, before its logit is taken."""
KERNEL_ROWS = 150
"""Rows that the settings of a kernel are fitted to; then the process is fitted to all of them."""


def candidates(sums: Sequence[int]) -> dict[str, RegressorMixin]:
    """By name, not fitted. sums: places of the inputs that are sums over the model, which suit quadratic terms and a
    length scale each; there are too many parts for either."""
    ridge = make_pipeline(StandardScaler(), RidgeCV(ALPHAS))
    some = ColumnTransformer([("sums", "passthrough", list(sums))])
    quadratic = make_pipeline(StandardScaler(), _with_squares(sums), RidgeCV(ALPHAS))
    return {
        "ridge": ridge,
        "ridge, logit": TransformedTargetRegressor(clone(ridge), func=_logit, inverse_func=_expit),
        "quadratic": quadratic,
        "quadratic, logit": TransformedTargetRegressor(clone(quadratic), func=_logit, inverse_func=_expit),
        "gp": make_pipeline(StandardScaler(), Process()),
        "gp, ARD": make_pipeline(some, StandardScaler(), Process(lengths=len(sums))),
        "extra trees": Trees(150, min_samples_leaf=2, max_features=0.5, random_state=0),
        "boosting": GradientBoostingRegressor(n_estimators=200, learning_rate=0.05, subsample=0.6, random_state=0),
        "ridge + trees": Stacked(clone(ridge), Trees(150, min_samples_leaf=3, max_features=0.5, random_state=0)),
    }


def _with_squares(sums: Sequence[int]) -> ColumnTransformer:
    """All inputs, and the products of the sums."""
    squares = PolynomialFeatures(2, include_bias=False)
    return ColumnTransformer([("squares", squares, list(sums))], remainder="passthrough")


def _logit(y: np.ndarray) -> np.ndarray:
    inside = np.clip(y, LEAST, MOST)
    return np.asarray(np.log(inside / (1 - inside)))


def _expit(z: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-z)))


class Trees(ExtraTreesRegressor):
    """Extremely randomised trees whose prediction of one plan takes a millisecond, not twenty: no threads."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        inputs = np.ascontiguousarray(x, np.float32)
        return np.mean([tree.tree_.predict(inputs)[:, 0] for tree in self.estimators_], axis=0)


class Process(RegressorMixin, BaseEstimator):
    """A Gaussian process: a line, a Matern kernel and noise. lengths: how many length scales, 1 for all inputs."""

    def __init__(self, lengths: int = 1) -> None:
        self.lengths = lengths

    def fit(self, x: np.ndarray, y: np.ndarray) -> Self:
        few = np.random.default_rng(0).permutation(len(y))[:KERNEL_ROWS]
        length = np.sqrt(x.shape[1]) * (np.ones(self.lengths) if self.lengths > 1 else 1.0)
        matern = ConstantKernel(1.0) * Matern(length, (0.1, 1e3), nu=2.5)
        kernel: Any = matern + ConstantKernel(0.1) * DotProduct(1.0) + WhiteKernel(0.1)
        found = GaussianProcessRegressor(kernel, normalize_y=True).fit(x[few], y[few]).kernel_
        self.process_ = GaussianProcessRegressor(found, optimizer=None, normalize_y=True).fit(x, y)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.process_.predict(x))


class Stacked(RegressorMixin, BaseEstimator):
    """A line, and trees for what it misses."""

    def __init__(self, line: RegressorMixin, trees: RegressorMixin) -> None:
        self.line, self.trees = line, trees

    def fit(self, x: np.ndarray, y: np.ndarray) -> Self:
        self.line_ = clone(self.line).fit(x, y)
        self.trees_ = clone(self.trees).fit(x, y - self.line_.predict(x))
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.line_.predict(x) + self.trees_.predict(x))
