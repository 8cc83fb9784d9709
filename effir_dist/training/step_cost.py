"""What a step costs, by formula: whether its texts are packed or padded, and in how many groups, on a device.

A token costs matrix products; a group starts every operator of the model anew, and reads and writes all weights and
their gradients; packed on a CPU, every run of texts of one length starts an attention of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from effir_dist.models.families.base import ModelDict, block_count, mlp_width
from effir_dist.models.families.registry import family
from effir_dist.models.grouping import MOST_GROUPS, padded_tokens
from effir_dist.models.kernels.processor import this_processor

OPERATORS, RUN_OPERATORS = 50, 20
"""That a group starts in a block, forward and backward, and an attention for a run of texts of one length."""
WEIGHT_PASSES = 6
"""How often a group passes over the bytes of the blocks' weights: read for two products, gradients written and added
to those of the groups before."""


@dataclass(frozen=True)
class Device:
    """The rates that decide."""

    flops: float
    """Of matrix products, a second."""
    bandwidth: float
    """Bytes a second."""
    start: float = 5e-6
    """Seconds that starting an operator takes, in Python and torch."""


GPU = Device(4e14, 2e12)
AMX_CORE, CORE = Device(1e12, 7e9), Device(2e11, 7e9)
"""Of one thread, by what a group more was found to cost SmolLM2 (docs/experiments.md)."""


def device_of(device: torch.device) -> Device:
    """The rates of a device: of a CPU by its matrix units and the threads that torch has."""
    if device.type == "cuda":
        return GPU
    core, threads = AMX_CORE if this_processor().amx else CORE, torch.get_num_threads()
    return Device(core.flops * threads, core.bandwidth * threads, core.start)


@dataclass(frozen=True)
class Model:
    """What of a model decides."""

    blocks: int
    parameters: int
    """Of a block: each takes 6 FLOPs a token."""
    trained_bytes: int
    """Of a block's gradients."""

    @classmethod
    def of(cls, config: ModelDict, size: int, trained: int = 0) -> Model:
        """size: bytes of a number. trained: parameters that train in all blocks, 0 for all of them."""
        row, blocks = family(config), block_count(config)
        parameters = row.attention_parameters(config) + row.mlp_parameters(config, mlp_width(config))
        return cls(blocks, parameters, size * (trained // blocks or parameters))


def grouping(lengths: np.ndarray, model: Model, device: Device, packable: bool) -> tuple[bool, int]:
    """Whether texts of these lengths are packed, and in how many groups: what takes the least time.

    packable: whether they can be packed; they are then one group, since every further one costs and none is padded.
    """
    token = 6 * model.parameters / device.flops
    group = OPERATORS * device.start + WEIGHT_PASSES * model.trained_bytes / device.bandwidth
    padded = token * padded_tokens(lengths, MOST_GROUPS) + group * np.arange(1, MOST_GROUPS + 1)
    runs = RUN_OPERATORS * device.start * len(np.unique(lengths))
    if packable and token * lengths.sum() + group + runs <= padded.min():
        return True, 1
    return False, int(padded.argmin()) + 1
