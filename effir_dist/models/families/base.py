"""What a family of models declares. One family is one module of this folder, or one row given to `registry.register`.

Letters: V vocabulary, D hidden size, F MLP width, L blocks, H heads, K key-value heads, d head size.
A model config is the plain mapping of a `config.json`; nothing here needs weights, torch or a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from effir_dist.core.errors import InputError

ModelDict = Mapping[str, Any]

PLACEMENTS = ("pre", "post", "sandwich", "parallel", "res_post", "scaled_pre")
"""Where a block has its norms: `Family.norm_placement`."""
POOLINGS = ("mean", "last", "cls", "max", "weighted_mean")
DENSE, TRUNCATED = "effir_dense", "effir_truncated"
"""Keys of a model config for what a retriever has behind its pooling: its Dense layers, and the numbers kept of an
embedding (`truncate_dim`). They are ours: no config.json of other tools has them."""
KNOWN_OPTIONS = frozenset({"sliding_window"})
"""Options that torch's attention and our own (packed, float32) understand, as transformers hands them over."""


def need(config: ModelDict, key: str) -> int:
    """A number of a model config. Raises InputError where it is missing."""
    value = config.get(key)
    if not isinstance(value, int):
        raise InputError(f"the model's config.json must hold a number {key!r}, got {value!r}")
    return value


def block_count(config: ModelDict) -> int:
    """L."""
    return need(config, "num_hidden_layers")


def mlp_width(config: ModelDict) -> int:
    """F."""
    return need(config, "intermediate_size")


def head_size(config: ModelDict) -> int:
    """d."""
    return config.get("head_dim") or need(config, "hidden_size") // need(config, "num_attention_heads")


def as_written(config: ModelDict) -> ModelDict:
    """A config whose keys are transformers' own."""
    return config


@dataclass(frozen=True)
class Dense:
    """A linear layer between pooling and normalisation, and its activation."""

    in_features: int
    out_features: int
    bias: bool
    activation_function: str
    """Dotted name of a class of torch, as sentence-transformers writes it."""

    @property
    def parameters(self) -> int:
        """Of the matrix and the bias."""
        return (self.in_features + self.bias) * self.out_features


def dense_layers(config: ModelDict) -> tuple[Dense, ...]:
    """The Dense layers of a retriever, in their order; none of a bare model."""
    return tuple(Dense(**layer) for layer in config.get(DENSE, ()))


def dimension(config: ModelDict) -> int:
    """Numbers of an unpruned retriever's embedding: the hidden size, unless Dense layers or truncation change it."""
    dense = dense_layers(config)
    whole = dense[-1].out_features if dense else need(config, "hidden_size")
    return min(whole, config.get(TRUNCATED) or whole)


@dataclass(frozen=True)
class Backbone:
    """A named checkpoint: where it is, and its sizes, so that plans can be counted without it."""

    name: str
    source: str
    """Hub id, or `package:MODULE/PATH` for weights inside an installed Python package (models/packages.py)."""
    config: ModelDict
    max_length: int | None = None
    """Longest input that it was trained on, where that is not its family's."""
    looked_up: str = ""
    """Where its sizes were read: the address of a published config.json or of a copy; "" where none could be read."""
    install: str = ""
    """The command that installs its package."""
    retriever: bool = False
    """Whether it was trained to retrieve: a bare language model is tuned first (`train.order=tune_prune_recover`)."""


_REQUIRED: Any = object()
"""Stands in a field that every family must declare."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """All that the product knows of one architecture. Paths are attribute paths within a block.

    Nothing is guessed: a row that leaves out a field without a default raises InputError, as does one that contradicts
    itself.
    """

    model_type: str
    """As config.json names it."""
    class_name: str = _REQUIRED
    """How the names of transformers' classes begin: X for XConfig and XModel (and XForCausalLM of a decoder)."""

    blocks: str = _REQUIRED
    """Path of the list of blocks within the model."""
    block_gives_tuple: bool = _REQUIRED
    """Whether a block gives its output in a tuple, of which the model takes the first."""
    norm_placement: str = _REQUIRED
    """`pre`: x + F(norm(x)). `sandwich`: x + norm2(F(norm1(x))). `parallel`: x + A(norm(x)) + M(norm(x)), where both
    sub-layers read the same x. `post`: norm(x + F(x)), and norm(x) where the sub-layer is dropped. `res_post`:
    x + norm(F(x)). `scaled_pre`: x + m F(norm(x)), m the block's `residual_multiplier`."""
    attention: tuple[str, ...] = _REQUIRED
    """Modules that go with a dropped attention: itself, its norm, and in a `sandwich` its second norm.

    `parallel` sub-layers may share a norm: both name it. In `post`, (the attention,) alone means that it adds the
    stream and normalises by itself."""
    mlp: tuple[str, ...] = _REQUIRED
    """Modules that go with a dropped MLP, likewise. In `post` with an attention that stands alone: modules that follow
    each other, of which the last gets the stream as well, adds it and normalises."""
    norms_behind: tuple[str, ...] = ()
    """In `post`: the norms behind the sums of the attention and of the MLP, which are modules above or within those. A
    dropped sub-layer may leave its norm (`operations.drop.Drop.keep_norms`)."""
    attention_out: str = _REQUIRED
    """Linear layer of the attention whose output is added to the stream."""
    mlp_in: tuple[str, ...] = _REQUIRED
    """Linear layers whose output rows are the neurons: F rows, or `fused` times F."""
    mlp_out: str = _REQUIRED
    """Linear layer whose F input columns are the neurons."""
    fused: int = _REQUIRED
    """How many matrices [F, D] one of `mlp_in` holds, one above the other."""

    decoder: bool = _REQUIRED
    """Whether it generates text: it then takes `use_cache`, and there is a class with an LM head."""
    causal: Callable[[ModelDict], bool] = _REQUIRED
    """Whether a token sees only those before it, as transformers' code reads the config. Raises InputError where the
    config asks for another attention than that code computes."""
    append_eos: bool = _REQUIRED
    """Whether `<eos>` is appended to every text."""
    pooling: str = _REQUIRED
    """One of POOLINGS."""
    query_prompt: str = _REQUIRED
    document_prompt: str = _REQUIRED
    max_length: int = _REQUIRED
    """Tokens of the longest input that it is meant for, where a checkpoint's own is not known."""
    first_position: Callable[[ModelDict], int] = _REQUIRED
    """Position of a text's first token. Those before it are no token's: so many fewer tokens fit."""

    attention_parameters: Callable[[ModelDict], int] = _REQUIRED
    """Parameters of one attention and its norms."""
    mlp_parameters: Callable[[ModelDict, int], int] = _REQUIRED
    """Parameters of one MLP of a given width and its norms. A shared norm counts with the attention."""
    norm_behind_parameters: Callable[[ModelDict], int] | None = None
    """In `post`: parameters of one of `norms_behind`."""
    other_parameters: Callable[[ModelDict], int] = _REQUIRED
    """Embeddings and the last norm; no LM head, no pooler."""
    first_attention_saves: Callable[[ModelDict], int] = _REQUIRED
    """Parameters that the attention of the first block lacks."""
    query_width: Callable[[ModelDict], int] = _REQUIRED
    """Numbers in the queries of a token, all heads together: each pair of tokens costs 4 FLOPs for each of them."""
    saved_bytes: Callable[[ModelDict, int, int], int] = _REQUIRED
    """Bytes that one block keeps of a token for the backward pass. Arguments: the config; the bytes of a number; the
    tokens in a row of the attention mask, 0 where texts are packed."""
    linear_layers: Callable[[ModelDict], list[tuple[int, int]]] = _REQUIRED
    """(inputs, outputs) of every linear layer of a block: what LoRA adapts."""

    load_options: Mapping[str, Any] = _REQUIRED
    """Keyword arguments of `AutoModel.from_config` that leave out modules which an embedding never uses."""
    attention_options: Mapping[str, str] = _REQUIRED
    """Options beyond `scaling` that change what its attention computes: transformers' keyword argument -> the key of
    the config that sets it. With one that is not in KNOWN_OPTIONS its own `eager` attention runs, on padded texts."""
    decilm: Mapping[str, Any] | None = _REQUIRED
    """Keys of config.json with which vLLM's DeciLM code is the family; None where it cannot be.

    Its attention is that of a plain decoder with grouped queries, perhaps with a bias."""
    space: str = _REQUIRED
    """Name of the search space that is used by default: search_spaces/NAME.yaml."""
    tiny: Mapping[str, Any] = _REQUIRED
    """More values for the config of a tiny model that tests build, with D = 32 and H = 4."""
    read_config: Callable[[ModelDict], ModelDict] = as_written
    """A checkpoint's config.json in transformers' present keys, where older ones have others. Without those that
    formulas need, whatever their names, a config is refused."""
    config_keys: Mapping[str, str] = field(default_factory=dict)
    """Key of a config -> its name in this family's own, where that is another.

    The former stands in every config in here; the latter in files, and where transformers gives or takes one."""
    known_code: tuple[str, ...] = ()
    """MODULE.CLASS in the `auto_map` of published checkpoints whose code computes what transformers' class does: where
    the user trusts it, it is not run at all, as it may be too old for the present transformers."""
    backbones: tuple[Backbone, ...] = ()
    short_names: Mapping[str, str] = field(default_factory=dict)
    """Short name -> the backbone that it stands for."""

    def __post_init__(self) -> None:
        missing = [f.name for f in fields(self) if getattr(self, f.name) is _REQUIRED]
        if missing:
            raise InputError(f"family {self.model_type!r} does not declare {', '.join(missing)}; add it to its row")
        self._one_of("norm_placement", PLACEMENTS)
        self._one_of("pooling", POOLINGS)
        if not callable(self.causal):
            raise InputError(
                f"family {self.model_type!r}: causal must be a function of the config, such as formulas.never, "
                f"got {self.causal!r}"
            )
        counts = {"sandwich": (3,), "post": (1, 2)}.get(self.norm_placement, (2,))
        self._count("attention", counts)
        self._count("mlp", (2,) if self.norm_placement == "post" else counts)
        self._count("norms_behind", (2,) if self.norm_placement == "post" else (0,))
        if bool(self.norms_behind) != bool(self.norm_behind_parameters):
            raise InputError(
                f"family {self.model_type!r}: norm_behind_parameters must be a function of the config where there are "
                f"norms_behind, and there alone, got {self.norm_behind_parameters!r}"
            )

    @property
    def norm_before_sum(self) -> bool:
        """Whether a norm stands between a sub-layer and the stream that it is added to."""
        return self.norm_placement in ("sandwich", "res_post")

    def _one_of(self, name: str, known: Iterable[str]) -> None:
        value = getattr(self, name)
        if value not in known:
            raise InputError(f"family {self.model_type!r}: {name} must be one of {', '.join(known)}, got {value!r}")

    def _count(self, name: str, counts: tuple[int, ...]) -> None:
        """A placement says how many modules a sub-layer has, its norms among them."""
        names = getattr(self, name)
        if len(names) not in counts:
            raise InputError(
                f"family {self.model_type!r}: {name} must name {' or '.join(map(str, counts))} modules where "
                f"norm_placement is {self.norm_placement!r}, got {names!r}"
            )

    def usual(self, config: ModelDict) -> ModelDict:
        """A config of transformers' in the keys that formulas read."""
        names = {own: key for key, own in self.config_keys.items()}
        return {names.get(key, key): value for key, value in config.items()}

    def own(self, config: ModelDict) -> dict[str, Any]:
        """The inverse of `usual`."""
        return {self.config_keys.get(key, key): value for key, value in config.items()}

    @property
    def width_key(self) -> str:
        """The family's own name of F."""
        return self.config_keys.get("intermediate_size", "intermediate_size")

    @property
    def attention_implementation(self) -> str:
        """transformers' name of the attention that computes all of `attention_options`: `sdpa`, else `eager`."""
        return "sdpa" if set(self.attention_options) <= KNOWN_OPTIONS else "eager"

    @property
    def call_options(self) -> dict[str, Any]:
        """Keyword arguments of every forward pass: nothing is kept for further tokens."""
        return {"use_cache": False} if self.decoder else {}

    def parameter_modules(self) -> frozenset[str]:
        """Children of a block that hold its parameters."""
        return frozenset(path.partition(".")[0] for path in (*self.attention, *self.mlp))
