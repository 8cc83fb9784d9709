"""Sub-layers as their definition says, with hooks on an unpruned block: what surgery and scores are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Done = Callable[[Tensor, Tensor], None]


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def last_module(row: Any, kind: str) -> str:
    """The module whose output is added to the stream, or in post-norm is the stream."""
    names = getattr(row, kind)
    return names[-1] if row.norm_placement in ("sandwich", "post", "res_post") else names[0]


def remember(block: nn.Module, row: Any, kind: str, seen: dict[str, Tensor]) -> None:
    """Put the stream that the sub-layer reads in seen["x"]."""
    names = getattr(row, kind)
    reads = block.get_submodule(names[0] if row.norm_placement in ("post", "res_post") else names[1])
    (block if row.norm_placement == "parallel" else reads).register_forward_pre_hook(
        lambda _m, args, options: seen.update(x=args[0] if args else options["hidden_states"]), with_kwargs=True
    )


def norm_behind(block: nn.Module, row: Any, kind: str) -> nn.Module:
    """The norm behind the sub-layer's sum, of post-norm."""
    return block.get_submodule(row.norms_behind[("attention", "mlp").index(kind)])


def record(block: nn.Module, row: Any, kind: str, done: Done, keep_norms: bool = False) -> None:
    """Call done(x, x + F(x)) in each forward pass: [B, T, D] each; post-norm: done(x, norm(x + F(x))), or where the
    norm would be kept done(norm(x), norm(x + F(x)))."""
    seen: dict[str, Tensor] = {}
    remember(block, row, kind, seen)
    post = row.norm_placement == "post"
    scale: Any = block.residual_multiplier if row.norm_placement == "scaled_pre" else 1.0

    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        x = seen["x"]
        before = norm_behind(block, row, kind).forward(x) if post and keep_norms else x
        done(before, first(output) if post else x + scale * first(output))

    block.get_submodule(last_module(row, kind)).register_forward_hook(hook)


def silence(block: nn.Module, row: Any, kind: str, keep_norms: bool = False) -> None:
    """The sub-layer adds 0; post-norm: its step gives its input back, or where the norm is kept norm(x)."""
    seen: dict[str, Tensor] = {}
    remember(block, row, kind, seen)
    if keep_norms:
        norm_behind(block, row, kind).register_forward_pre_hook(lambda _m, _a: (seen["x"],))
        return

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        silent = seen["x"] if row.norm_placement == "post" else torch.zeros_like(first(output))
        return (silent, *output[1:]) if isinstance(output, tuple) else silent

    block.get_submodule(last_module(row, kind)).register_forward_hook(hook)
