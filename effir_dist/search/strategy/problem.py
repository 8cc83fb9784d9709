"""What a search may try: from suggested values to trial specs, and what those tell before anything is trained.

Without files and without a cluster: a sampler may ask this of hundreds of plans for each trial.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from optuna.distributions import distribution_to_json

from effir_dist.core.config import replace, settings_of
from effir_dist.core.settings import RunConfig, TrainConfig
from effir_dist.core.values import Value
from effir_dist.importance.ranking import Importance
from effir_dist.models.families.base import ModelDict, block_count
from effir_dist.models.operations.neuron_order import NeuronOrder
from effir_dist.models.pruning import PruningPlan, moving_share
from effir_dist.runs.objectives import Goal, is_unpruned
from effir_dist.runs.records import TrialSpec
from effir_dist.search.cost_estimate import Share, fitting_tokens
from effir_dist.search.strategy import space as spaces
from effir_dist.search.strategy.guided import numbers
from effir_dist.search.strategy.guided.pool import Candidate
from effir_dist.search.strategy.many_plans import PLAN_SETTINGS, ManyPlans
from effir_dist.search.strategy.space import Space


class Problem:
    """The search space, the goal and the costs of one search; and which plans were tried."""

    def __init__(
        self,
        config: RunConfig,
        space: Space,
        model_config: ModelDict,
        importance: Importance,
        neurons: Mapping[str, np.ndarray],
        work: Mapping[str, float],
        rungs: tuple[float, ...] = (),
    ) -> None:
        """neurons: [L, F] scores for each ranking. work: tokens of a training (`train`), of a scoring in full (`score`)
        and on a lower rung (`low`). rungs: shares of the training, those below full training."""
        self.config, self.space, self.model_config = config, space, model_config
        self.importance = importance
        self.neurons = {ranking: NeuronOrder(scores) for ranking, scores in neurons.items()}
        self.work, self.rungs = work, rungs
        self.goal = Goal.of(config.search)
        blocks = block_count(model_config)
        self.distributions = spaces.distributions(space, blocks)
        self.distributions_json = {name: distribution_to_json(each) for name, each in self.distributions.items()}
        self.starts = spaces.starting_points(space, config, blocks, importance)
        """Values that are tried first."""
        self.start_count = len(self.starts)
        self.tried: set[str] = set()
        """Keys of the trials that have begun."""
        self.many = ManyPlans(self, neurons)
        """The same for many plans at once."""

    def spec(self, number: int, suggested: Mapping[str, Value]) -> TrialSpec:
        """The trial `number` with suggested values."""
        values = dict(suggested)
        settings = {name: value for name, value in values.items() if name.startswith(PLAN_SETTINGS)}
        config = replace(self.config, settings) if settings else self.config
        plan = spaces.plan_of(values, self.space, self.model_config, self.importance, self.neurons, config)
        return TrialSpec(number, values, self.distributions_json, plan, idle=self._idle(values, plan))

    def _idle(self, values: Mapping[str, Value], plan: PruningPlan) -> tuple[str, ...]:
        """The suggested settings that change nothing of a trial: what its plan says already, and settings of its
        training that others turn off."""
        settings = settings_of(values)
        trained = {name: value for name, value in settings.items() if name.startswith("train.")}
        off = self.without_effect(trained, bool(plan.operations))
        return tuple(sorted({*(settings.keys() - trained.keys()), *(trained.keys() & off)}))

    def without_effect(self, trained: Mapping[str, Value], pruned: bool) -> set[str]:
        """Settings of the training that change nothing. trained: those suggested. pruned: whether the plan does."""
        varied = trained.keys() & {f"train.{name}" for name in TrainConfig.SWITCHES}
        train = replace(self.config, dict(trained)).train if varied else self.config.train
        return {f"train.{name}" for name in train.without_effect() | (set() if pruned else {"order"})}

    def know(self, spec: TrialSpec) -> None:
        """Take a trial for tried. What an older version wrote is known by today's plan of its values as well."""
        self.tried.add(spec.key)
        if spec.idle is None:
            self.tried.add(self.spec(spec.number, spec.suggested).key)
        self.many.know(spec)

    def feasible(self, spec: TrialSpec) -> bool:
        """Whether a plan violates no constraint, whatever its training makes of it."""
        return not self.goal.constraints or not self.goal.violated_by_plan(self._values(spec))

    def is_unpruned(self, spec: TrialSpec) -> bool:
        """Whether it is the baseline, which is tried in any case."""
        return is_unpruned(self._values(spec))

    def emptied(self, spec: TrialSpec) -> list[int]:
        """The MLPs that a trial drops only because its width ratio left them no neuron."""
        return spaces.emptied(dict(spec.suggested), self.space, self.model_config, self.importance, spec.plan)

    def candidate(self, spec: TrialSpec) -> Candidate:
        """What is known of a trial before it is scored."""
        facts = spec.facts(self.model_config, self.config.model.dimension)
        gone, blocks = set(facts.dropped_attention), range(len(facts.mlp_widths))
        widths, attention = np.array([facts.mlp_widths]), np.array([[block not in gone for block in blocks]])
        features = (*self.many.features(widths, attention)[0].tolist(), *self._inputs(spec))
        training, scoring = self.costs(moving_share(self.model_config, spec.plan))
        prior = tuple(self.many.damage(widths, attention)[0].tolist())
        return Candidate(self.goal.shares(self._values(spec)), features, training, scoring, prior)

    def seed(self, number: int, attempt: int) -> int:
        """Of an attempt to propose the trial `number`."""
        digest = hashlib.sha256(f"{self.config.search.seed}/{number}/{attempt}".encode()).digest()
        return int.from_bytes(digest[:4], "little")

    def costs(self, share: Share) -> tuple[tuple[Share, ...], tuple[Share, ...]]:
        """Training up to each rung, and scoring there, in full trials of the unpruned model. share: of its FLOPs. A
        trial's matrices are fitted before it is scored on any rung."""
        full = self.work["train"] + self.work["score"]
        training = [part * self.work["train"] for part in (*self.rungs, 1.0)]
        scoring = [*[self.work["low"]] * len(self.rungs), self.work["score"]]
        fitting = fitting_tokens(self.work, share)
        return (
            tuple(share * tokens / full for tokens in training),
            tuple((share * tokens + fitting) / full for tokens in scoring),
        )

    def _inputs(self, spec: TrialSpec) -> list[float]:
        """The suggested settings as numbers from 0 to 1."""
        settings = settings_of(dict(spec.suggested))
        names = [name for name in sorted(self.distributions) if name in settings]
        return [value for name in names for value in numbers.scaled(self.distributions[name], settings[name])]

    def _values(self, spec: TrialSpec) -> dict[str, float]:
        return spec.values(self.model_config, self.config.model.dimension)
