"""`Problem` for hundreds of plans at once: sizes, costs, features and keys straight from suggested values."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from effir_dist.core.config import replace, settings_of
from effir_dist.core.settings import RunConfig
from effir_dist.models.facts import BYTES_A_NUMBER
from effir_dist.models.families.base import mlp_width
from effir_dist.models.operations.base import Sizes
from effir_dist.models.operations.many import Columns, ManySizes
from effir_dist.models.operations.space_part import Known
from effir_dist.runs.records import TrialSpec
from effir_dist.search.strategy.guided import numbers
from effir_dist.search.strategy.guided.pool import Pool, columns_of, plain
from effir_dist.search.strategy.prior import Damage

if TYPE_CHECKING:
    from effir_dist.search.strategy.problem import Problem

PLAN_SETTINGS = ("prune.", "model.")
"""Settings that the plan itself says."""


class ManyPlans:
    """What a problem says of many plans."""

    def __init__(self, problem: Problem, neurons: Mapping[str, np.ndarray]) -> None:
        """neurons: [L, F] saliency for each ranking."""
        self.problem, self.model_config = problem, problem.model_config
        self.width = mlp_width(problem.model_config)
        saliency = neurons.get(problem.config.prune.ranking, next(iter(neurons.values()), None))
        self.damage = Damage(problem.importance, saliency, self.width)
        self.names = [*problem.distributions]
        self.settings = [*settings_of(problem.distributions)]
        self.for_plan = [name for name in self.settings if name.startswith(PLAN_SETTINGS)]
        self.tried = set[Hashable]()
        """Keys of the trials that have begun, as in `Pool.keys`."""

    def know(self, spec: TrialSpec) -> None:
        """Take a trial for tried."""
        self.tried.add(spec.key)
        if all(name in spec.suggested for name in self.names):
            settings = {name: spec.suggested[name] for name in self.for_plan}
            config = replace(self.problem.config, settings) if settings else self.problem.config
            left = ManySizes.one(spec.plan.sizes(self.model_config))
            keys = self._keys(left, config)
            self._add_settings(keys, columns_of([spec.suggested], self.settings), left)
            self.tried |= set(keys)

    def new(self, columns: Columns) -> Pool:
        """Those plans that are feasible and were not tried, each once."""
        pool = self.pool(columns)
        first = {key: place for place, key in reversed([*enumerate(pool.keys)])}
        places = [place for key, place in first.items() if pool.feasible[place] and key not in self.tried]
        return pool.take(sorted(places))

    def pool(self, columns: Columns) -> Pool:
        """All plans that the columns suggest."""
        count = len(next(iter(columns.values()), ()))
        keys: list[Any] = [None] * count
        left = ManySizes.of(self.model_config, count)
        for config, places in self._by_config(columns):
            part = self._left({name: values[places] for name, values in columns.items()}, config)
            if part is None:
                return self._one_by_one(columns, count)
            left.widths[places], left.attention[places] = part.widths, part.attention
            left.truncated[places] = part.truncated
            left = left.replace(keep_norms=part.keep_norms)
            for place, key in zip(places, self._keys(part, config), strict=True):
                keys[place] = key
        self._add_settings(keys, columns, left)
        return self._described(columns, keys, left)

    def features(self, widths: np.ndarray, attention: np.ndarray) -> np.ndarray:
        """[P, 2 L] what is left of each MLP and each attention."""
        # The fourth root: an MLP's first neurons matter most, its last hardly.
        return np.concatenate([(widths / self.width) ** 0.25, attention], axis=1)

    def _by_config(self, columns: Columns) -> Iterator[tuple[RunConfig, np.ndarray]]:
        """The plans by the settings that their plan depends on."""
        config, count = self.problem.config, len(next(iter(columns.values()), ()))
        if not self.for_plan:
            yield config, np.arange(count)
            return
        rows = [tuple(plain(columns[name][i]) for name in self.for_plan) for i in range(count)]
        for values in dict.fromkeys(rows):
            places = np.array([i for i, row in enumerate(rows) if row == values])
            yield replace(config, dict(zip(self.for_plan, values, strict=True))), places

    def _left(self, columns: Columns, config: RunConfig) -> ManySizes | None:
        known = Known(config, self.problem.importance, self.problem.neurons)
        left: ManySizes | None = ManySizes.of(self.model_config, len(next(iter(columns.values()))))
        for part in () if self.problem.space.plans else self.problem.space.parts:
            left = left and part.left(columns, left, known)
        return None if self.problem.space.plans else left

    def _keys(self, left: ManySizes, config: RunConfig) -> list[tuple[Any, ...]]:
        """[P] what makes plans equal: sizes, and which ranking chose the neurons of narrowed MLPs."""
        narrowed = ((left.widths > 0) & (left.widths < self.width)).any(axis=1)
        packed = np.column_stack([left.widths, left.attention, left.truncated]).astype(np.int32)
        sizes = packed.view(f"V{4 * packed.shape[1]}").ravel().tolist()
        return [*zip(sizes, np.where(narrowed, config.prune.ranking, "").tolist(), strict=True)]

    def _add_settings(self, keys: list[Any], columns: Columns, left: ManySizes) -> None:
        """The settings that change something of a trial are part of its key (`Problem.idle`)."""
        trained = [name for name in self.settings if name not in self.for_plan]
        if not trained:
            return
        pruned = ~((left.widths == self.width).all(axis=1) & left.attention.all(axis=1) & (left.truncated == 0))
        for i, key in enumerate(keys):
            values = {name: plain(columns[name][i]) for name in trained}
            off = self.problem.without_effect(values, bool(pruned[i]))
            keys[i] = (*key, *((name, value) for name, value in values.items() if name not in off))

    def _described(self, columns: Columns, keys: Sequence[Any], left: ManySizes) -> Pool:
        problem, values = self.problem, self._values(left)
        share = values["block_parameters"] / values["full_block_parameters"]
        training, scoring = problem.costs(share)
        shares = [np.broadcast_to(each, share.shape) for each in problem.goal.shares(values)]
        inputs = [self._inputs(columns, name) for name in sorted(self.settings)]
        return Pool(
            columns,
            keys,
            np.stack(shares, 1),
            np.concatenate([self.features(left.widths, left.attention), *inputs], axis=1),
            self.damage(left.widths, left.attention),
            np.stack(training, 1),
            np.stack(scoring, 1),
            self._feasible(values, len(share)),
        )

    def _values(self, left: ManySizes) -> dict[str, Any]:
        """`models.facts.plan_values` of each plan: [P] numbers, or one for all."""
        full, parameters = Sizes.of(self.model_config), left.parameters()
        return {
            "parameters": parameters,
            "parameters_fraction": parameters / full.parameters(),
            "full_parameters": full.parameters(),
            "block_parameters": left.block_parameters(),
            "full_block_parameters": full.block_parameters(),
            "index_bytes": BYTES_A_NUMBER * left.dimension,
            "full_index_bytes": BYTES_A_NUMBER * full.dimension,
        }

    def _feasible(self, values: Mapping[str, Any], count: int) -> np.ndarray:
        """[P] whether a plan violates none of the constraints that it tells."""
        known = [c for c in self.problem.goal.constraints if c.measure.known]
        beyond = [np.broadcast_to(c.violation(values, {}), (count,)) for c in known]  # type: ignore[arg-type]
        return np.asarray(np.all([each <= 0 for each in beyond], axis=0)) if known else np.ones(count, bool)

    def _inputs(self, columns: Columns, name: str) -> np.ndarray:
        """[P, 1 or more] a setting as numbers from 0 to 1."""
        distribution = self.problem.distributions[name]
        return np.array([numbers.scaled(distribution, plain(value)) for value in columns[name]])

    def _one_by_one(self, columns: Columns, count: int) -> Pool:
        """The same by the plans themselves."""
        points = [{name: plain(values[i]) for name, values in columns.items()} for i in range(count)]
        specs = [self.problem.spec(0, point) for point in points]
        known = [self.problem.candidate(spec) for spec in specs]
        names = ("shares", "features", "prior", "training", "scoring")
        arrays = {name: np.array([getattr(each, name) for each in known]) for name in names}
        return Pool(columns, [s.key for s in specs], feasible=np.array([*map(self.problem.feasible, specs)]), **arrays)
