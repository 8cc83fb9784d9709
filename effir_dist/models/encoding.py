"""Token ids to embeddings, as fast as the device allows: what a batch holds, how it is computed, when code is compiled.

On a GPU texts are packed (packed.py), batches are large, copies wait for nothing and embeddings stay there
until many are ready. On a CPU batches are small, so that what a layer leaves is still in the cache for the next one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from effir_dist.models.encoder import Encoder, pad
from effir_dist.models.families.registry import family
from effir_dist.models.flops import count_flops
from effir_dist.models.grouping import within
from effir_dist.models.kernels import packed, prepacked
from effir_dist.models.kernels.attention import replaceable
from effir_dist.models.kernels.fast_blocks import fast_blocks
from effir_dist.models.kernels.fused_blocks import fused_blocks
from effir_dist.models.pruning import mlp_widths

if TYPE_CHECKING:
    from torch import Tensor

    from effir_dist.models.tokens import Tokens

CPU_TOKENS = 1024
GPU_TOKENS = 32768
"""Tokens of a batch where nobody says: docs/results/speed.md has the measurements."""
CPU_ROWS, CPU_FLOPS = 256, 1.2e10
"""What a batch on a CPU is worth its start with: rows of which a matrix product is at its full rate, and work beside
which starting the operators of all blocks is little."""
SHORT = 64
"""Tokens of a text, on average, below which texts are packed on a CPU."""
MEMORY_SHARE = 0.2
"""Of a GPU's memory for a batch's activations."""
CHUNK_BYTES = 256 * 2**20
"""Embeddings that wait on a GPU before they are fetched."""
SLICE = 2048
"""Texts that are tokenised at a time, while those before them are computed."""
SAMPLE = 256
"""Texts that tell how long a corpus's are."""
COMPILE_FLOPS, MORE_FLOPS = 4e15, 1e15
"""Work on a GPU that wins compiling back: 11.6 s on an H200, where a FLOP takes half the time then, and 2.4 s for each
more shape of a block."""
COMPILED = 1024
"""Shapes of blocks that a process may compile, trial after trial; above its own limit, 8, torch goes on uncompiled."""


def encode(
    encoder: Encoder,
    tokens: Tokens,
    batch_tokens: int = 0,
    compiled: str = "auto",
    out: np.ndarray | None = None,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """[N, D] float32, in the order given; or `out`, an array [N, D] of any float type, such as a memory map.

    batch_tokens: tokens of a batch, padding included; 0 takes what suits the device. compiled: `always`, `never`, or
    `auto`: where the work is long enough to win the time back. rows: the texts [N] wanted, where not all are.
    """
    chosen = np.arange(len(tokens)) if rows is None else rows
    if out is None:
        out = np.empty((len(chosen), encoder.dimension), np.float32)
    short = not batch_tokens and compiled != "always" and packs_on_cpu(encoder, tokens.lengths)
    plan = batches(encoder, tokens.lengths[chosen], CPU_TOKENS if short else batch_tokens)
    with prepared(encoder, tokens, compiled, len(chosen) / max(1, len(tokens)), short) as vectors_of:
        for places, vectors in fetched(plan, lambda places: vectors_of(chosen[places])):
            out[places] = vectors
    return out


def encode_texts(
    encoder: Encoder, texts: list[str], kind: str = "document", batch_tokens: int = 0, compiled: str = "auto"
) -> np.ndarray:
    """[N, D] float32 of texts, in the order given. A thread tokenises the next SLICE while one is computed."""
    if len(texts) <= SLICE:
        return encode(encoder, encoder.tokenize(texts, kind), batch_tokens, compiled)
    parts, compiled = [], worth_compiling(encoder, texts, kind, len(texts), compiled)
    with ThreadPoolExecutor(1) as pool:
        slices = [texts[start : start + SLICE] for start in range(0, len(texts), SLICE)]
        ahead = pool.submit(encoder.tokenize, slices[0], kind)
        for following in [*slices[1:], None]:
            tokens = ahead.result()
            if following is not None:
                ahead = pool.submit(encoder.tokenize, following, kind)
            parts.append(encode(encoder, tokens, batch_tokens, compiled))
    return np.concatenate(parts)


@contextmanager
def prepared(
    encoder: Encoder, tokens: Tokens, compiled: str = "auto", share: float = 1.0, short: bool = False
) -> Iterator[Callable[[np.ndarray], Tensor]]:
    """Within the block: a function that gives the embeddings [B, D] of the texts at some indices, on the device.

    share: of the texts that will be asked for, which tells whether compiling pays. short: whether texts are packed on a
    CPU (`packs_on_cpu`).
    """

    def padded(indices: np.ndarray) -> Tensor:
        return encoder(*pad(tokens, indices, encoder.pad_id, encoder.device))

    def unpadded(indices: np.ndarray) -> Tensor:
        return encode_packed(encoder, packed.pack(tokens, indices, encoder.device))

    was_training = encoder.training
    on_gpu = encoder.device.type == "cuda"
    packs = short or (on_gpu and packed.possible(encoder.backbone) and bool(tokens.lengths.all()))
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if _is_torchs(encoder):
            _take_fastest(stack, encoder, packs, tokens, compiled, share)
        encoder.eval()
        try:
            yield unpadded if packs else padded
        finally:
            encoder.train(was_training)


def _take_fastest(
    stack: contextlib.ExitStack, encoder: Encoder, packs: bool, tokens: Tokens, compiled: str, share: float
) -> None:
    """Let a model compute in the fastest ways that its device has, until the stack ends; arguments as in `prepared`."""
    backbone = encoder.backbone
    stack.enter_context(fast_blocks(backbone))
    if packs:
        stack.enter_context(packed.attention(backbone))
    if compiled == "always" or (compiled == "auto" and pays(encoder, tokens, share)):
        stack.enter_context(compiled_blocks(encoder))
    else:
        stack.enter_context(prepacked.linear_layers(backbone, int(share * tokens.lengths.sum())))
        stack.enter_context(fused_blocks(backbone))


def encode_packed(encoder: Encoder, batch: packed.Batch) -> Tensor:
    """[B, D] float32 embeddings of a packed batch, within `packed.attention`."""
    row = family(encoder.model_config)
    positions = batch.positions + row.first_position(encoder.model_config)
    found = encoder.backbone(
        input_ids=batch.ids, position_ids=positions, attention_mask=None, packing=batch.packing, **row.call_options
    )
    return encoder.finish(packed.pool(encoder.settings.pooling, found.last_hidden_state, batch))


def fetched(
    plan: list[np.ndarray], vectors_of: Callable[[np.ndarray], Tensor]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(Indices [B], embeddings [B, D]) of all batches; from a GPU in chunks of CHUNK_BYTES, since each fetch waits."""
    waiting: list[tuple[np.ndarray, Tensor]] = []
    for number, indices in enumerate(plan, 1):
        vectors = vectors_of(indices)
        waiting.append((indices, vectors))
        size = sum(part.nbytes for _, part in waiting)
        if number == len(plan) or not vectors.is_cuda or size > CHUNK_BYTES:
            yield np.concatenate([i for i, _ in waiting]), torch.cat([v for _, v in waiting]).cpu().numpy()
            waiting.clear()


def _is_torchs(encoder: Encoder) -> bool:
    """Whether torch computes the model; another engine's has no modules (`export/onnx_model.py`)."""
    return next(encoder.backbone.parameters(), None) is not None


def packs_on_cpu(encoder: Encoder, lengths: np.ndarray) -> bool:
    """Whether texts of these lengths [N] are packed on a CPU: short ones, of which much is padding and starts."""
    possible = encoder.device.type == "cpu" and _is_torchs(encoder) and replaceable(encoder.backbone)
    return possible and len(lengths) > 0 and bool(lengths.all()) and float(lengths.mean()) < SHORT


def batches(encoder: Encoder, lengths: np.ndarray, batch_tokens: int = 0) -> list[np.ndarray]:
    """Indices of the texts of each batch: of `batch_tokens` when padded; where that is 0, what suits the device.

    On a CPU a batch then ends where texts get shorter, once it is large enough to be worth a start.
    """
    if batch_tokens or encoder.device.type == "cuda":
        return within(lengths, batch_tokens or auto_tokens(encoder))
    a_token = max(1.0, count_flops(encoder.model_config, np.ones(1), encoder.plan))
    return within(lengths, CPU_TOKENS, int(min(CPU_TOKENS, max(CPU_ROWS, CPU_FLOPS / a_token))))


def auto_tokens(encoder: Encoder) -> int:
    """Tokens of a batch that suit the device: a CPU's cache, a GPU's memory."""
    device = encoder.device
    if device.type != "cuda":
        return CPU_TOKENS
    config, item = encoder.model_config, next(encoder.parameters()).element_size()
    a_token = item * (6 * int(config["intermediate_size"]) + 16 * int(config["hidden_size"]))
    memory = torch.cuda.get_device_properties(device).total_memory
    return max(1024, min(GPU_TOKENS, int(MEMORY_SHARE * memory / a_token)))


def pays(encoder: Encoder, tokens: Tokens, times: float = 1.0) -> bool:
    """Whether compiling wins its time back on `times` these texts: on a GPU, with a C compiler beside it.

    Each shape of a block is compiled on its own, and widths that a global ranking chose all differ.
    """
    if encoder.device.type != "cuda" or not shutil.which(os.environ.get("CC", "cc")):
        return False
    config, plan = encoder.model_config, encoder.plan
    shapes = {(width, block in plan.dropped_attention) for block, width in enumerate(mlp_widths(config, plan))}
    return times * count_flops(config, tokens.lengths, plan) > COMPILE_FLOPS + MORE_FLOPS * (len(shapes) - 1)


def worth_compiling(encoder: Encoder, texts: list[str], kind: str, count: int, compiled: str = "auto") -> str:
    """`always` or `never` for `count` texts like the first of `texts`, where `compiled` leaves it open."""
    if compiled != "auto":
        return compiled
    sample = texts[:SAMPLE]
    return "always" if pays(encoder, encoder.tokenize(sample, kind), count / len(sample)) else "never"


@contextmanager
def compiled_blocks(encoder: Encoder) -> Iterator[None]:
    """Within the block every block of the model runs compiled code; blocks of one shape share it."""
    blocks: Any = encoder.backbone.get_submodule(family(encoder.model_config).blocks)
    limits: dict[str, Any] = {"recompile_limit": COMPILED, "accumulated_recompile_limit": COMPILED}
    for block in blocks:
        block.compile(dynamic=True)
    try:
        with torch._dynamo.config.patch(limits):
            yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None
