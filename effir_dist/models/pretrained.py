"""Where base weights come from: a backbone's name, a hub id or a folder. Checks first, then loading."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effir_dist.core.config import read_json
from effir_dist.core.errors import InputError
from effir_dist.core.settings import ModelConfig
from effir_dist.models import hub, own_code, packages, published
from effir_dist.models.families.base import DENSE, Family, ModelDict, dense_layers
from effir_dist.models.families.registry import BACKBONES, SHORT_NAMES, backbone, family
from effir_dist.models.quiet import quiet_transformers
from effir_dist.models.sentence_folder import SentenceFolder, bare_config, behind_pooling, read_folder
from effir_dist.models.vocabulary import check_size
from effir_dist.models.weights import check_loaded

log = logging.getLogger(__name__)

CACHED_BYTES = 4 << 30
"""Base models up to this size stay in a process's memory between trials; larger ones are read again each time."""


@dataclass(frozen=True)
class Source:
    """A base checkpoint that was found: its location (folder or hub id) and its config."""

    name: str
    location: str
    config: ModelDict
    max_length: int | None = None
    declared: SentenceFolder | None = None
    """What a sentence-transformers folder says of itself; None for a bare checkpoint."""
    has_code: bool = False
    """Whether it comes with code that the user trusts; the class in it must be the one that its family's row means."""

    def __hash__(self) -> int:
        return hash(self.location)


@dataclass(frozen=True)
class Base:
    """Base weights in memory."""

    model: Any
    head: Any
    """The Dense layers behind its pooling: an nn.Sequential, empty where there are none."""
    tokenizer: Any
    source: Source
    """Where it is from, with the config as the model has it: complete."""
    shared: bool
    """Whether the model stays here for the next trial: then it must not be changed."""

    @property
    def config(self) -> ModelDict:
        """The model's config."""
        return self.source.config


def find_model(config: ModelConfig) -> Source:
    """The checkpoint that a run's settings name, as `find`."""
    return find(config.backbone, config.path, config.trust_remote_code)


def find(name: str, path: str = "", trust_remote_code: bool = False) -> Source:
    """The checkpoint of a backbone's name, or at a folder or hub id (`name` or `path`), with its config; no weights are
    read.

    Raises InputError for an unknown name, a hub that is out of reach, a model type without a row, modules that cannot
    be kept, code of its own that nobody trusts, or a named backbone whose config is not what its row says.
    """
    known = name in BACKBONES or name in SHORT_NAMES
    if path or (not known and (Path(name).is_dir() or "/" in name)):
        return _from_location(path or name, path or name, None, trust_remote_code)
    row = backbone(name)
    location = str(packages.folder(row)) if row.source.startswith(packages.PREFIX) else row.source
    source = _from_location(row.name, location, row.max_length)
    published.check(row, bare_config(source.config) if DENSE not in row.config else source.config)
    return source


def find_row(name: str, path: str = "", trust_remote_code: bool = False) -> Source:
    """As `find`, without a network for a named backbone: it is its own folder where an installed package holds it, else
    what its row says."""
    if path or (name not in BACKBONES and name not in SHORT_NAMES):
        return find(name, path, trust_remote_code)
    row = backbone(name)
    if row.source.startswith(packages.PREFIX):
        with contextlib.suppress(InputError):
            return find(row.name)
    return Source(row.name, row.source, row.config)


def _from_location(name: str, location: str, max_length: int | None, trusted: bool | None = None) -> Source:
    """trusted: whether it may come with code of its own; None for a named backbone, which its row describes."""
    here = Path(location).is_dir()
    if not here and location.startswith((".", "/", "~")):
        raise InputError(f"no checkpoint folder at {location}; pass --model a folder with config.json and weights")
    folder = Path(location) if here else hub.small_files(location)
    declared = read_folder(folder)
    place = folder / declared.transformer if declared else folder
    config = read_json(place / "config.json")
    row = family(config)
    code = trusted is not None and own_code.checked(config, name, trusted)
    own = row.read_config(own_code.without(config))
    family(own).causal(own)  # refused where transformers would compute another attention
    config = {**family(own).usual(own), **behind_pooling(declared)}
    return Source(name, str(place) if here else location, config, max_length, declared, code)


def local(source: Source) -> Source:
    """With its files on this machine: a model on the hub is fetched."""
    if Path(source.location).is_dir():
        return source
    inner = source.declared.transformer if source.declared else ""
    return dataclasses.replace(source, location=str(hub.all_files(source.location) / inner))


def longest_input(config: ModelDict) -> int:
    """The longest input in tokens that the model can take."""
    positions = config.get("max_position_embeddings")
    return int(positions) - family(config).first_position(config) if positions else 2**31


def input_lengths(config: ModelConfig, source: Source) -> tuple[int, int]:
    """Tokens kept of a query and of a document: the settings', the folder's own, else those of a bare checkpoint; at
    most what the model can take."""
    declared, limit = source.declared, longest_input(source.config)
    if declared is None:
        return min(config.query_length, limit), min(config.document_length, limit)
    query = config.max_query_length or declared.max_query_length or limit
    document = config.max_document_length or declared.max_document_length or limit
    return min(query, limit), min(document, limit)


def usual_length(source: Source) -> int:
    """The input length in tokens that the model is meant for."""
    return min(longest_input(source.config), source.max_length or family(source.config).max_length)


def load_base(source: Source, dtype: str) -> Base:
    """The unpruned model; kept in this process's memory for the next trial where it is small enough."""
    base = _load_cached(source, dtype)
    if not base.shared:
        _load_cached.cache_clear()
    return base


def forget() -> None:
    """Give back the memory of the base model that is kept."""
    _load_cached.cache_clear()


@functools.lru_cache(maxsize=1)
def _load_cached(source: Source, dtype: str) -> Base:
    import torch
    from transformers import AutoConfig, AutoModel

    row, source = family(source.config), local(source)
    with quiet_transformers():
        try:
            model, told = AutoModel.from_pretrained(
                source.location,
                config=AutoConfig.for_model(**row.own(bare_config(source.config))),
                dtype=getattr(torch, dtype),
                attn_implementation=row.attention_implementation,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **row.load_options,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"cannot load {source.location}: {str(error).splitlines()[0]}") from None
    for warning in check_loaded(source.location, told):
        log.warning(warning)
    check_blocks(model, row)
    config = _complete(model, source)
    exact_buffers(model, config)
    if source.has_code:
        own_code.check_same(model.eval(), source.location)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    complete = dataclasses.replace(source, config=config)
    tokenizer = load_tokenizer(source.location)
    check_size(tokenizer, source.config, source.location)
    if source.declared and source.declared.do_lower_case:
        _lower_case(tokenizer)
    return Base(model.eval(), _head(source, model.dtype), tokenizer, complete, size <= CACHED_BYTES)


def _complete(model: Any, source: Source) -> ModelDict:
    """The config of a model that was loaded, with the defaults that its checkpoint leaves out.

    The window is the checkpoint's: transformers halves EmbeddingGemma's, and some versions write down the half, which
    would be halved again.
    """
    config = family(source.config).usual(own_code.without(model.config.to_dict()))
    window = {key: source.config[key] for key in ("sliding_window",) if key in source.config}
    return {**config, **window, **behind_pooling(source.declared)}


def _lower_case(tokenizer: Any) -> None:
    """Turn texts to lower case first, before all that the tokenizer does itself."""
    from tokenizers import normalizers

    backend = tokenizer.backend_tokenizer
    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])


def _head(source: Source, dtype: Any) -> Any:
    from effir_dist.models.head import build_head, read_head

    folders = [Path(source.location) / each for each in source.declared.dense_folders] if source.declared else []
    return read_head(build_head(dense_layers(source.config)), folders, dtype)


def load_tokenizer(location: str) -> Any:
    """The checkpoint's tokenizer; padding is on the right, and a decoder without a padding token pads with eos."""
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load the tokenizer of {location}: {str(error).splitlines()[0]}") from None
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def build_empty(config: ModelDict) -> Any:
    """The unpruned architecture with parameters that take no memory, to be loaded with assign=True.

    Its buffers are in float32, whatever the weights' type is.
    """
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModel

    row = family(config)
    settings = AutoConfig.for_model(**row.own(bare_config(config)))
    with init_empty_weights(include_buffers=False):
        options = {"attn_implementation": row.attention_implementation, **row.load_options}
        model = AutoModel.from_config(settings, dtype=torch.float32, **options)
    check_blocks(model, row)
    return model


def exact_buffers(model: Any, config: ModelDict) -> None:
    """Buffers that were made in the weights' half precision, in place, as they are in float32.

    The scale of Gemma's embeddings is one: a model that was loaded in bfloat16 is scored in float32, where the rounded
    27.75 for 27.71 would be another model.
    """
    import torch

    half = (torch.bfloat16, torch.float16)
    if any(buffer.dtype in half for buffer in model.buffers()):
        exact = dict(build_empty(config).named_buffers())
        for name in [name for name, buffer in model.named_buffers() if buffer.dtype in half]:
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, exact[name])


def check_blocks(model: Any, row: Family) -> None:
    """Raises InputError where a block's modules are not those that its family's row declares.

    A row that was copied from a similar family would otherwise leave out, say, norms, and a pruned model be wrong.
    """
    declared = row.parameter_modules()
    for number, block in enumerate(model.get_submodule(row.blocks)):
        missing = sorted(declared - {name for name, _ in block.named_children()})
        undeclared = sorted({name.partition(".")[0] for name, _ in block.named_parameters()} - declared)
        if missing or undeclared:
            wrong = f"does not name {', '.join(undeclared)}" if undeclared else f"names {', '.join(missing)} in vain"
            raise InputError(
                f"family {row.model_type!r} {wrong} in its fields attention and mlp, where block {number} is a "
                f"{type(block).__name__}; correct them, and check norm_placement"
            )
