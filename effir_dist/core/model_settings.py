"""Settings of what is pruned, on which data, and how it is evaluated: `model`, `data`, `prune`, `score`."""

from __future__ import annotations

from dataclasses import dataclass

from effir_dist.core.errors import check, one_of

DTYPES = ("auto", "float32", "bfloat16")
COMPILE = ("auto", "always", "never")
DISTANCES = ("cosine", "l2")
GRANULARITIES = ("token", "pooled")
RANKINGS = ("slimming", "activation", "magnitude", "taylor", "random")
RIDGES = (1.0, 0.1, 0.01, 10.0)
"""Weights of the distance from the old matrix in `prune.reconstruct_tokens`, in mean squares of the matrix's inputs.
Each matrix takes the one that is best on texts that it was not fitted on; the first, where there are too few texts."""
SIMILARITIES = ("", "cosine", "dot")
POOLINGS = ("", "mean", "last", "cls", "max", "weighted_mean")
BARE_LENGTHS = {"query": 64, "document": 256}
"""Tokens kept of a text where neither the settings nor the model say how many."""
_SCORED = [f"max_{of}{what}" for of in ("", "test_", "held_out_") for what in ("queries", "documents")]
LIMITS = ("max_train_pairs", *_SCORED)
"""Settings of `data` that keep a part of a data set."""


@dataclass(frozen=True)
class ModelConfig:
    """Which retriever is pruned. An empty string or None takes what the model's own folder says, if it is one of
    sentence-transformers, or else its family's defaults."""

    backbone: str = "minilm"
    """Name of a backbone (effir_dist/models/families)."""
    path: str = ""
    """Folder or hub id of a checkpoint; overrides the backbone's own hub id."""
    pooling: str = ""
    """`mean`, `last` (the last token, `<eos>`), `cls` (the first), `max` or `weighted_mean` (token n counts n-fold)."""
    query_prompt: str | None = None
    """Text put before every query."""
    document_prompt: str | None = None
    """Text put before every document."""
    max_query_length: int | None = None
    """Tokens kept of a query, special tokens included. None takes the folder's own length, else 64."""
    max_document_length: int | None = None
    """Tokens kept of a document, special tokens included. None takes the folder's own length, else 256."""
    dimension: int = 0
    """Numbers kept of an embedding: the first ones, as Matryoshka models are cut. They are l2-normalised then. 0 keeps
    all."""
    similarity: str = ""
    """How embeddings are compared: `cosine`, or `dot`, their inner product as they are."""
    normalize: bool | None = None
    """Whether embeddings are l2-normalised. With cosine similarity they are in any case."""
    include_prompt: bool | None = None
    """Whether pooling counts the prompt's tokens."""
    retriever: bool | None = None
    """Whether it is a retriever as it is, and no bare language model, which `train.order=tune_prune_recover` tunes
    first. None: a sentence-transformers folder is one, and a named backbone whose row says so."""
    trust_remote_code: bool = False
    """Whether code that comes with the checkpoint may be run: once, to see that it computes what the model's family
    does. Otherwise such a checkpoint is refused."""

    def __post_init__(self) -> None:
        one_of("model.pooling", self.pooling, POOLINGS)
        one_of("model.similarity", self.similarity, SIMILARITIES)
        for name in ("max_query_length", "max_document_length"):
            value = getattr(self, name)
            check(value is None or 4 <= value <= 131072, f"model.{name}", value, "between 4 and 131072 tokens")
        check(self.dimension >= 0, "model.dimension", self.dimension, "0 (all) or more")

    @property
    def query_length(self) -> int:
        """`max_query_length`, or that of a bare checkpoint: a search fills in a folder's own as it starts."""
        return self.max_query_length or BARE_LENGTHS["query"]

    @property
    def document_length(self) -> int:
        """The same of documents."""
        return self.max_document_length or BARE_LENGTHS["document"]


@dataclass(frozen=True)
class DataConfig:
    """What is trained on and evaluated on. A path is a BEIR-format folder, or `pydocs`, the built-in data."""

    paths: tuple[str, ...] = ("pydocs",)
    """Data sets that evaluate the trials, and the finished front on `test_split`."""
    train_paths: tuple[str, ...] = ()
    """Data sets that are trained on, and evaluate nothing unless `paths` names them too."""
    train_on_scored: bool | None = None
    """Whether `paths` are trained on too, where they have the training split. By default they are unless there are
    `train_paths`."""
    train_split: str = "train"
    """The split whose queries are trained on."""
    search_split: str = "dev"
    """The split that evaluates the trials. Where a data set lacks it, `search_share` of the training queries is set
    aside."""
    test_split: str = "test"
    """The split that evaluates the finished front, once. It is never read before. Empty for none: a comparison in which
    nothing is selected may then take the test split as its `search_split`."""
    search_share: float = 0.1
    """Share of the training queries that evaluates the trials where there is no `search_split`."""
    max_train_pairs: int = 0
    """Training pairs kept of each data set (a seeded sample); 0 keeps all."""
    max_queries: int = 0
    """Queries of each data set that evaluate a trial (a seeded sample); 0 keeps all."""
    max_documents: int = 0
    """Documents searched for them: the judged ones and a seeded sample of the rest; 0 keeps all."""
    max_test_queries: int = 0
    """As `max_queries`, for the test queries of the finished front."""
    max_test_documents: int = 0
    """As `max_documents`, for the test queries of the finished front."""
    held_out: tuple[str, ...] = ()
    """Data sets that evaluate the finished front too, on `test_split`. They are never read before."""
    max_held_out_queries: int = 0
    """As `max_queries`, for the held-out data sets."""
    max_held_out_documents: int = 0
    """As `max_documents`, for the held-out data sets."""

    def __post_init__(self) -> None:
        check(len(self.paths) > 0, "data.paths", self.paths, "at least one data folder")
        check(0.0 < self.search_share < 1.0, "data.search_share", self.search_share, "between 0 and 1, both excluded")
        for name in LIMITS:
            check(getattr(self, name) >= 0, f"data.{name}", getattr(self, name), "0 (all) or more")
        check(
            self.test_split not in (self.search_split, self.train_split),
            "data.test_split",
            self.test_split,
            "a split that neither trains nor steers the search",
        )
        both = sorted(set(self.held_out) & set(self.paths))
        check(not both, "data.held_out", both, "data sets that are not in data.paths")
        both = sorted(set(self.held_out) & set(self.train_paths))
        check(not both, "data.held_out", both, "data sets that are not in data.train_paths")

    @property
    def trained(self) -> tuple[str, ...]:
        """The data sets that are trained on: `train_paths`, and `paths` where they are."""
        scored = not self.train_paths if self.train_on_scored is None else self.train_on_scored
        return tuple(dict.fromkeys((*self.train_paths, *(self.paths if scored else ()))))

    @property
    def searched(self) -> tuple[str, ...]:
        """All data sets but those that are held out, each once: `paths` first."""
        return tuple(dict.fromkeys((*self.paths, *self.trained)))


@dataclass(frozen=True)
class PruneConfig:
    """How sub-layers and neurons are ranked, once a search: importance of sub-layers, saliency of neurons."""

    calibration_texts: int = 64
    """Texts that the importance is averaged over: passages of the training pairs, or lines of `calibration_file`."""
    calibration_file: str = ""
    """A file with a text on each line, in place of the training data's own. The paper takes general text."""
    distance: str = "cosine"
    """Between the residual stream before and after a sub-layer: `cosine`, the paper's, or `l2`, relative to the norm
    before."""
    granularity: str = "token"
    """What the distance is taken of: of each `token`, as in the paper, or of the `pooled` stream, one vector a text."""
    greedy: bool = False
    """Measure the importance again after each drop, in place of once for all drops."""
    ranking: str = "activation"
    """How neurons are ranked: `slimming` (the paper's gates), `activation`, `magnitude`, `taylor` or `random`."""
    keep_norms: bool = True
    """Whether the norm behind the sum of a dropped sub-layer stays, in models with norms there: norm(x) in place of
    norm(x + F(x)). Without effect on models that normalise what a sub-layer reads."""
    width_multiple: int = 1
    """Widths are multiples of this (8, 64 and 128 suit GPUs). The total stays as near as that allows."""
    reconstruct_tokens: int = 0
    """Tokens of training passages, or of `calibration_file`, on which output matrices are fitted by least squares to
    what the unpruned model gives there: those of narrowed MLPs, and next to each dropped sub-layer that of one that
    stays. 0 leaves them as they are, as the paper does."""
    slim_steps: int = 500
    """Steps that train the gates of `slimming`. `taylor` averages gradients over as many batches."""
    slim_lambda: float = 1e-8
    """Weight of the gates' regulariser (paper, section 3.2)."""
    slim_beta: float = 5.0
    """Slope of the regulariser's sigmoid."""
    slim_learning_rate: float = 5e-3
    """Of the gates. The paper does not state it."""
    slim_weights: bool = False
    """Whether the other weights train along with the gates. They are put back afterwards."""
    calibration_length: int = 256
    """Tokens kept of each calibration text."""

    def __post_init__(self) -> None:
        check(self.calibration_texts >= 1, "prune.calibration_texts", self.calibration_texts, "1 or more")
        check(self.calibration_length >= 4, "prune.calibration_length", self.calibration_length, "4 or more")
        one_of("prune.distance", self.distance, DISTANCES)
        one_of("prune.granularity", self.granularity, GRANULARITIES)
        one_of("prune.ranking", self.ranking, RANKINGS)
        check(self.width_multiple >= 1, "prune.width_multiple", self.width_multiple, "1 or more")
        check(self.reconstruct_tokens >= 0, "prune.reconstruct_tokens", self.reconstruct_tokens, "0 (off) or more")
        check(self.slim_steps >= 1, "prune.slim_steps", self.slim_steps, "1 or more")
        check(self.slim_lambda >= 0, "prune.slim_lambda", self.slim_lambda, "0 or more")
        check(self.slim_beta > 0, "prune.slim_beta", self.slim_beta, "above 0")
        check(self.slim_learning_rate > 0, "prune.slim_learning_rate", self.slim_learning_rate, "above 0")


@dataclass(frozen=True)
class ScoreConfig:
    """Evaluation of a trained model: encoding and exact search."""

    dtype: str = "auto"
    """As `train.dtype`, for encoding."""
    batch_tokens: int = 0
    """Tokens of a batch that is encoded, padding included; 0 takes what suits the device."""
    compile: str = "auto"
    """Whether the model's blocks are compiled for encoding: `always`, `never` or `auto`. `auto` compiles on a GPU where
    the work is long enough to win back the half minute that compiling takes."""
    speed: bool = False
    """Measure speed and memory next to the unpruned model (evaluate/speed.py). It is done anyway where an objective or
    a constraint needs it."""
    speed_query_length: int = 16
    """Tokens of the query whose latency is measured, alone in its batch."""
    speed_document_length: int = 64
    """Tokens of each document in the batch whose throughput is measured."""
    speed_batch: int = 8
    """Documents in that batch; 64 or more keep a GPU busy."""
    speed_repeats: int = 9
    """Timed passes of each model, in turns. The median counts."""

    def __post_init__(self) -> None:
        one_of("score.dtype", self.dtype, DTYPES)
        check(self.batch_tokens >= 0, "score.batch_tokens", self.batch_tokens, "0 (what suits the device) or more")
        one_of("score.compile", self.compile, COMPILE)
        for name in ("speed_query_length", "speed_document_length", "speed_batch", "speed_repeats"):
            check(getattr(self, name) >= 1, f"score.{name}", getattr(self, name), "1 or more")
