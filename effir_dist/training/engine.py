"""An engine around an encoder for one training: DeepSpeed's, or in a single process that of `single_process`.

Afterwards nothing of it is left in the process.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from effir_dist.core.settings import TrainConfig
from effir_dist.models.encoder import Encoder, cast, default_device, resolve_dtype
from effir_dist.models.encoding import encode_packed
from effir_dist.models.families.registry import family
from effir_dist.models.kernels.packed import Batch
from effir_dist.training.memory import BUCKET, is_single_process, stage_of
from effir_dist.training.single_process import SingleProcess


class TrainingDiverged(FloatingPointError):
    """The loss or a weight is no longer finite. The message names the step and the loss."""


def deepspeed_config(config: TrainConfig, world_size: int, dtype: str, parameters: int) -> dict[str, Any]:
    """DeepSpeed's configuration. dtype: `float32` or `bfloat16`; parameters: of the model, they bound the buckets.

    Without ZeRO, DeepSpeed's clipping waits for the device once a parameter. So `step` clips itself there.
    """
    bucket, stage = max(1, min(BUCKET, parameters)), stage_of(config, dtype)
    zero: dict[str, Any] = {"stage": stage, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if stage == 3:
        # The memory-efficient linear replaces torch's for the whole process, later trials included.
        zero |= {"stage3_prefetch_bucket_size": bucket, "memory_efficient_linear": False}
    adam = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "torch_adam": True, "fused": True}
    # Left alone, DeepSpeed adds up chunks and ranks in bfloat16. So several ranks compute what one does, to the bit.
    sums = {"data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32"}
    return {
        **(sums if dtype == "bfloat16" else {}),
        "train_batch_size": config.batch_size,
        "train_micro_batch_size_per_gpu": config.batch_size // world_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm if stage else 0.0,
        "optimizer": {"type": "AdamW", "params": adam},
        "zero_optimization": zero,
        # A gradient that is not finite ends the training at its next loss. To look for one waits for the device.
        "bf16": {"enabled": dtype == "bfloat16", "check_grad_overflow": False},
    }


class ChunkEncoder(nn.Module):
    """Encodes all groups of a GradCache chunk in one forward call: to ZeRO's hooks that is one pass over the model."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, groups: Sequence[tuple[Tensor, Tensor] | Batch]) -> Tensor:
        embed, packed = self.encoder, encode_packed
        return torch.cat([embed(*g) if isinstance(g, tuple) else packed(self.encoder, g) for g in groups])


def start_distributed() -> None:
    """Join the process group and choose the GPU. Without a group, make one of this process, kept for later trials."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
        os.environ.setdefault("LOCAL_RANK", str(torch.cuda.current_device()))
    else:
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed demands it
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def step(engine: Any, config: TrainConfig) -> None:
    """The optimizer's step, on gradients clipped to `max_grad_norm`."""
    if not isinstance(engine, SingleProcess) and engine.zero_optimization_stage() == 0 and config.max_grad_norm:
        nn.utils.clip_grad_norm_(engine.module.parameters(), config.max_grad_norm)
    engine.step()


def _twin(encoder: Encoder) -> Encoder:
    """A copy of the modules for an engine, as DeepSpeed leaves hooks and caches behind. The weights move over to it."""
    memo: dict[int, Any] = {id(encoder.tokenizer): encoder.tokenizer}
    memo |= {id(buffer): buffer for buffer in encoder.buffers()}
    for parameter in encoder.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.data, parameter.requires_grad)
        parameter.data = parameter.data.new_empty(0)
    return copy.deepcopy(encoder, memo)


def _prepare(encoder: Encoder, config: TrainConfig) -> None:
    """Training mode, with `config`'s dropout wherever the model has dropout."""
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
        for name in [n for n, value in vars(module).items() if "dropout" in n and isinstance(value, float)]:
            setattr(module, name, config.dropout)
    if config.gradient_checkpointing:
        _checkpoint_blocks(encoder)


def _checkpoint_blocks(encoder: Encoder) -> None:
    """Within a block activations are computed again in the backward pass: by transformers, where its model can."""
    backbone: Any = encoder.backbone
    if backbone.supports_gradient_checkpointing:
        backbone.gradient_checkpointing_enable({"use_reentrant": False})
        return
    for block in backbone.get_submodule(family(encoder.model_config).blocks):
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def _initialize(encoder: Encoder, config: TrainConfig, dtype: str) -> Any:
    if is_single_process(config, dist.get_world_size()):
        return SingleProcess(ChunkEncoder(cast(encoder, dtype)), config)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # No operator is to be built: the one DeepSpeed would build, an all-reduce for inference, takes a minute.
    deepspeed.ops.__compatible_ops__ = {}
    parameters = list(encoder.parameters())
    settings = deepspeed_config(config, dist.get_world_size(), dtype, sum(p.numel() for p in parameters))
    trained = [p for p in parameters if p.requires_grad]
    buffers = [(m, name, b) for m in encoder.modules() for name, b in m.named_buffers(recurse=False)]
    with contextlib.redirect_stdout(io.StringIO()):  # stage 1 prints what memory it takes, step by step
        engine = deepspeed.initialize(model=ChunkEncoder(encoder), model_parameters=trained, config=settings)[0]
    for module, name, buffer in buffers:  # DeepSpeed has rounded rotary frequencies to bfloat16
        setattr(module, name, buffer)
    return engine


def _full_weights(engine: Any) -> list[Tensor]:
    """Each parameter of the encoder, gathered from all ranks. Raises TrainingDiverged where one is not finite.

    Of a single process they are the weights themselves, of DeepSpeed copies in main memory.
    """
    weights = []
    for name, parameter in engine.module.encoder.named_parameters():
        if isinstance(engine, SingleProcess):
            weights.append(parameter.detach())
        else:
            import deepspeed

            with deepspeed.zero.GatheredParameters([parameter]):
                weights.append(parameter.detach().cpu().clone())
        if not weights[-1].isfinite().all():
            raise TrainingDiverged(f"the weight {name} is not finite after the last step")
    return weights


def _take_down(engine: Any, encoder: Encoder) -> None:
    """Free what an engine holds: DeepSpeed's caches under ZeRO 3, or an error's traceback, keep the objects alive."""
    if not isinstance(engine, SingleProcess):
        engine.destroy()
    release(engine, encoder)
    for parameter in encoder.parameters():
        parameter.data = parameter.data.new_empty(0)


def release(engine: Any, encoder: Encoder) -> None:
    """Let go of gradients and of what the optimizer holds: hooks on parameters keep them alive. The weights stay."""
    for parameter in encoder.parameters():
        parameter.grad = None
        vars(parameter).clear()
    vars(engine.optimizer).clear()
    vars(engine).clear()


@contextmanager
def running_engine(encoder: Encoder, config: TrainConfig) -> Iterator[Any]:
    """An engine around the encoder, on this rank's device and in the training dtype, within the block.

    engine(groups) gives the embeddings of all texts, [rows, D]. A group is input_ids and attention_mask, [G, T] each,
    or a packed batch, for which the model must be within `packed.attention`.
    At the end the encoder holds the full weights on every rank, in evaluation mode. After an error they are lost.
    """
    dtype = resolve_dtype(config.dtype)
    encoder.to(default_device(), torch.float32 if dtype == "float32" else None).eval()
    device, twin, engine = encoder.device, _twin(encoder), None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers and DeepSpeed call what torch will rename
        try:
            _prepare(twin, config)
            engine = _initialize(twin, config, dtype)
            yield engine
            weights = _full_weights(engine)
        finally:
            if engine is not None:
                _take_down(engine, twin)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    for parameter, weight in zip(encoder.parameters(), weights, strict=True):
        parameter.data = weight.to(device)
