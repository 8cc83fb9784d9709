"""Settings of the search and of what its trials take of the cluster: `search`, `resources`."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from effir_dist.core.errors import check, one_of
from effir_dist.core.measures import DEFAULT, check_objectives, parse_constraint

SAMPLERS = ("guided", "tpe", "nsga2", "gp", "random")
HUB = "optunahub:"
"""How a sampler's name begins that is a package of OptunaHub."""
SAMPLER_CLASS = re.compile(rf"{HUB}[\w./@:-]+|\w+(\.\w+)*:\w+")
"""Other samplers than SAMPLERS."""
SCHEDULERS = ("screening", "asha", "plain")
SCREENING_COSTS = ("seconds", "flops")
MOST_ON_A_GPU = 48
"""Processes that CUDA's multi-process service takes on a GPU (60 from CUDA 13.1 on)."""


def trials_on_a_gpu(gpus: float) -> int:
    """How many processes of so many GPUs each share one: 8 for 0.125, 3 for 0.3, 1 for whole ones and for none."""
    return math.floor(1 / gpus + 1e-6) if 0 < gpus < 1 else 1


@dataclass(frozen=True)
class SearchConfig:
    """The search itself."""

    trials: int = 14
    """Trials trained in full. Those that stop on a lower rung come on top."""
    sampler: str = "guided"
    """What proposes plans. `guided`: our surrogate, by the expected improvement of the hypervolume for a plan's cost.
    `tpe`, `nsga2`, `gp`, `random`: Optuna's samplers. `package.module:Class`: any other `optuna.samplers.BaseSampler`.
    `optunahub:NAME`: one of OptunaHub (docs/guides/guided-sampler.md)."""
    sampler_options: dict[str, Any] = field(default_factory=dict)
    """Of a class or one of OptunaHub: arguments that it is made with. It gets the search's seed by itself."""
    scheduler: str = "screening"
    """Which plans are trained, and how far. `screening`: plans are scored on the lower rungs, and the most promising
    are trained in full. `asha`: the best of each rung train on to the next, by non-dominated rank and crowding.
    `plain`: every plan is trained in full."""
    rungs: tuple[float, ...] = (0.0,)
    """Shares of a training after which a trial is scored, and goes on only if it is chosen; 0 is before any."""
    screening_budget: float = 0.1
    """Of `screening`: the share of the search's cost that is spent on the lowest rung. Nothing is screened where that
    buys fewer than two plans for each full trial."""
    screening_cost: str = "seconds"
    """What that share is of. `seconds`: as the trials took them; FLOPs before the first are known. `flops`: the same on
    any machine, so that equal seeds give equal searches."""
    most_screened: int = 16
    """Of `screening`: plans that are screened for a promotion, at most; 4 before a surrogate has its first data."""
    promotion_fraction: float = 0.25
    """Of `asha`: the share of the trials on a rung that goes on to the next."""
    rung_queries: int = 100
    """Queries of each data set that score a trial on a lower rung; 0 takes as many as on the top rung."""
    rung_documents: int = 300
    """Documents that are searched on a lower rung: the judged ones and a sample; 0 takes as many as on the top rung."""
    time_budget: float = 0.0
    """Seconds after which no trial runs any more; 0 is no limit."""
    seed: int = 0
    """Of the sampler, and of the parts of the data that are drawn. Equal seeds give equal searches."""
    keep_weights: str = "front"
    """Weights kept on disk: of the `front`, of `all` trials, or `none` (then the front cannot be exported). The base's
    are kept in any case, and those that a full recovery starts from until that is done."""
    full_recovery: bool = True
    """With `train.order=tune_prune_recover`: whether the front's models are trained on at the end, each as a trial of
    its own, for the steps that `train.recovery` left out."""
    objectives: tuple[str, ...] = DEFAULT
    """Two or three, quality and cost among them (effir_dist/core/measures.py)."""
    constraints: tuple[str, ...] = ()
    """Such as `parameters <= 0.5` and `ndcg_at_10 >= 0.98`: shares of the unpruned model's value."""
    quality_sets: tuple[str, ...] = ()
    """Names of the data sets whose mean is a trial's quality. By default all of `data.paths`."""
    gpu_hours: float = 0.0
    """GPU hours of all trials together; no trial is started that would exceed them. 0 is no limit."""
    patience_trials: int = 0
    """The search ends when this many trials have not raised the hypervolume by `patience_percent`; 0 turns it off."""
    patience_percent: float = 1.0
    """Growth of the hypervolume, in percent, that `patience_trials` waits for."""
    safe_loss: float = 0.02
    """A pruned model is called safe where its nDCG@10 is, with 95 % confidence, less than this below the unpruned one's
    (effir_dist/report/safety.py)."""
    equal_failures: int = 10
    """The search stops when this many trials in a row failed for the same reason; 0 turns it off."""

    def __post_init__(self) -> None:
        check(self.trials >= 1, "search.trials", self.trials, "1 or more")
        check(self.time_budget >= 0, "search.time_budget", self.time_budget, "0 or more seconds")
        self._check_sampler()
        one_of("search.scheduler", self.scheduler, SCHEDULERS)
        rising = all(0 <= a < b for a, b in itertools.pairwise((*self.rungs, 1.0)))
        check(rising and bool(self.rungs), "search.rungs", self.rungs, "rising shares from 0 to below 1, one or more")
        for name in ("screening_budget", "promotion_fraction"):
            check(0 < getattr(self, name) < 1, f"search.{name}", getattr(self, name), "between 0 and 1, both excluded")
        one_of("search.screening_cost", self.screening_cost, SCREENING_COSTS)
        check(self.most_screened >= 1, "search.most_screened", self.most_screened, "1 or more")
        for name in ("rung_queries", "rung_documents"):
            check(getattr(self, name) >= 0, f"search.{name}", getattr(self, name), "0 (all) or more")
        one_of("search.keep_weights", self.keep_weights, ("front", "all", "none"))
        check_objectives(self.objectives)
        for text in self.constraints:
            parse_constraint(text)
        check(self.gpu_hours >= 0, "search.gpu_hours", self.gpu_hours, "0 (no limit) or more")
        check(self.patience_trials >= 0, "search.patience_trials", self.patience_trials, "0 (off) or more")
        check(self.patience_percent >= 0, "search.patience_percent", self.patience_percent, "0 or more")
        check(0 <= self.safe_loss < 1, "search.safe_loss", self.safe_loss, "from 0 to below 1, such as 0.02")
        check(self.equal_failures >= 0, "search.equal_failures", self.equal_failures, "0 (off) or more")

    def _check_sampler(self) -> None:
        """What shows without importing it; the rest is up to search/strategy/sampler_classes.py."""
        if not SAMPLER_CLASS.fullmatch(self.sampler):
            names = ", ".join(map(repr, SAMPLERS))
            expected = f"one of {names}, a class as package.module:Class, or {HUB}NAME"
            check(self.sampler in SAMPLERS, "search.sampler", self.sampler, expected)
            empty = f"empty with search.sampler={self.sampler}: options are for classes"
            check(not self.sampler_options, "search.sampler_options", self.sampler_options, empty)


@dataclass(frozen=True)
class ResourceConfig:
    """What a trial takes of the cluster. None is settled at the start, from what there is."""

    workers_per_trial: int = 1
    """Processes that train one trial together, each a rank."""
    gpus_per_trial: float | Literal["auto"] | None = None
    """GPUs of all workers of a trial together. By default one for each worker where there are GPUs. 0.125: eight trials
    share a GPU. `auto`: as many share one, up to 8, as its memory has room for by prediction, and as it has CPUs."""
    gpus_per_worker: float | None = None
    """GPUs of each worker. Give this or `gpus_per_trial`, not both."""
    cpus_per_trial: float | None = None
    """CPUs of all workers of a trial together. By default the machine's, or with GPUs each GPU's share of them."""
    max_concurrent: int | None = None
    """Trials that run at a time. By default as many as fit."""
    most_nodes: int = 0
    """Nodes that the cluster may grow to, each of `node_cpus` and `node_gpus`, where it does not tell
    (docs/guides/clusters.md); 0 for clusters of `ray up` and KubeRay, which tell, and for those that do not grow."""
    node_cpus: float = 0.0
    """CPUs of each of `most_nodes`."""
    node_gpus: float = 0.0
    """GPUs of each of `most_nodes`."""
    gpu_memory: float = 0.0
    """GB of a GPU's memory, which `--dry-run` compares its prediction with; 0 asks this machine's driver."""
    mps: bool = True
    """Start CUDA's multi-process service on this machine where trials share its GPUs and none runs yet."""

    def __post_init__(self) -> None:
        check(self.workers_per_trial >= 1, "resources.workers_per_trial", self.workers_per_trial, "1 or more")
        for name in ("gpus_per_trial", "gpus_per_worker", "cpus_per_trial"):
            value = getattr(self, name)
            check(value in (None, "auto") or value >= 0, f"resources.{name}", value, "0 or more")
        check(self.gpu_memory >= 0, "resources.gpu_memory", self.gpu_memory, "0 (this machine's) or more GB")
        check(self.most_nodes >= 0, "resources.most_nodes", self.most_nodes, "0 or more")
        check(self.node_gpus >= 0, "resources.node_gpus", self.node_gpus, "0 or more")
        sized = self.node_cpus > 0 if self.most_nodes else self.node_cpus == 0
        check(sized, "resources.node_cpus", self.node_cpus, "above 0 with resources.most_nodes, else left out")
        both = self.gpus_per_trial is not None and self.gpus_per_worker is not None
        check(not both, "resources.gpus_per_worker", self.gpus_per_worker, "left out where gpus_per_trial is given")
        check(
            self.max_concurrent is None or self.max_concurrent >= 1,
            "resources.max_concurrent",
            self.max_concurrent,
            "1 or more",
        )
        self._check_fraction()

    def _check_fraction(self) -> None:
        """A part of a GPU is one worker's, and there is no part of a second one."""
        of_all = self.gpus_per_worker is None
        name, value = ("gpus_per_trial", self.gpus_per_trial) if of_all else ("gpus_per_worker", self.gpus_per_worker)
        if self.gpus is None or self.gpus / self.workers_per_trial % 1 == 0:
            return
        name, workers = f"resources.{name}", self.workers_per_trial
        check(workers == 1, name, value, f"whole GPUs for each of {workers} workers, which cannot share one")
        check(self.gpus < 1, name, value, "a part of one GPU, or whole GPUs")
        fits = trials_on_a_gpu(self.gpus) <= MOST_ON_A_GPU
        check(fits, name, value, f"0, or 1/{MOST_ON_A_GPU} or more: a GPU takes no more processes")

    @property
    def gpus(self) -> float | None:
        """GPUs of all workers of a trial together, as they were asked for; None where they were not, or by `auto`."""
        if self.gpus_per_worker is not None:
            return self.gpus_per_worker * self.workers_per_trial
        return None if self.gpus_per_trial == "auto" else self.gpus_per_trial

    @property
    def on_a_gpu(self) -> int:
        """Trials that share a GPU, as far as that is settled."""
        return trials_on_a_gpu(self.gpus or 0.0)

    @property
    def may_share(self) -> bool:
        """Whether trials share a GPU, or may come to."""
        return self.on_a_gpu > 1 or self.gpus_per_trial == "auto"
