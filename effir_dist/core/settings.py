"""All settings of a run: frozen dataclasses, each value checked when one is made."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from effir_dist.core.errors import InputError
from effir_dist.core.measures import DEFAULT, check_objectives, parse_constraint

DTYPES = ("auto", "float32", "bfloat16")
COMPILE = ("auto", "always", "never")
DISTANCES = ("cosine", "l2")
LEVELS = ("token", "pooled")
SAMPLERS = ("guided", "tpe", "nsga2", "gp", "random")
SCHEDULERS = ("screening", "asha", "plain")
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
    """Name of a backbone (effir_dist/models/families/backbones.py)."""
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
    dimension: int = 0
    """Numbers kept of an embedding, the first ones (as Matryoshka models are cut), l2-normalised then; 0 keeps all."""

    def __post_init__(self) -> None:
        _one_of("model.pooling", self.pooling, POOLINGS)
        for name in ("max_query_length", "max_document_length"):
            value = getattr(self, name)
            _check(4 <= value <= 131072, f"model.{name}", value, "between 4 and 131072 tokens")
        _check(self.dimension >= 0, "model.dimension", self.dimension, "0 (all) or more")


@dataclass(frozen=True)
class DataConfig:
    """What is trained on and what scores. A path is a BEIR-format folder, or `pydocs`, the built-in data."""

    paths: tuple[str, ...] = ("pydocs",)
    """Data sets; each is trained on where it has the training split, and scored."""
    train_split: str = "train"
    search_split: str = "dev"
    """Scores the search. Where a data set lacks it, `search_share` of the training queries is set aside."""
    test_split: str = "test"
    """Scores the finished front, once; never read before. Empty for none: for comparisons in which nothing is selected,
    whose `search_split` may then be the test split."""
    search_share: float = 0.1
    """Share of the training queries set aside to score the search where there is no `search_split`."""
    max_train_pairs: int = 0
    """Training pairs kept of each data set (a seeded sample); 0 keeps all."""
    max_queries: int = 0
    """Queries scored of each data set (a seeded sample); 0 keeps all."""
    max_documents: int = 0
    """Documents searched of each data set: the judged ones and a seeded sample of the rest; 0 keeps all."""
    held_out: tuple[str, ...] = ()
    """Data sets that score the finished front too, on `test_split`; never read before."""

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
        both = sorted(set(self.held_out) & set(self.paths))
        _check(not both, "data.held_out", both, "data sets that are not in data.paths")


@dataclass(frozen=True)
class TrainConfig:
    """Contrastive fine-tuning of one trial (paper, section 4.1; shared settings of its recipe where not stated)."""

    steps: int = 0
    """Optimizer steps; 0 trains for `epochs`."""
    epochs: float = 1.0
    """Passes over the training pairs where `steps` is 0; 0 with `steps: 0` skips training."""
    batch_size: int = 32
    """Query-positive pairs in a step, over all workers."""
    chunk: int = 0
    """Queries of a worker whose activations (and those of their passages) are in memory at a time: the same gradient of
    the whole batch for a forward pass more. 0 takes the batch at once."""
    chunk_tokens: int = 0
    """The same by size: texts in order of their length, in chunks of so many tokens, padding included. Takes the place
    of `chunk`; 0 leaves it to that."""
    hard_negatives: int = 0
    """Hard negatives a query, where the data has them."""
    learning_rate: float = 1e-4
    warmup_ratio: float = 0.1
    """Share of the steps in which the learning rate rises from 0; it then falls linearly to 0."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Clipping of the gradient's global l2 norm; 0 turns it off."""
    temperature: float = 0.05
    """Divides the cosine similarities in InfoNCE, and in the distillations the student's and the unpruned model's."""
    distill_scores: float = 0.0
    """Weight of the KL divergence from a teacher's scores of a query's positive and hard negatives, such as a
    cross-encoder's, which `negatives/SPLIT.jsonl` holds (paper, section 4.1)."""
    teacher_temperature: float = 1.0
    """Divides those scores."""
    distill_similarities: float = 0.0
    """Weight of the KL divergence from the unpruned model's similarities of a query with all passages of the batch."""
    distill_embeddings: float = 0.0
    """Weight of 1 - cosine between a text's embedding and the unpruned model's. The unpruned model encodes the training
    texts once a search; the vectors stay in the run, 2 bytes a dimension."""
    before_pruning: bool = False
    """Tune the unpruned model and prune it then: the control of the paper, at the unpruned model's cost."""
    dropout: float = 0.0
    """Dropout while tuning; 0 makes one rank and several ranks the same computation."""
    zero_stage: int = 0
    """DeepSpeed ZeRO stage, 0 to 3. One worker has nothing to part: 0 and 1 are plain PyTorch there."""
    dtype: str = "auto"
    """`float32`, `bfloat16`, or `auto`: bfloat16 where the hardware multiplies it faster."""
    gradient_checkpointing: bool = False
    lora_rank: int = 0
    """Rank of LoRA adapters on every linear layer of the blocks, merged at the end; 0 trains all weights."""
    lora_alpha: int = 64
    """Adapters are scaled by lora_alpha / lora_rank."""
    checkpoint_minutes: float = 10.0
    """Minutes between two checkpoints of a training, 12 bytes a trained parameter each; 0 writes none by the clock."""
    checkpoint_steps: int = 0
    """Steps between two checkpoints (to the next multiple of 4); 0 writes none by the count."""
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.checkpoint_minutes >= 0, "train.checkpoint_minutes", self.checkpoint_minutes, "0 (off) or more")
        _check(self.checkpoint_steps >= 0, "train.checkpoint_steps", self.checkpoint_steps, "0 (off) or more")
        _check(self.steps >= 0, "train.steps", self.steps, "0 or more")
        _check(self.epochs >= 0, "train.epochs", self.epochs, "0 or more")
        _check(self.batch_size >= 2, "train.batch_size", self.batch_size, "2 or more (in-batch negatives)")
        _check(self.chunk >= 0, "train.chunk", self.chunk, "0 (the whole batch) or more")
        _check(self.chunk_tokens >= 0, "train.chunk_tokens", self.chunk_tokens, "0 (off) or more")
        both = self.chunk > 0 and self.chunk_tokens > 0
        _check(not both, "train.chunk_tokens", self.chunk_tokens, "left out where train.chunk is given")
        _check(self.hard_negatives >= 0, "train.hard_negatives", self.hard_negatives, "0 or more")
        _check(self.learning_rate > 0, "train.learning_rate", self.learning_rate, "above 0")
        _check(0 <= self.warmup_ratio <= 1, "train.warmup_ratio", self.warmup_ratio, "between 0 and 1")
        _check(self.weight_decay >= 0, "train.weight_decay", self.weight_decay, "0 or more")
        _check(self.max_grad_norm >= 0, "train.max_grad_norm", self.max_grad_norm, "0 or more")
        _check(self.temperature > 0, "train.temperature", self.temperature, "above 0")
        _check(self.lora_rank >= 0, "train.lora_rank", self.lora_rank, "0 (train all weights) or more")
        _check(self.lora_alpha > 0, "train.lora_alpha", self.lora_alpha, "above 0")
        _check(0 <= self.dropout < 1, "train.dropout", self.dropout, "from 0 to below 1")
        for name in ("distill_scores", "distill_similarities", "distill_embeddings"):
            _check(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 (off) or more")
        _check(self.teacher_temperature > 0, "train.teacher_temperature", self.teacher_temperature, "above 0")
        scored = self.hard_negatives > 0 or not self.distill_scores
        _check(scored, "train.hard_negatives", self.hard_negatives, "1 or more where train.distill_scores is above 0")
        _one_of("train.zero_stage", self.zero_stage, (0, 1, 2, 3))
        _one_of("train.dtype", self.dtype, DTYPES)


@dataclass(frozen=True)
class ScoreConfig:
    """Encoding and exact search."""

    dtype: str = "auto"
    batch_tokens: int = 0
    """Tokens in an encoding batch, padding included; 0 takes what suits the device."""
    compile: str = "auto"
    """Whether the model's blocks are compiled to encode: `always`, `never`, or `auto`: on a GPU, where the work is long
    enough to win back the half minute that compiling takes."""
    speed: bool = False
    """Measure speed and memory beside the unpruned model (evaluate/speed.py); done anyway where an objective or a
    constraint needs it."""
    speed_query_length: int = 16
    """Tokens of the query whose latency is measured, alone in its batch."""
    speed_document_length: int = 64
    """Tokens of each document in the batch whose throughput is measured."""
    speed_batch: int = 8
    """Documents in that batch; 64 or more keep a GPU busy."""
    speed_repeats: int = 9
    """Timed passes of each model, in turns; the median counts."""

    def __post_init__(self) -> None:
        _one_of("score.dtype", self.dtype, DTYPES)
        _check(self.batch_tokens >= 0, "score.batch_tokens", self.batch_tokens, "0 (what suits the device) or more")
        _one_of("score.compile", self.compile, COMPILE)
        for name in ("speed_query_length", "speed_document_length", "speed_batch", "speed_repeats"):
            _check(getattr(self, name) >= 1, f"score.{name}", getattr(self, name), "1 or more")


@dataclass(frozen=True)
class PruneConfig:
    """Scores that rank layers and neurons, computed once a search."""

    calibration_texts: int = 64
    """Texts that importance scores are averaged over: passages of the training pairs, or of `calibration_file`."""
    calibration_file: str = ""
    """A text on each line, instead of the training data's own; the paper takes general text."""
    distance: str = "cosine"
    """Between the stream before and after a sub-layer: `cosine`, the paper's, or `l2`, relative to the norm before."""
    level: str = "token"
    """That distance per `token`, as in the paper, or of the `pooled` stream, a vector a text."""
    greedy: bool = False
    """Score again after each drop, in place of one scoring for the whole order."""
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
        _one_of("prune.distance", self.distance, DISTANCES)
        _one_of("prune.level", self.level, LEVELS)
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
    """Trials trained in full; those that stop on a lower rung come on top."""
    sampler: str = "guided"
    """What proposes new plans. `guided`: a surrogate of our own, fitted to the trials so far, takes those with the
    largest expected hypervolume improvement for their cost. Optuna's: `tpe`, `nsga2`, `gp` or `random`."""
    scheduler: str = "screening"
    """Which plans are trained in full. `screening`: many plans are scored without training, and those that the sampler
    scores highest are trained; `asha`: the best of each rung are trained further, by non-dominated rank and crowding
    distance; `plain`: all of them."""
    rungs: tuple[float, ...] = (0.0,)
    """Shares of a training after which a trial is scored, and goes on only if it is chosen; 0 is before any."""
    screening_budget: float = 0.1
    """The share of the search's cost that `screening` spends on the lowest rung."""
    promotion_fraction: float = 0.25
    """The share of the trials on a rung that `asha` promotes to the next."""
    rung_queries: int = 100
    """Queries that score a trial below the top, of each data set; 0 takes as many as at the top."""
    rung_documents: int = 300
    """Documents that are then searched: the judged ones and a sample; 0 takes as many as at the top."""
    time_budget: float = 0.0
    """Seconds after which no trial is running any more; 0 is no limit."""
    seed: int = 0
    keep_weights: str = "front"
    """Weights kept on disk: of the `front`, of `all` trials, or `none` (then the front cannot be exported)."""
    objectives: tuple[str, ...] = DEFAULT
    """Two or three, quality and cost among them (effir_dist/core/objectives.py)."""
    constraints: tuple[str, ...] = ()
    """Such as `parameters <= 0.5` and `ndcg_at_10 >= 0.98`: shares of the unpruned model's."""
    quality_sets: tuple[str, ...] = ()
    """Names of the data sets whose mean is a trial's quality; by default all of `data.paths`."""
    gpu_hours: float = 0.0
    """GPU hours of all trials together after which none is started; 0 is no limit."""
    patience_trials: int = 0
    """Trials in which the hypervolume must grow by `patience_percent`, or the search ends; 0 never ends it so."""
    patience_percent: float = 1.0

    def __post_init__(self) -> None:
        _check(self.trials >= 1, "search.trials", self.trials, "1 or more")
        _check(self.time_budget >= 0, "search.time_budget", self.time_budget, "0 or more seconds")
        _one_of("search.sampler", self.sampler, SAMPLERS)
        _one_of("search.scheduler", self.scheduler, SCHEDULERS)
        rising = all(0 <= a < b for a, b in itertools.pairwise((*self.rungs, 1.0)))
        _check(rising and bool(self.rungs), "search.rungs", self.rungs, "rising shares from 0 to below 1, one or more")
        for name in ("screening_budget", "promotion_fraction"):
            _check(0 < getattr(self, name) < 1, f"search.{name}", getattr(self, name), "between 0 and 1, both excluded")
        for name in ("rung_queries", "rung_documents"):
            _check(getattr(self, name) >= 0, f"search.{name}", getattr(self, name), "0 (all) or more")
        _one_of("search.keep_weights", self.keep_weights, ("front", "all", "none"))
        check_objectives(self.objectives)
        for text in self.constraints:
            parse_constraint(text)
        _check(self.gpu_hours >= 0, "search.gpu_hours", self.gpu_hours, "0 (no limit) or more")
        _check(self.patience_trials >= 0, "search.patience_trials", self.patience_trials, "0 (off) or more")
        _check(self.patience_percent >= 0, "search.patience_percent", self.patience_percent, "0 or more")


@dataclass(frozen=True)
class ResourceConfig:
    """What a trial takes of the cluster. None means: found out at the start."""

    workers_per_trial: int = 1
    gpus_per_trial: float | None = None
    """GPUs of all workers of a trial together; by default one a worker where there are GPUs."""
    gpus_per_worker: float | None = None
    """The same, for each worker; one of the two at most."""
    cpus_per_trial: float | None = None
    """CPUs of all workers of a trial together; by default the machine's, or its share of a GPU's."""
    max_concurrent: int | None = None
    """Trials at a time; by default as many as fit."""
    gpu_memory: float = 0.0
    """GB of a GPU that `--plan` holds its prediction against; 0 asks this machine's driver."""

    def __post_init__(self) -> None:
        _check(self.workers_per_trial >= 1, "resources.workers_per_trial", self.workers_per_trial, "1 or more")
        for name in ("gpus_per_trial", "gpus_per_worker", "cpus_per_trial"):
            value = getattr(self, name)
            _check(value is None or value >= 0, f"resources.{name}", value, "0 or more")
        _check(self.gpu_memory >= 0, "resources.gpu_memory", self.gpu_memory, "0 (this machine's) or more GB")
        both = self.gpus_per_trial is not None and self.gpus_per_worker is not None
        _check(not both, "resources.gpus_per_worker", self.gpus_per_worker, "left out where gpus_per_trial is given")
        _check(
            self.max_concurrent is None or self.max_concurrent >= 1,
            "resources.max_concurrent",
            self.max_concurrent,
            "1 or more",
        )

    @property
    def gpus(self) -> float | None:
        """GPUs that were asked for, of all workers of a trial together; None where nothing was said."""
        return self.gpus_per_trial if self.gpus_per_worker is None else self.gpus_per_worker * self.workers_per_trial


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
