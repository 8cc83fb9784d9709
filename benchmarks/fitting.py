"""What fitting one output matrix takes (`importance.reconstruction`), in the ways that it can be done.

    python -m benchmarks.fitting --tokens 4096 --neurons 3072 --outputs 768

Primal: by the products of the neurons [F, F]; dual: by those of the tokens [n, n]. Ridges are compared on all outputs,
or on a sketch of them. Made-up activations of rank 64 and noise, float32, sides in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import torch

from effir_dist.core.model_settings import RIDGES
from effir_dist.importance import reconstruction

RANK = 64
SIDES = {
    "primal, all outputs": (False, False),
    "primal, sketch": (False, True),
    "dual, all outputs": (True, False),
    "dual, sketch": (True, True),
}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fitting", description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--neurons", type=int, default=3072)
    parser.add_argument("--outputs", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def main() -> None:
    """Print a row for each side."""
    args = parse()
    torch.set_num_threads(args.threads)
    inputs, error = (each.to(args.device) for each in made(args.tokens, args.neurons, args.outputs))
    weights = [ridge * float(inputs.square().mean()) for ridge in RIDGES]
    sides = {name: side(inputs, error, weights, *how) for name, how in SIDES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    changes = {name: run() for name, run in sides.items()}  # and once for nothing
    for _ in range(args.repeats):
        for name, run in sides.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    own = "dual, sketch" if args.neurons > args.tokens else "primal, sketch"
    first, exact = statistics.median(seconds["primal, all outputs"]), changes["primal, all outputs"]
    print(f"n = {args.tokens}, F = {args.neurons}, D = {args.outputs}; the product takes {own}")
    print("| side | seconds | times as fast | difference of the change |\n|---|---|---|---|")
    for name, found in seconds.items():
        median, away = statistics.median(found), float((changes[name] - exact).norm() / exact.norm())
        print(f"| {name} | {median:.3f} | {first / median:.1f} | {away:.1e} |")


def made(tokens: int, neurons: int, outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations [n, F] of unlike sizes, and an error [n, D] that follows from them in part."""
    torch.manual_seed(0)
    inputs = torch.randn(tokens, RANK) @ torch.randn(RANK, neurons) / RANK**0.5 + 0.3 * torch.randn(tokens, neurons)
    inputs *= torch.exp(torch.randn(neurons))
    return inputs, inputs @ torch.randn(neurons, outputs) / neurons**0.5 + torch.randn(tokens, outputs)


def side(
    inputs: torch.Tensor, error: torch.Tensor, weights: list[float], dual: bool, sketch: bool
) -> Callable[[], torch.Tensor]:
    """Fit; every fifth of the tokens chooses the ridge."""
    seen = len(inputs) * (reconstruction.HELD_OUT - 1) // reconstruction.HELD_OUT

    def run() -> torch.Tensor:
        with patch.object(reconstruction, "SKETCH", reconstruction.SKETCH if sketch else error.shape[1]):
            found = reconstruction._System.of(inputs, seen, dual).change(error, weights)
        if found.is_cuda:
            torch.cuda.synchronize()
        return found

    return run


if __name__ == "__main__":
    main()
