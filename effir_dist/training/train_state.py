"""The state of a training between two steps, independent of ranks and ZeRO stage: what a checkpoint holds.

DeepSpeed's own checkpoints are pickled, and load only on the number of ranks that wrote them. This one is gathered
parameter by parameter, so that any number of ranks, with any stage, can go on from it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from effir_dist.core.files import write_bytes_atomic
from effir_dist.core.measures import TRAIN_SECONDS
from effir_dist.core.storage import exists, names, read_locally, remove
from effir_dist.runs.run_folder import parts_folder
from effir_dist.training.single_process import SingleProcess

MOMENTS = ("exp_avg", "exp_avg_sq")
WEIGHT = "weight"
PART_BYTES = 256 << 20
"""Of a part of a large state: what main memory holds once more while it is written."""
SECONDS = (TRAIN_SECONDS, "trial_seconds")
"""Fields of a state that are kept beside its tensors."""


@dataclass(frozen=True)
class TrainState:
    """After `len(losses)` steps."""

    losses: list[float]
    """Of each step so far, means over ranks."""
    optimizer_step: float
    """AdamW's own count of steps, for its bias correction."""
    tensors: dict[str, Tensor]
    """"weight/NAME", "exp_avg/NAME", "exp_avg_sq/NAME" of each trained parameter, float32, in main memory."""
    train_seconds: float = 0.0
    """Of the training up to here, in all processes that it had."""
    trial_seconds: float = 0.0
    """Of the trial up to here; 0 where there is none, and in older checkpoints."""


def capture(engine: Any, losses: list[float]) -> TrainState:
    """The state of an engine. Every rank calls it; only rank 0 gets the tensors."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in _trained(engine):
        for key in (WEIGHT, *MOMENTS):
            value = _get(engine, parameter, key)
            if dist.get_rank() == 0:
                tensors[f"{key}/{name}"] = value.detach().float().cpu().reshape(_shape(parameter)).clone()
    state = _adamw(engine).state[_flat(engine)[0]]
    return TrainState(list(losses), float(state["step"]), tensors)


def load_weights(module: nn.Module, state: TrainState) -> None:
    """Put the weights of a state into a model, by their names within it, before an engine is made of the model."""
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, value in state.tensors.items():
            if name.startswith(f"{WEIGHT}/"):
                parameters[name.removeprefix(f"{WEIGHT}/")].copy_(value)


def restore(engine: Any, state: TrainState) -> None:
    """Put a state into an engine that was made of `load_weights`' model and has made no step yet."""
    adamw = _adamw(engine)
    for flat in _flat(engine):
        step = torch.tensor(state.optimizer_step, dtype=torch.float32, device=flat.device)  # where fused AdamW has it
        adamw.state[flat] = {"step": step, **{key: torch.zeros_like(flat.data) for key in MOMENTS}}
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    for name, parameter in _trained(engine):
        for key in (WEIGHT, *MOMENTS):
            _set(engine, parameter, key, state.tensors[f"{key}/{name}"].to(engine.device))


def _trained(engine: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Trained parameters by their names within the encoder."""
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            yield name.removeprefix("encoder."), parameter


def _shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)  # ZeRO 3 leaves an empty parameter in place


def _adamw(engine: Any) -> Any:
    """torch's optimizer within DeepSpeed's."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def _flat(engine: Any) -> list[Tensor]:
    """What torch's optimizer holds: the parameters, their float32 copies, or this rank's flat share of those."""
    optimizer = engine.optimizer
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups"):  # ZeRO 3; ZeRO 1 and 2
        if hasattr(optimizer, name):
            return list(getattr(optimizer, name))
    return [p for group in _adamw(engine).param_groups for p in group["params"]]


def _unpartitioned(engine: Any, parameter: nn.Parameter) -> Tensor | None:
    """What AdamW updates for a parameter, in float32, where every rank has all of it; None where ZeRO partitions it."""
    if isinstance(engine, SingleProcess):
        return engine.masters[parameter]
    return parameter if engine.zero_optimization_stage() == 0 else None


def _get(engine: Any, parameter: nn.Parameter, key: str) -> Tensor:
    stepped = _unpartitioned(engine, parameter)
    if stepped is not None:
        found: Tensor = stepped if key == WEIGHT else _adamw(engine).state[stepped][key]
        return found
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    return safe_get_full_fp32_param(parameter) if key == WEIGHT else safe_get_full_optimizer_state(parameter, key)


def _set(engine: Any, parameter: nn.Parameter, key: str, value: Tensor) -> None:
    stepped = _unpartitioned(engine, parameter)
    if stepped is not None:
        with torch.no_grad():
            (stepped if key == WEIGHT else _adamw(engine).state[stepped][key]).copy_(value)
        return
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    if engine.zero_optimization_stage() < 3:
        _ = (
            safe_set_full_fp32_param(parameter, value)
            if key == WEIGHT
            else safe_set_full_optimizer_state(parameter, value, key)
        )
    else:
        share = parameter.ds_tensor.numel()  # type: ignore[attr-defined]  # padded to a multiple of the ranks
        padded = torch.zeros(share * dist.get_world_size(), device=value.device)
        padded[: value.numel()] = value.flatten()
        own = padded.narrow(0, share * dist.get_rank(), share)
        _ = (
            safe_set_local_fp32_param(parameter, own)
            if key == WEIGHT
            else safe_set_local_optimizer_state(parameter, own, key)
        )


def write_state(path: Path, state: TrainState, key: str) -> None:
    """Write a state to `path`. key: the trial's. Raises InputError where the disk is full.

    A large one is written in parts of PART_BYTES, each of them atomically, and last, under `path`, the file that names
    them: a write that is killed leaves the former state whole. What such a write left goes with the trial's end.
    """
    from safetensors.torch import save

    former = _facts_and_tensors(path)[0] if names(parts_folder(path)) and exists(path) else {}
    parts = _parted(state.tensors)
    last = parts.pop() if len(parts) == 1 else {}
    stamp = uuid.uuid4().hex[:8]
    files = [f"{stamp}-{number}.safetensors" for number in range(len(parts))]
    for file, tensors in zip(files, parts, strict=True):
        write_bytes_atomic(parts_folder(path) / file, save(tensors))
    facts = {"key": key, "losses": json.dumps(state.losses), "optimizer_step": repr(state.optimizer_step)}
    facts |= {name: repr(getattr(state, name)) for name in SECONDS}
    write_bytes_atomic(path, save(last, {**facts, "parts": json.dumps(files)}))
    for file in json.loads(former.get("parts", "[]")):
        remove(parts_folder(path) / file)


def _parted(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors in groups of up to PART_BYTES; a larger tensor is a group of its own."""
    groups: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        if groups[-1] and sum(t.nbytes for t in groups[-1].values()) + tensor.nbytes > PART_BYTES:
            groups.append({})
        groups[-1][name] = tensor
    return groups


def read_state(path: Path, key: str) -> TrainState | None:
    """The state at `path`, or None where there is none, or one of another trial."""
    if not exists(path):
        return None
    facts, tensors = _facts_and_tensors(path)
    if facts["key"] != key:
        return None
    for file in json.loads(facts.get("parts", "[]")):
        tensors |= _facts_and_tensors(parts_folder(path) / file)[1]
    seconds = {name: float(facts.get(name, 0.0)) for name in SECONDS}
    return TrainState(json.loads(facts["losses"]), float(facts["optimizer_step"]), tensors, **seconds)


def _facts_and_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    from safetensors import safe_open

    with read_locally(path) as local, safe_open(local, "pt") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
