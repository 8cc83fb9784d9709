"""The weights in a checkpoint's files: whether they fit its config, from headers alone, and reading them."""

from __future__ import annotations

import json
from pathlib import Path

from effir_dist.core.errors import InputError
from effir_dist.core.values import Json
from effir_dist.models.families.base import ModelDict, block_count, mlp_width
from effir_dist.models.families.registry import family
from effir_dist.models.pretrained import Source

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
"""Endings of weights that are unpickled when they are read."""


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
