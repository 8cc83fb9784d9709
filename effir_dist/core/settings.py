"""All settings of a run: frozen dataclasses, each value checked when one is made.

The groups are in `model_settings`, `train_settings` and `search_settings`; import them from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from effir_dist.core.model_settings import (
    COMPILE,
    DISTANCES,
    DTYPES,
    GRANULARITIES,
    POOLINGS,
    RANKINGS,
    DataConfig,
    ModelConfig,
    PruneConfig,
    ScoreConfig,
)
from effir_dist.core.search_settings import SAMPLERS, SCHEDULERS, ResourceConfig, SearchConfig
from effir_dist.core.train_settings import ORDERS, TrainConfig

__all__ = [
    "COMPILE",
    "DISTANCES",
    "DTYPES",
    "DataConfig",
    "GRANULARITIES",
    "ModelConfig",
    "ORDERS",
    "POOLINGS",
    "PruneConfig",
    "RANKINGS",
    "ResourceConfig",
    "RunConfig",
    "SAMPLERS",
    "SCHEDULERS",
    "ScoreConfig",
    "SearchConfig",
    "TrainConfig",
]


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run, as written to `runs/NAME/config.yaml`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    resources: ResourceConfig = field(default_factory=ResourceConfig)

    @property
    def worker_queries(self) -> int:
        """A worker's share of a batch, in queries."""
        return max(1, self.train.batch_size // self.resources.workers_per_trial)
