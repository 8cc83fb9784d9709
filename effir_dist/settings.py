"""All settings of a run: frozen dataclasses, each value checked when one is made."""

from __future__ import annotations

from dataclasses import dataclass, field

from effir_dist.errors import InputError

DTYPES = ("auto", "float32", "bfloat16")
RANKINGS = ("slimming", "activation", "magnitude", "taylor", "random")
POOLINGS = ("", "mean", "last", "cls")


def _check(ok: bool, name: str, value: object, expected: str) -> None:
    if not ok:
        raise InputError(f"{name} must be {expected}, got {value!r}")


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    _check(value in allowed, name, value, "one of " + ", ".join(repr(a) for a in allowed))


@dataclass(frozen=True)
class ModelConfig:
    """Which retriever is pruned. Empty strings and None mean: as the backbone's row says."""

    backbone: str = "minilm"
    """Name of a backbone (effir_dist/backbones.py)."""
    path: str = ""
    """Folder or hub id of a checkpoint; overrides the backbone's own hub id."""
    pooling: str = ""
    """`mean`, `last` (the last token, `<eos>`) or `cls`."""
    query_prompt: str | None = None
    """Text put before every query."""
    document_prompt: str | None = None
    """Text put before every document."""
    max_query_length: int = 64
    """Tokens kept of a query, special tokens included."""
    max_document_length: int = 256
    """Tokens kept of a document, special tokens included."""

    def __post_init__(self) -> None:
        _one_of("model.pooling", self.pooling, POOLINGS)
        for name in ("max_query_length", "max_document_length"):
            value = getattr(self, name)
            _check(4 <= value <= 131072, f"model.{name}", value, "between 4 and 131072 tokens")


@dataclass(frozen=True)
class DataConfig:
    """What is trained on and what scores. A path is a BEIR-format folder, or `pydocs`, the built-in data."""

    paths: tuple[str, ...] = ("pydocs",)
    """Data sets; each is trained on where it has the training split, and scored."""
    train_split: str = "train"
    search_split: str = "dev"
    """Scores the search. Where a data set lacks it, `search_share` of the training queries is set aside."""
    test_split: str = "test"
    """Scores the finished front, once; never read before."""
    search_share: float = 0.1
    """Share of the training queries set aside to score the search where there is no `search_split`."""
    max_train_pairs: int = 0
    """Training pairs kept of each data set (a seeded sample); 0 keeps all."""
    max_queries: int = 0
    """Queries scored of each data set (a seeded sample); 0 keeps all."""
    max_documents: int = 0
    """Documents searched of each data set: the judged ones and a seeded sample of the rest; 0 keeps all."""

    def __post_init__(self) -> None:
        _check(len(self.paths) > 0, "data.paths", self.paths, "at least one data folder")
        _check(0.0 < self.search_share < 1.0, "data.search_share", self.search_share, "between 0 and 1, both excluded")
        for name in ("max_train_pairs", "max_queries", "max_documents"):
            _check(getattr(self, name) >= 0, f"data.{name}", getattr(self, name), "0 (all) or more")
        _check(
            self.test_split not in (self.search_split, self.train_split),
            "data.test_split",
            self.test_split,
            "a split that neither trains nor steers the search",
        )


@dataclass(frozen=True)
class TrainConfig:
    """Contrastive fine-tuning of one trial (paper, section 4.1; shared settings of its recipe where not stated)."""

    steps: int = 0
    """Optimizer steps; 0 trains for `epochs`."""
    epochs: float = 1.0
    """Passes over the training pairs where `steps` is 0; 0 with `steps: 0` skips training."""
    batch_size: int = 32
    """Query-positive pairs in a step, over all workers."""
    hard_negatives: int = 0
    """Hard negatives a query, where the data has them."""
    learning_rate: float = 1e-4
    warmup_ratio: float = 0.1
    """Share of the steps in which the learning rate rises from 0; it then falls linearly to 0."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Clipping of the gradient's global l2 norm; 0 turns it off."""
    temperature: float = 0.05
    """Divides the cosine similarities in InfoNCE."""
    dropout: float = 0.0
    """Dropout while tuning; 0 makes one rank and several ranks the same computation."""
    zero_stage: int = 0
    """DeepSpeed ZeRO stage, 0 to 3."""
    dtype: str = "auto"
    """`float32`, `bfloat16`, or `auto`: bfloat16 where the hardware has matrix units for it."""
    gradient_checkpointing: bool = False
    lora_rank: int = 0
    """Rank of LoRA adapters on every linear layer of the blocks, merged at the end; 0 trains all weights."""
    lora_alpha: int = 64
    """Adapters are scaled by lora_alpha / lora_rank."""
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.steps >= 0, "train.steps", self.steps, "0 or more")
        _check(self.epochs >= 0, "train.epochs", self.epochs, "0 or more")
        _check(self.batch_size >= 2, "train.batch_size", self.batch_size, "2 or more (in-batch negatives)")
        _check(self.hard_negatives >= 0, "train.hard_negatives", self.hard_negatives, "0 or more")
        _check(self.learning_rate > 0, "train.learning_rate", self.learning_rate, "above 0")
        _check(0 <= self.warmup_ratio <= 1, "train.warmup_ratio", self.warmup_ratio, "between 0 and 1")
        _check(self.weight_decay >= 0, "train.weight_decay", self.weight_decay, "0 or more")
        _check(self.max_grad_norm >= 0, "train.max_grad_norm", self.max_grad_norm, "0 or more")
        _check(self.temperature > 0, "train.temperature", self.temperature, "above 0")
        _check(self.lora_rank >= 0, "train.lora_rank", self.lora_rank, "0 (train all weights) or more")
        _check(self.lora_alpha > 0, "train.lora_alpha", self.lora_alpha, "above 0")
        _check(0 <= self.dropout < 1, "train.dropout", self.dropout, "from 0 to below 1")
        _one_of("train.zero_stage", self.zero_stage, (0, 1, 2, 3))
        _one_of("train.dtype", self.dtype, DTYPES)


@dataclass(frozen=True)
class ScoreConfig:
    """Encoding and exact search."""

    dtype: str = "auto"
    batch_tokens: int = 4096
    """Tokens in an encoding batch, padding included."""

    def __post_init__(self) -> None:
        _one_of("score.dtype", self.dtype, DTYPES)
        _check(self.batch_tokens >= 1, "score.batch_tokens", self.batch_tokens, "1 or more")


@dataclass(frozen=True)
class PruneConfig:
    """Scores that rank layers and neurons, computed once a search."""

    calibration_texts: int = 64
    """Passages that importance scores are averaged over."""
    ranking: str = "activation"
    """How neurons are ranked: `slimming` (the paper's gates), `activation`, `magnitude`, `taylor` or `random`."""
    width_multiple: int = 1
    """Widths are multiples of this (8, 64, 128 suit GPUs); the total stays as near as that allows."""
    slim_steps: int = 500
    """Steps that train the gates of `slimming`; `taylor` averages gradients over as many batches."""
    slim_lambda: float = 1e-8
    """Weight of the gates' regulariser (paper, section 3.2)."""
    slim_beta: float = 5.0
    """Slope of the regulariser's sigmoid."""
    slim_learning_rate: float = 5e-3
    """Of the gates; the paper does not state it."""
    slim_weights: bool = False
    """Whether the other weights train along with the gates; they are put back afterwards."""
    calibration_length: int = 256
    """Tokens kept of each calibration text."""

    def __post_init__(self) -> None:
        _check(self.calibration_texts >= 1, "prune.calibration_texts", self.calibration_texts, "1 or more")
        _check(self.calibration_length >= 4, "prune.calibration_length", self.calibration_length, "4 or more")
        _one_of("prune.ranking", self.ranking, RANKINGS)
        _check(self.width_multiple >= 1, "prune.width_multiple", self.width_multiple, "1 or more")
        _check(self.slim_steps >= 1, "prune.slim_steps", self.slim_steps, "1 or more")
        _check(self.slim_lambda >= 0, "prune.slim_lambda", self.slim_lambda, "0 or more")
        _check(self.slim_beta > 0, "prune.slim_beta", self.slim_beta, "above 0")
        _check(self.slim_learning_rate > 0, "prune.slim_learning_rate", self.slim_learning_rate, "above 0")


@dataclass(frozen=True)
class SearchConfig:
    """The search itself."""

    trials: int = 14
    time_budget: float = 0.0
    """Seconds after which no trial is running any more; 0 is no limit."""
    seed: int = 0
    sampler: str = "tpe"
    """`tpe`, `nsga2` or `random`."""
    keep_weights: str = "front"
    """Weights kept on disk: of the `front`, of `all` trials, or `none` (then the front cannot be exported)."""

    def __post_init__(self) -> None:
        _check(self.trials >= 1, "search.trials", self.trials, "1 or more")
        _check(self.time_budget >= 0, "search.time_budget", self.time_budget, "0 or more seconds")
        _one_of("search.sampler", self.sampler, ("tpe", "nsga2", "random"))
        _one_of("search.keep_weights", self.keep_weights, ("front", "all", "none"))


@dataclass(frozen=True)
class ResourceConfig:
    """What a trial takes of the cluster. None means: found out at the start."""

    workers_per_trial: int = 1
    gpus_per_trial: float | None = None
    """GPUs of all workers of a trial together; by default one a worker where there are GPUs."""
    cpus_per_trial: float | None = None
    """CPUs of all workers of a trial together; by default the machine's, or its share of a GPU's."""
    max_concurrent: int | None = None
    """Trials at a time; by default as many as fit."""

    def __post_init__(self) -> None:
        _check(self.workers_per_trial >= 1, "resources.workers_per_trial", self.workers_per_trial, "1 or more")
        for name in ("gpus_per_trial", "cpus_per_trial"):
            value = getattr(self, name)
            _check(value is None or value >= 0, f"resources.{name}", value, "0 or more")
        _check(
            self.max_concurrent is None or self.max_concurrent >= 1,
            "resources.max_concurrent",
            self.max_concurrent,
            "1 or more",
        )


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
