"""float32 against bfloat16 on this machine, encoding and training: python -m benchmarks.dtype [MODEL] [--tokens 128]

Interleaved repeats, medians, ratios: what `dtype: auto` goes by (`encoder.resolve_dtype`).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from effir_dist.models.encoder import Encoder, default_device, load_encoder, resolve_dtype
from effir_dist.models.kernels.attention import for_training

BATCH = 32


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call, the device's work included."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def encode(encoder: Encoder, ids: torch.Tensor) -> None:
    """One batch, [B, T]."""
    with torch.inference_mode():
        encoder(ids, torch.ones_like(ids))


def step(encoder: Encoder, ids: torch.Tensor) -> None:
    """Forward and backward of one batch, [B, T], as training does them."""
    with for_training(encoder.backbone):
        plain_step(encoder, ids)


def plain_step(encoder: Encoder, ids: torch.Tensor) -> None:
    """The same with attention in the dtype of the weights."""
    encoder(ids, torch.ones_like(ids)).sum().backward()
    encoder.zero_grad(set_to_none=False)


def main() -> None:
    """Print tokens per second of both dtypes and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dtype", description=__doc__)
    parser.add_argument("model", nargs="?", default="minilm")
    parser.add_argument("--tokens", type=int, default=128, help="tokens in each of 32 texts")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    encoders = {dtype: load_encoder(args.model, dtype) for dtype in ("float32", "bfloat16")}
    ids = torch.randint(1000, 20000, (BATCH, args.tokens), device=default_device())
    print(f"{args.model}, {BATCH} texts of {args.tokens} tokens, {torch.get_num_threads()} threads; auto is", end=" ")
    print(resolve_dtype("auto"))
    for work in (encode, step, plain_step):
        times: dict[str, list[float]] = {dtype: [] for dtype in encoders}
        for _ in range(args.repeats + 2):
            for dtype, encoder in encoders.items():
                times[dtype].append(seconds(lambda encoder=encoder, work=work: work(encoder, ids)))
        medians = {dtype: statistics.median(values[2:]) for dtype, values in times.items()}
        rates = ", ".join(f"{dtype} {BATCH * args.tokens / s:,.0f} tokens/s" for dtype, s in medians.items())
        print(f"{work.__name__}: {rates}; bfloat16 / float32 = {medians['float32'] / medians['bfloat16']:.2f}")


if __name__ == "__main__":
    main()
