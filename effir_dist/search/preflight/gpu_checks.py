"""What a trial needs of a node's GPUs. Runs in a process that holds all of them."""

from __future__ import annotations

from effir_dist.core.errors import InputError
from effir_dist.core.values import Json
from effir_dist.search.cluster import mps
from effir_dist.search.preflight.node_checks import Request
from effir_dist.training.memory import SPARE, advice


def run(tree: Json, count: int) -> str:
    """What the GPUs are and have free. tree: of `Request.plain`; count: of this node, as Ray says.

    Raises InputError where CUDA does not work, or a GPU has less memory free than the trials on it take.
    """
    request = Request.read(tree)
    return check_memory(request, [_memory(index) for index in range(_found(count))]) + shared_by(request)


def shared_by(request: Request) -> str:
    """How trials that share a GPU would compute on it, in words; empty where none does."""
    if not request.config.resources.may_share:
        return ""
    there = mps.answers(mps.pipes())
    return f", multi-process service in {mps.pipes()}" if there else ", no multi-process service: trials take turns"


def _found(count: int) -> int:
    """How many GPUs torch sees: no fewer than `count`."""
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < count:
        raise InputError(
            f"torch {torch.__version__} sees {found} GPUs, and Ray counts {count}; is the CUDA driver there, and new "
            f"enough for CUDA {torch.version.cuda}?"
        )
    return found


def _memory(index: int) -> tuple[int, int]:
    """Bytes that are free, and all, of a GPU that has just multiplied two matrices."""
    import torch

    device = torch.device("cuda", index)
    ones = torch.ones(64, 64, device=device, dtype=torch.bfloat16)
    if (ones @ ones).float().sum().item() != 64**3:
        raise InputError(f"GPU {index} multiplies two matrices wrongly; take it out of the cluster")
    free, total = torch.cuda.mem_get_info(device)
    return free, total


def check_memory(request: Request, memory: list[tuple[int, int]]) -> str:
    """Holds (free, all) bytes of each GPU against the prediction. Raises InputError where one has too little."""
    needed = request.gpu_bytes
    for index, (free, total) in enumerate(memory):
        if free - SPARE * total < needed:
            raise InputError(
                f"GPU {index} has {free / 1e9:.1f} of {total / 1e9:.1f} GB free, {SPARE:.0%} of them are spare, and "
                f"its trials take up to {needed / 1e9:.1f} GB{_would_fit(request, free)}"
            )
    least = min(free for free, _ in memory)
    return f"{len(memory)} GPUs, {least / 1e9:.1f} GB free, {needed / 1e9:.1f} GB predicted"


def _would_fit(request: Request, free: int) -> str:
    source = _model_config(request)
    found = advice(source, request.config, "bfloat16", free)
    return f": {found} would fit" if found else ""


def _model_config(request: Request) -> Json:
    from effir_dist.models import pretrained

    return dict(pretrained.find_model(request.config.model).config)
