"""A DeepSpeed engine around an encoder, for one training; afterwards the process is as clean as before."""

from __future__ import annotations

import copy
import gc
import logging
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from effir_dist.encoder import Encoder, default_device, resolve_dtype
from effir_dist.settings import TrainConfig

BUCKET = 50_000_000
"""Most elements in a ZeRO bucket; DeepSpeed's own default reserves 2 GB before the first step."""


class TrainingDiverged(RuntimeError):
    """The loss or a weight is no longer finite. The message names the step and the loss."""


def deepspeed_config(config: TrainConfig, world_size: int, dtype: str, parameters: int) -> dict[str, Any]:
    """DeepSpeed's configuration. dtype: `float32` or `bfloat16`; parameters: of the model, bounds the buckets."""
    bucket = max(1, min(BUCKET, parameters))
    zero: dict[str, Any] = {"stage": config.zero_stage, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if config.zero_stage == 3:
        # The memory-efficient linear replaces torch's for the whole process, later trials included.
        zero |= {"stage3_prefetch_bucket_size": bucket, "memory_efficient_linear": False}
    adam = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "torch_adam": True}
    return {
        "train_batch_size": config.batch_size,
        "train_micro_batch_size_per_gpu": config.batch_size // world_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "optimizer": {"type": "AdamW", "params": adam},
        "zero_optimization": zero,
        "bf16": {"enabled": dtype == "bfloat16"},
    }


class Towers(nn.Module):
    """Queries and passages in one forward call: to ZeRO's hooks a step is one pass over the model."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, queries: tuple[Tensor, Tensor], passages: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self.encoder(*queries), self.encoder(*passages)


def start_distributed() -> None:
    """Join the process group, or make one of this process alone, kept for later trials; pick the GPU."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
        os.environ.setdefault("LOCAL_RANK", str(torch.cuda.current_device()))
    else:
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed demands it
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # No operator is to be built: the one DeepSpeed would build, an all-reduce for inference, takes a minute.
    deepspeed.ops.__compatible_ops__ = {}


def _twin(encoder: Encoder) -> Encoder:
    """A copy of the modules for DeepSpeed, which leaves hooks and caches behind; the weights move over to it."""
    memo: dict[int, Any] = {id(encoder.tokenizer): encoder.tokenizer}
    memo |= {id(buffer): buffer for buffer in encoder.buffers()}
    for parameter in encoder.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.data, parameter.requires_grad)
        parameter.data = parameter.data.new_empty(0)
    return copy.deepcopy(encoder, memo)


def _prepare(encoder: Encoder, config: TrainConfig) -> None:
    """Training mode, with the dropout of `config` wherever the model has dropout."""
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
        for name in [n for n, value in vars(module).items() if "dropout" in n and isinstance(value, float)]:
            setattr(module, name, config.dropout)
    if config.gradient_checkpointing:
        backbone: Any = encoder.backbone
        backbone.gradient_checkpointing_enable({"use_reentrant": False})


def _initialize(encoder: Encoder, config: TrainConfig, dtype: str) -> Any:
    import deepspeed

    parameters = list(encoder.parameters())
    settings = deepspeed_config(config, dist.get_world_size(), dtype, sum(p.numel() for p in parameters))
    trained = [p for p in parameters if p.requires_grad]
    return deepspeed.initialize(model=Towers(encoder), model_parameters=trained, config=settings)[0]


def _full_weights(encoder: Encoder) -> list[Tensor]:
    """A copy of each parameter in main memory, gathered from all ranks; raises TrainingDiverged if not finite."""
    import deepspeed

    weights = []
    for name, parameter in encoder.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            weights.append(parameter.detach().cpu().clone())
        if not weights[-1].isfinite().all():
            raise TrainingDiverged(f"the weight {name} is not finite after the last step")
    return weights


def _take_down(engine: Any, encoder: Encoder) -> None:
    """Free what the engine holds; DeepSpeed's own caches keep the objects themselves alive under ZeRO 3."""
    optimizer = engine.optimizer
    engine.destroy()
    for parameter in encoder.parameters():
        parameter.data = parameter.data.new_empty(0)
        vars(parameter).clear()
    vars(optimizer).clear()
    vars(engine).clear()


def run_engine(encoder: Encoder, config: TrainConfig, fit: Callable[[Any], None]) -> None:
    """Call fit(engine) with a DeepSpeed engine around the encoder, on this rank's device and in the training dtype.

    engine(queries, passages), each (input_ids [B, T], attention_mask [B, T]), gives their embeddings, two [B, D].
    At the end the encoder holds the full weights on every rank, in evaluation mode; after an error they are lost.
    """
    dtype = resolve_dtype(config.dtype)
    encoder.to(default_device(), torch.float32 if dtype == "float32" else None).eval()
    device, twin, engine = encoder.device, _twin(encoder), None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers and DeepSpeed call what torch will rename
        try:
            _prepare(twin, config)
            engine = _initialize(twin, config, dtype)
            fit(engine)
            weights = _full_weights(twin)
        finally:
            if engine is not None:
                _take_down(engine, twin)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    for parameter, weight in zip(encoder.parameters(), weights, strict=True):
        parameter.data = weight.to(device)
