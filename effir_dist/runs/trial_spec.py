"""What a trial is to try: `trial.json`, and the head of its other files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from effir_dist.core.config import settings_of
from effir_dist.core.values import Json, Suggested
from effir_dist.models.facts import PlanFacts, plan_facts, plan_values
from effir_dist.models.families.base import ModelDict
from effir_dist.models.pruning import PruningPlan, truncated_plan
from effir_dist.runs import legacy
from effir_dist.runs.schema import Reader

BASE, FULL_RECOVERY = "base", "recovery"
STAGES = (BASE, FULL_RECOVERY)
BASE_TRIAL = "0000"
"""The first trial is the base, where there is one."""


@dataclass(frozen=True)
class TrialSpec:
    """What a trial is to try: on disk from the moment it is started."""

    number: int
    suggested: Suggested
    """Search parameter -> value: Optuna's suggestion."""
    distributions: Mapping[str, str]
    """Search parameter -> its distribution, as Optuna's JSON."""
    plan: PruningPlan
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What the sampler noted for itself, such as NSGA-II's generation."""
    idle: tuple[str, ...] | None = None
    """Suggested settings that change nothing of this trial; None in older records, which do not say."""
    repeat_of: str = ""
    """The trial that this one repeats with another training seed; empty for none."""
    stage: str = ""
    """With `train.order=tune_prune_recover`: BASE for the model that all others start from, FULL_RECOVERY for one
    that goes on from a trial; empty for the search's own trials."""
    continues: str = ""
    """The trial whose weights it starts from, of a full recovery; empty for none."""
    rung: int | None = None
    """Where the trial goes now: a rung below full training, or the top; None in a search without rungs."""
    cost: float = 0.0
    """Of going there, in full trials of the unpruned model."""
    begun: int | None = None
    """How many trials had begun when it was sent there; None in older records."""
    gpus: float = 0.0
    """That the trial takes."""
    written_key: str = ""
    """The key in the file that this was read from: an older version's, so that its checkpoint is known again."""

    @property
    def trial(self) -> str:
        """Its id, the name of its folder."""
        return f"{self.number:04d}"

    @property
    def searched(self) -> bool:
        """Whether it is one of the search's own: samplers, schedulers and `search.trials` know of no other."""
        return not self.repeat_of and not self.stage

    @cached_property
    def key(self) -> str:
        """Equal for trials that give the same model: same plan, stage and settings, but for settings without effect."""
        settings = {name: value for name, value in settings_of(self.suggested).items() if name not in (self.idle or ())}
        staged = [self.stage, self.continues] if self.stage else []
        text = json.dumps([self.plan.to_dict(), settings, *staged], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def older_key(self) -> str:
        """The key that an older version gave it; empty where that is today's."""
        return "" if self.written_key == self.key else self.written_key

    def facts(self, model_config: ModelDict, dimension: int = 0) -> PlanFacts:
        """What its plan leaves. dimension: the run's `model.dimension`, for plans of older versions, which lack it."""
        return plan_facts(model_config, self._plan(model_config, dimension))

    def values(self, model_config: ModelDict, dimension: int = 0) -> dict[str, float]:
        """The measures that its plan tells. dimension: as for `facts`."""
        return plan_values(model_config, self._plan(model_config, dimension))

    def _plan(self, model_config: ModelDict, dimension: int) -> PruningPlan:
        return truncated_plan(model_config, self.plan, int(self.suggested.get("model.dimension", dimension)))

    def to_json(self) -> Json:
        """The head of every file of the trial."""
        found: Json = {
            "trial": self.trial,
            "number": self.number,
            "suggested": dict(self.suggested),
            "distributions": dict(self.distributions),
            "plan": self.plan.to_dict(),
            "key": self.key,
            "attributes": dict(self.attributes),
            "gpus": self.gpus,
        }
        if self.idle is not None:
            found["idle"] = list(self.idle)
        if self.repeat_of:
            found["repeat_of"] = self.repeat_of
        if self.stage:
            found["stage"] = self.stage
        if self.continues:
            found["continues"] = self.continues
        if self.begun is not None:
            found["begun"] = self.begun
        return found if self.rung is None else {**found, "rung": self.rung, "cost": self.cost}

    @staticmethod
    def from_json(tree: Json, path: object) -> TrialSpec:
        """Raises InputError, which names the file and the field, for what no search wrote."""
        read = Reader(legacy.spec(tree), path)
        return TrialSpec(
            number=read.count("number"),
            suggested=read.mapping("suggested"),
            distributions=read.mapping("distributions"),
            plan=PruningPlan.from_dict(read.mapping("plan")),
            attributes=read.mapping("attributes", {}),
            idle=read.optional("idle", read.texts),
            repeat_of=read.text("repeat_of", ""),
            stage=read.one_of("stage", STAGES) if tree.get("stage") else "",
            continues=read.text("continues", ""),
            rung=read.optional("rung", read.count),
            cost=read.number("cost", 0.0),
            begun=read.optional("begun", read.count),
            gpus=read.number("gpus", 0.0),
            written_key=read.text("key", ""),
        )
