"""Where base weights come from: a backbone's name, a hub id or a folder. Checks first, then loading."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effir_dist.core.errors import InputError
from effir_dist.core.values import Json
from effir_dist.models.families.base import Family, ModelDict, block_count, mlp_width
from effir_dist.models.families.registry import BACKBONES, SHORT_NAMES, backbone, family

CACHED_BYTES = 4 << 30
"""Base models up to this size stay in a process's memory between trials; larger ones are read again each time."""

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
"""Endings of weights that are unpickled when they are read."""


@dataclass(frozen=True)
class Source:
    """A base checkpoint that was found: its location (folder or hub id) and its config."""

    name: str
    location: str
    config: ModelDict
    max_length: int | None = None

    def __hash__(self) -> int:
        return hash(self.location)


@dataclass(frozen=True)
class Base:
    """Base weights in memory."""

    model: Any
    tokenizer: Any
    config: ModelDict
    shared: bool
    """Whether the model stays here for the next trial: then it must not be changed."""


def read_json(path: Path) -> Json:
    """A JSON object from a file. Raises InputError where there is none."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(tree).__name__}")
    return tree


def find(name: str, path: str = "") -> Source:
    """The checkpoint of a backbone's name, or at `path` (a folder or hub id), with its config; no weights are read.

    Raises InputError for an unknown name, a hub that is out of reach, or a model type without a row.
    """
    known = name in BACKBONES or name in SHORT_NAMES
    if path or (not known and Path(name).is_dir()):
        return _from_location(path or name, path or name, None)
    row = backbone(name)
    if row.source.startswith("package:"):
        folder = _package_folder(row.name, row.source.removeprefix("package:"))
        return _from_location(row.name, str(folder), row.max_length)
    return _from_location(row.name, row.source, row.max_length)


def _package_folder(name: str, place: str) -> Path:
    module, _, inner = place.partition("/")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"backbone {name!r} needs the Python package {module.replace('_', '-')}: pip install 'effir_dist[demo]'"
        )
    return Path(next(iter(spec.submodule_search_locations))) / inner


def _from_location(name: str, location: str, max_length: int | None) -> Source:
    if Path(location).is_dir():
        config = read_json(Path(location) / "config.json")
    elif location.startswith((".", "/", "~")):
        raise InputError(f"no checkpoint folder at {location}; pass --model a folder with config.json and weights")
    else:
        config = _hub_config(name, location)
    family(config)
    return Source(name, location, config, max_length)


def _hub_config(name: str, hub_id: str) -> Json:
    """config.json of a hub model, from the cache or the hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return read_json(Path(hf_hub_download(hub_id, "config.json")))
    except HFValidationError:
        raise InputError(f"no folder and no hub id: {hub_id!r}; pass --model a folder with config.json") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, HfHubHTTPError) as error:
        raise InputError(
            f"{name!r} is {hub_id} on the model hub, which could not be read and is not in the local cache "
            f"({type(error).__name__}); download it where there is a network and pass --model PATH"
        ) from None


def check_weights(source: Source) -> None:
    """Compare the shapes in a local checkpoint with its config, from the files' headers alone.

    Raises InputError where weights are missing or do not match. A hub id is checked when it is loaded.
    """
    folder = Path(source.location)
    if not folder.is_dir():
        return
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        refuse_pickles(folder)
        raise InputError(f"{folder} holds no *.safetensors weights; save the model with safe_serialization")
    shapes = {name: shape for file in files for name, shape in _header(file).items()}
    prefixes = ("", family(source.config).checkpoint_prefix)
    for name, expected in _mlp_shapes(source.config).items():
        found = next((shapes[p + name] for p in prefixes if p + name in shapes), None)
        if found is None:
            raise InputError(f"the weights in {folder} do not match its config.json: {name} is missing")
        if found != expected:
            raise InputError(
                f"the weights in {folder} do not match its config.json: {name} is {list(found)}, "
                f"the config says {list(expected)}"
            )


def _mlp_shapes(config: ModelDict) -> dict[str, tuple[int, int]]:
    """Shapes of the MLP matrices by their name in a checkpoint, without its prefix: what must fit a config."""
    row, hidden, width = family(config), int(config["hidden_size"]), mlp_width(config)
    shapes = {}
    for block in range(block_count(config)):
        prefix = f"{row.blocks}.{block}."
        shapes.update({f"{prefix}{name}.weight": (row.fused * width, hidden) for name in row.mlp_in})
        shapes[f"{prefix}{row.mlp_out}.weight"] = (hidden, width)
    return shapes


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    """Tensor shapes of a safetensors file: a length, then JSON (the format's own definition)."""
    try:
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
        raise InputError(f"{file} is not a readable safetensors file") from None


def refuse_pickles(folder: Path) -> None:
    """Raises InputError where a checkpoint has weights that only unpickling, which runs code, would read."""
    pickles = [f for f in sorted(folder.rglob("*")) if f.suffix in PICKLES and f.is_file()]
    for file in pickles:
        if not any(file.parent.glob("*.safetensors")):
            raise InputError(
                f"{file} is a pickle, which may run code when it is read; only safetensors are read: save the model "
                "again with save_pretrained, or convert it where you trust it"
            )


def read_tensors(folder: Path) -> Json:
    """Name -> tensor of a pruned model's `model.safetensors`. Raises InputError where there is none, or it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / "model.safetensors"
    if not file.is_file():
        refuse_pickles(folder)
        raise InputError(f"{folder} holds no model.safetensors: its weights were not kept")
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} is not a readable safetensors file ({error}); only tensors are read") from None
    if not tensors:
        raise InputError(f"{file} holds no tensor")
    return dict(tensors)


def longest_input(config: ModelDict) -> int:
    """The longest input in tokens that the model can take."""
    return int(config.get("max_position_embeddings") or 2**31)


def usual_length(source: Source) -> int:
    """The input length in tokens that the model is meant for."""
    return min(longest_input(source.config), source.max_length or family(source.config).max_length)


def load_base(source: Source, dtype: str) -> Base:
    """The unpruned model; kept in this process's memory for the next trial where it is small enough."""
    base = _load_cached(source, dtype)
    if not base.shared:
        _load_cached.cache_clear()
    return base


@functools.lru_cache(maxsize=1)
def _load_cached(source: Source, dtype: str) -> Base:
    import torch
    from transformers import AutoModel

    row = family(source.config)
    with quiet_transformers():
        try:
            model = AutoModel.from_pretrained(
                source.location,
                dtype=getattr(torch, dtype),
                attn_implementation=row.attention_implementation,
                use_safetensors=True,
                **row.load_options,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"cannot load {source.location}: {str(error).splitlines()[0]}") from None
    check_blocks(model, row)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return Base(model.eval(), load_tokenizer(source.location), model.config.to_dict(), size <= CACHED_BYTES)


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
    """The unpruned architecture with parameters that take no memory, to be loaded with assign=True."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModel

    row = family(config)
    settings = AutoConfig.for_model(**config)
    with init_empty_weights(include_buffers=False):
        options = {"attn_implementation": row.attention_implementation, **row.load_options}
        model = AutoModel.from_config(settings, **options)
    check_blocks(model, row)
    return model


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


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without progress bars and load reports, which belong in no log of ours."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
