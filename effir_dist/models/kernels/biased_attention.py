"""An attention that adds a bias of relative positions to its scores: packed texts on a CPU, with its backward pass.

transformers' own makes a bias of all texts [B, H, T, T], and passes over scores of that size once for each of scaling,
bias, mask and softmax. Here the bias is one [H, T, T] for all texts, and each run of texts of one length has products
of its own, without padding. The probabilities are kept for the backward pass, as there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from effir_dist.models.families.known_blocks import is_biased_attention, replaced
from effir_dist.models.kernels.exact_attention import parts, runs

if TYPE_CHECKING:
    from effir_dist.models.kernels.packed import Packing


@dataclass(frozen=True)
class Bias:
    """What a model hands to every block in place of its bias of all texts."""

    values: Tensor
    """[H, T, T], T of the longest text."""
    lengths: Sequence[int]


def known(backbone: nn.Module) -> bool:
    """Whether a model's attentions have such a bias, and something makes it."""
    return any(map(is_biased_attention, backbone.modules())) and len(_makers(backbone)) == 1


def _makers(backbone: nn.Module) -> list[Any]:
    return [module for module in backbone.modules() if hasattr(module, "compute_position_bias")]


@contextlib.contextmanager
def taken(backbone: Any) -> Iterator[None]:
    """Within the block the model takes packed batches, and no others."""
    (maker,) = _makers(backbone)
    packings: list[Packing] = []
    plain = maker.compute_position_bias

    def note(_: Any, __: Any, options: dict[str, Any]) -> None:
        packings[:] = [options["packing"]]

    def bias(states: Tensor, **_: Any) -> Bias:
        (packing,) = packings
        return Bias(plain(states.new_empty(1, packing.longest, 0))[0], packing.lengths)

    hook = backbone.register_forward_pre_hook(note, with_kwargs=True)
    maker.compute_position_bias = bias
    try:
        with replaced(backbone, lambda module: _forward_of(module) if is_biased_attention(module) else None):
            yield
    finally:
        del maker.compute_position_bias
        hook.remove()


def _forward_of(module: Any) -> Callable[..., Any]:
    heads, size = module.num_attention_heads, module.attention_head_size

    def forward(states: Tensor, attention_mask: Any = None, position_bias: Any = None, **_: Any) -> tuple[Tensor]:
        rows = [layer(states)[0].unflatten(-1, (heads, size)) for layer in (module.q, module.k, module.v)]
        found: Tensor = _Attention.apply(*rows, position_bias.values, position_bias.lengths, size**-0.5)
        return (module.o(found.flatten(1)[None]),)

    return forward


class _Attention(torch.autograd.Function):
    """[N, H, d] three times and [H, T, T] -> [N, H, d]."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, lengths: Sequence[int], scale: float
    ) -> Tensor:
        shapes, out, kept = list(runs(lengths)), torch.empty_like(query), []
        split = (_products(rows, shapes) for rows in (query, key, value))
        for q, k, v, place, (texts, length) in zip(*split, _split(out, shapes), shapes, strict=True):
            scores = bias[:, :length, :length].repeat(texts, 1, 1)
            probabilities = scores.baddbmm_(q, k.transpose(1, 2), alpha=scale).softmax(-1)
            place.copy_((probabilities @ v).view(place.shape))
            kept.append(probabilities)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.shapes, ctx.scale, ctx.longest = shapes, scale, bias.shape[-1]
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        shapes, scale = ctx.shapes, ctx.scale
        results = [torch.empty_like(rows) for rows in (query, key, value)]
        at_bias = torch.zeros(query.shape[1], ctx.longest, ctx.longest)
        split = (_products(rows, shapes) for rows in (gradients[0], query, key, value))
        places = (_split(rows, shapes) for rows in results)
        for gradient, q, k, v, *into, seen, (texts, length) in zip(*split, *places, kept, shapes, strict=True):
            at_scores = torch._softmax_backward_data(gradient @ v.transpose(1, 2), seen, -1, seen.dtype)
            at_bias[:, :length, :length] += at_scores.unflatten(0, (texts, -1)).sum(0)
            none = q.new_empty(())
            found = (
                torch.baddbmm(none, at_scores, k, beta=0, alpha=scale),
                torch.baddbmm(none, at_scores.transpose(1, 2), q, beta=0, alpha=scale),
                seen.transpose(1, 2) @ gradient,
            )
            for place, each in zip(into, found, strict=True):
                place.copy_(each.view(place.shape))
        return *results, at_bias.to(query.dtype), None, None


def _split(rows: Tensor, shapes: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
    """[N, H, d] -> of each run a view [B, H, T, d]."""
    return (part[0] for part in parts(rows, rows.shape[1], shapes))


def _products(rows: Tensor, shapes: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
    """[N, H, d] -> of each run [B * H, T, d]."""
    return (part.flatten(0, 1) for part in _split(rows, shapes))
