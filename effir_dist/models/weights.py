"""The weights in a checkpoint's files: whether they fit its config, from headers alone, reading and writing them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir_dist.core.errors import InputError
from effir_dist.core.values import Json
from effir_dist.models import hub
from effir_dist.models.families.base import ModelDict
from effir_dist.models.families.registry import family
from effir_dist.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from effir_dist.models.pretrained import Source
    from effir_dist.models.sentence_folder import SentenceFolder

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""Weights in one file, or what names the files that they are in."""
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
"""Endings of weights that are unpickled when they are read."""
UNUSED = ("pooler.", "lm_head.", "cls.", "head.", "decoder.", "classifier.", "vocab_", "predictions.")
"""Beginnings, after the model's prefix, of tensors that a checkpoint usually has and a retriever does not use."""
NAMED = 3
"""Tensors that an error names; of the others it gives the number."""

Shapes = dict[str, tuple[int, ...]]
log = logging.getLogger(__name__)


def check_weights(source: Source) -> list[str]:
    """Compare the tensors of a checkpoint with the model that its config describes, from the files' headers alone.

    Returns warnings: tensors that the model has no place for. Raises InputError with the names where tensors are
    missing or have another shape, and where a file is missing or cut. Of a model on the hub nothing but the headers and
    its Dense layers is fetched; where the hub is out of reach, loading it compares the same.
    """
    folder, declared = Path(source.location), source.declared
    shapes = _folder_shapes(folder) if folder.is_dir() else _hub_shapes(source.location)
    if declared and declared.dense:
        here = folder.is_dir()
        place = folder if here else hub.some_files(source.location, declared.dense_folders) / declared.transformer
        _check_dense(declared, place)
    return check_loaded(source.location, _loading_info(source.config, shapes)) if shapes else []


def _check_dense(declared: SentenceFolder, folder: Path) -> None:
    """The same of a folder's Dense layers. Raises InputError for an activation that torch lacks, too."""
    import torch

    from effir_dist.models.head import build_head

    with torch.device("meta"):
        layers = build_head(declared.dense)
    for layer, name in zip(layers, declared.dense_folders, strict=True):
        shapes, expected = _folder_shapes(folder / name), {n: (*t.shape,) for n, t in layer.state_dict().items()}
        if shapes != expected:
            raise InputError(f"the weights in {folder / name} do not fit its config.json: {shapes}, not {expected}")


def check_loaded(location: str, info: Mapping[str, Any]) -> list[str]:
    """The same of what transformers' from_pretrained tells with `output_loading_info`."""
    misshapen = [f"{name} is {[*f]}, the config says {[*e]}" for name, f, e in sorted(info["mismatched_keys"])]
    problems = [*(f"{name} is missing" for name in sorted(info["missing_keys"])), *misshapen, *info["error_msgs"]]
    if problems:
        raise InputError(
            f"the weights in {location} do not match its config.json: {_few(problems)}; save the model again with all "
            "of its weights, or take the config that belongs to them"
        )
    unknown = sorted(info["unexpected_keys"])
    if unknown:
        log.info("%s holds tensors that the model has no place for: %s", location, ", ".join(unknown))
    strange = [name for name in unknown if not _usually_unused(name)]
    return [f"{location} holds tensors that the model has no place for: {_few(strange)}"] if strange else []


def _few(items: list[str]) -> str:
    more = len(items) - NAMED
    return ", ".join(items[:NAMED]) + (f", and {more} more of {len(items)}" if more > 0 else "")


def _usually_unused(name: str) -> bool:
    return name.startswith(UNUSED) or name.partition(".")[2].startswith(UNUSED) or name.endswith("position_ids")


def _loading_info(config: ModelDict, shapes: Shapes) -> Mapping[str, Any]:
    """What transformers says of tensors of these shapes as the model's weights. Nothing takes memory.

    It is transformers that loads them in the end, with its prefixes, old names, fused and tied tensors; so it is asked.
    """
    import torch
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    row = family(config)
    settings = AutoConfig.for_model(**row.own(config))
    model_class: Any = MODEL_MAPPING[type(settings)]
    options = {"attn_implementation": row.attention_implementation, **row.load_options}
    options |= {"device_map": "meta", "output_loading_info": True, "ignore_mismatched_sizes": True}
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    try:
        with quiet_transformers():
            return model_class.from_pretrained(None, config=settings, state_dict=tensors, **options)[1]
    except (OSError, ImportError, RuntimeError, ValueError) as error:  # such as weights that are quantised
        reason = str(error).splitlines()[0]
        raise InputError(f"transformers cannot build a {settings.model_type} of this config: {reason}") from None


def _folder_shapes(folder: Path) -> Shapes:
    return {name: shape for file in weight_files(folder) for name, shape in _header(file).items()}


def weight_files(folder: Path) -> list[Path]:
    """The files with a checkpoint's weights, as transformers chooses them.

    Raises InputError where there are none, or one of those that the index names is missing.
    """
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if not (folder / INDEX).is_file():
        refuse_pickles(folder)
        raise InputError(f"{folder} holds no {WHOLE} and no {INDEX}: no *.safetensors weights; save the model again")
    files = _named_files(folder / INDEX)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise InputError(f"{folder / INDEX} names files that are not there: {_few(missing)}; copy them too")
    return files


def _named_files(index: Path) -> list[Path]:
    """The files that an index names; of a file with weights itself."""
    if index.name == WHOLE:
        return [index]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [index.parent / name for name in sorted(names)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{index} must hold a JSON object with a weight_map of tensors to files") from None


def _header(file: Path) -> Shapes:
    """Tensor shapes of a safetensors file: a length, then JSON, then the data (the format's own definition)."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        shapes = {name: tuple(entry["shape"]) for name, entry in tensors.items()}
        end = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, MemoryError):
        raise InputError(f"{file} is not a readable safetensors file") from None
    if file.stat().st_size != end:
        raise InputError(f"{file} has {file.stat().st_size:,} bytes and should have {end:,}; copy it again")
    return shapes


def _hub_shapes(hub_id: str) -> Shapes:
    """Of a model in the hub's cache on this machine, or else by requests for the headers; none out of the hub's reach.

    Raises InputError for a repository without safetensors.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HTTPError, NotASafetensorsRepoError, SafetensorsParsingError

    for name in (WHOLE, INDEX):
        kept = try_to_load_from_cache(hub_id, name)
        if isinstance(kept, str) and all(map(Path.is_file, _named_files(Path(kept)))):
            return _folder_shapes(Path(kept).parent)
    try:
        found = HfApi().get_safetensors_metadata(hub_id)
    except NotASafetensorsRepoError:
        raise hub.no_safetensors(hub_id) from None
    except (OSError, HTTPError, SafetensorsParsingError):
        return {}
    files = found.files_metadata.values()
    return {name: tuple(tensor.shape) for file in files for name, tensor in file.tensors.items()}


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

    file = folder / WHOLE
    if not file.is_file():
        refuse_pickles(folder)
        raise InputError(f"{folder} holds no {WHOLE}: its weights were not kept")
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} is not a readable safetensors file ({error}); only tensors are read") from None
    if not tensors:
        raise InputError(f"{file} holds no tensor")
    return dict(tensors)


def save_tensors(model: nn.Module, folder: Path, more: Mapping[str, Tensor] | None = None) -> None:
    """Write a model's tensors, and more, to `model.safetensors`, which is there whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    named = {**model.state_dict(), **(more or {})}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
    partial = folder / f"{WHOLE}.tmp"
    try:
        save_file(tensors, partial, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else 0, str(error), str(partial)) from None
    partial.rename(folder / WHOLE)
