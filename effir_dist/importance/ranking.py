"""Importance of sub-layers (paper, section 3.1) and saliency of neurons of the unpruned model, once a search.

The importance of sub-layer l is 1 - cos(x_l, x_l + F_l(x_l)), x_l the residual stream that the sub-layer reads, F_l the
sub-layer with all of its norms: the stream without the sub-layer is compared with the stream with it. It is taken in
float32, per token over D, then averaged over all real tokens of all texts. Where the norm comes behind the sum
(post-norm), norm(x_l + F_l(x_l)) takes the sum's place, and norm(x_l) that of x_l where a dropped sub-layer leaves its
norm. Attention and MLP sub-layers are ranked as two groups.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from effir_dist.models.families.base import Family, block_count, mlp_width
from effir_dist.models.families.registry import family
from effir_dist.models.operations.drop import KINDS, keeps_norms
from effir_dist.models.pruning import make_plan

if TYPE_CHECKING:
    import torch

    from effir_dist.models.encoder import Encoder


@dataclass(frozen=True)
class Method:
    """How importance is measured. The defaults are the paper's."""

    distance: str = "cosine"
    """Between the residual stream before and after: 1 - cos, or `l2`: ||F(x)|| / ||x||."""
    granularity: str = "token"
    """Of each `token`, or of the `pooled` stream, one vector a text."""
    greedy: bool = False
    """Whether importance is measured again after each drop, which gives another drop order."""
    keep_norms: bool = True
    """Whether a dropped sub-layer leaves the norm behind its sum, in families with norms there."""


@dataclass(frozen=True)
class Importance:
    """Importance of every sub-layer, [L] each: higher matters more; NaN where the sub-layer is dropped."""

    mlp: tuple[float, ...]
    attention: tuple[float, ...]
    block: tuple[float, ...]
    """Of both sub-layers together: from where the residual stream enters a block to where it leaves."""

    orders: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Kind -> its drop order, where that comes from the importance after each drop and not from the above."""

    def drop_order(self, kind: str = "mlp") -> list[int]:
        """Blocks by rising importance, or as `orders` has it: the first is dropped first."""
        if kind in self.orders:
            return list(self.orders[kind])
        values: tuple[float, ...] = getattr(self, kind)
        return sorted(range(len(values)), key=lambda block: (values[block], block))


@dataclass(frozen=True)
class Calibration:
    """What calibration texts tell of the unpruned model, before the first trial."""

    importance: Importance
    saliency: dict[str, np.ndarray]
    """Ranking -> [L, F] saliency of the neurons: the higher ones stay."""


@dataclass
class _Sums:
    """Running sums over tokens (or texts), one entry a block."""

    changes: dict[str, np.ndarray]
    """Kind -> [L] sums of distances."""
    activation: np.ndarray
    """[L, F] sums over tokens of the squared input of the MLP's last matrix, relative to the residual stream that the
    MLP reads, and as much larger or smaller as a norm behind the MLP makes what it gives."""
    distance: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], float]
    tokens: int = 0
    texts: int = 0
    seen: dict[str, Any] = field(default_factory=dict)

    def add(self, kind: str, block: int, before: torch.Tensor, after: torch.Tensor) -> None:
        """Take what one sub-layer made of the stream: [B, T, D] before and after."""
        self.changes[kind][block] += self.distance(before, after, self.seen["kinds"])


def calibrate(
    encoder: Encoder, texts: Sequence[str], batch_tokens: int = 0, method: Method | None = None
) -> Calibration:
    """Importance of each sub-layer and saliency of each neuron, from `texts` encoded as documents."""
    method = method or Method()
    row, sums = family(encoder.model_config), _observed(encoder, texts, batch_tokens, method)
    count = sums.tokens if method.granularity == "token" else sums.texts
    orders = {}
    if method.greedy:
        once, blocks = replace(method, greedy=False), block_count(encoder.model_config)
        makers = {kind: partial(_without, encoder, kind, method.keep_norms) for kind in KINDS}
        orders = {kind: tuple(greedy_order(make, kind, blocks, texts, once)) for kind, make in makers.items()}
    importance = Importance(**{kind: tuple((sums.changes[kind] / count).tolist()) for kind in KINDS}, orders=orders)
    if encoder.plan.dropped_mlp or encoder.plan.dropped_attention:
        return Calibration(importance, {})  # neurons are ranked on the unpruned model
    saliency = {"activation": _activation(encoder, row, sums), "magnitude": _magnitude(encoder, row)}
    return Calibration(importance, saliency)


def greedy_order(
    make: Callable[[list[int]], Encoder], kind: str, blocks: int, texts: Sequence[str], method: Method
) -> list[int]:
    """The drop order where importance is measured again after each drop.

    make(dropped) gives the model without the sub-layers (or blocks) of `kind` in those blocks.
    """
    order: list[int] = []
    while len(order) < blocks:
        values = getattr(calibrate(make(order), texts, method=method).importance, kind)
        left = [block for block in range(blocks) if block not in order]
        order.append(min(left, key=lambda block: (values[block], block)))
    return order


def _without(encoder: Encoder, kind: str, keep_norms: bool, gone: list[int]) -> Encoder:
    """A copy of the encoder without those sub-layers or blocks."""
    from effir_dist.models.encoder import prune_encoder

    mlp = gone if kind in ("mlp", "block") else []
    attention = gone if kind in ("attention", "block") else []
    plan = make_plan(encoder.model_config, mlp, attention, keep_norms=keep_norms)
    return prune_encoder(copy.deepcopy(encoder), plan, None)


def _observed(encoder: Encoder, texts: Sequence[str], batch_tokens: int, method: Method) -> _Sums:
    """Encode the texts with hooks on every block."""
    import torch

    from effir_dist.models.encoder import pad
    from effir_dist.models.encoding import auto_tokens
    from effir_dist.models.grouping import within

    tokens = encoder.tokenize(list(texts), "document")
    config, row = encoder.model_config, family(encoder.model_config)
    blocks, width = block_count(config), mlp_width(config)
    changes = {kind: np.zeros(blocks) for kind in KINDS}
    sums = _Sums(changes, np.zeros((blocks, width)), _distance(encoder, method))
    kept = keeps_norms(config, method.keep_norms)
    hooks = [hook for i in range(blocks) for hook in _hooks(encoder, row, i, sums, kept)]
    try:
        with torch.inference_mode():
            for indices in within(tokens.lengths, batch_tokens or auto_tokens(encoder)):
                ids, mask = pad(tokens, indices, encoder.pad_id, encoder.device)
                sums.seen |= {"kinds": mask, "mask": mask.bool()}
                encoder(ids, mask)
                sums.tokens += int(sums.seen["mask"].sum())
                sums.texts += len(indices)
    finally:
        for hook in hooks:
            hook.remove()
    for kind, gone in (("mlp", encoder.plan.dropped_mlp), ("attention", encoder.plan.dropped_attention)):
        changes[kind][list(gone)] = np.nan
    return sums


def _hooks(encoder: Encoder, row: Family, index: int, sums: _Sums, keep_norms: bool) -> list[Any]:
    """Hooks on one block: where the residual stream enters, what each sub-layer makes of it, and where it leaves."""
    block = encoder.backbone.get_submodule(row.blocks)[index]  # type: ignore[index]
    attention, mlp = index not in encoder.plan.dropped_attention, index not in encoder.plan.dropped_mlp
    parallel = attention and mlp and row.norm_placement == "parallel"
    # A block without both has no norm left, so that its only sub-layer would go with all norms.
    behind = row.norms_behind if keep_norms and attention and mlp else ("", "")

    def without(norm: str, stream: torch.Tensor) -> torch.Tensor:
        """What dropping a sub-layer leaves of the stream; `forward` calls no hook."""
        return block.get_submodule(norm).forward(stream) if norm else stream

    def entered(_module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        stream = args[0] if args else options["hidden_states"]
        sums.seen |= {"in": stream, "read by mlp": stream}

    def attended(stream: torch.Tensor) -> None:
        sums.add("attention", index, without(behind[0], sums.seen["in"]), stream)
        if not parallel:
            sums.seen["read by mlp"] = stream

    def left(_module: Any, _args: Any, output: Any) -> None:
        stream = _first(output)
        if mlp:
            before = sums.seen["read by mlp"]
            after = before + sums.seen["mlp"] if parallel else stream
            sums.add("mlp", index, without(behind[1], before), after)
        elif attention:
            attended(stream)
        sums.add("block", index, sums.seen["in"], stream)

    def squared(stream: torch.Tensor) -> torch.Tensor:
        """[n, 1]: the squared length of each real token's vector."""
        return stream[sums.seen["mask"]].float().square().sum(-1, keepdim=True).clamp(min=1e-30)  # it is divided by

    def activated(_module: Any, args: tuple[Any, ...]) -> None:
        neurons = args[0][sums.seen["mask"]].float().square() / squared(sums.seen["read by mlp"])
        if row.norm_before_sum:
            sums.seen["neurons"] = neurons
        else:
            sums.activation[index] += neurons.sum(0).double().cpu().numpy()

    def scaled(_module: Any, args: tuple[Any, ...], output: Any) -> None:
        factor = squared(output) / squared(args[0])
        sums.activation[index] += (sums.seen["neurons"] * factor).sum(0).double().cpu().numpy()

    hooks = [block.register_forward_pre_hook(entered, with_kwargs=True), block.register_forward_hook(left)]
    if mlp:
        hooks.append(block.get_submodule(row.mlp_out).register_forward_pre_hook(activated))
    if mlp and row.norm_before_sum:
        hooks.append(block.get_submodule(row.mlp[-1]).register_forward_hook(scaled))
    return hooks + (_between(block, row, sums, attended) if mlp and attention else [])


def stream_reader(row: Family) -> str:
    """The module of a block whose input is the stream that the MLP reads: its norm, or where none is before it, the
    MLP."""
    return row.mlp[0] if row.norm_placement in ("post", "res_post") else row.mlp[1]


def _between(block: Any, row: Family, sums: _Sums, attended: Callable[[torch.Tensor], None]) -> list[Any]:
    """Hooks that call `attended` with the stream behind a block's attention, where an MLP follows or stands beside."""
    if row.norm_placement == "post":
        last = block.get_submodule(row.attention[-1])
        return [last.register_forward_hook(lambda _m, _a, output: attended(_first(output)))]
    if row.norm_placement == "parallel":
        parts = [block.get_submodule(names[0]) for names in (row.attention, row.mlp)]
        return [
            parts[0].register_forward_hook(lambda _m, _a, output: attended(sums.seen["in"] + _first(output))),
            parts[1].register_forward_hook(lambda _m, _a, output: sums.seen.update(mlp=_first(output))),
        ]
    return [block.get_submodule(stream_reader(row)).register_forward_pre_hook(lambda _m, args: attended(args[0]))]


def _first(output: Any) -> Any:
    """The stream, which some modules give in a tuple."""
    return output[0] if isinstance(output, tuple) else output


def _distance(encoder: Encoder, method: Method) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], float]:
    """(before [B, T, D], after [B, T, D], mask [B, T]) -> sum over real tokens, or over texts, pooled as they are."""
    import torch

    from effir_dist.models.pooling import pool

    pooling = encoder.settings.pooling

    def measure(before: torch.Tensor, after: torch.Tensor, mask: torch.Tensor) -> float:
        if method.granularity == "token":
            x, y = before[mask > 0].float(), after[mask > 0].float()
        else:
            x, y = pool(pooling, before, mask), pool(pooling, after, mask)
        if method.distance == "cosine":
            change = 1 - torch.nn.functional.cosine_similarity(x, y, dim=-1)
        else:
            change = (y - x).norm(dim=-1) / x.norm(dim=-1)
        return float(change.double().sum())

    return measure


def _out_norms(encoder: Encoder, row: Family) -> np.ndarray:
    """[L, F]: l2 norm of what each neuron writes to the residual stream for an activation of 1."""
    blocks: Any = encoder.backbone.get_submodule(row.blocks)
    return np.stack([b.get_submodule(row.mlp_out).weight.detach().float().norm(dim=0).cpu().numpy() for b in blocks])


def _activation(encoder: Encoder, row: Family, sums: _Sums) -> np.ndarray:
    """[L, F]: root mean square over tokens of what each neuron adds to the residual stream, relative to the stream.

    Relative, so that neurons of different blocks compare: streams grow with depth. Relative token by token, as norms
    read the stream: in an LLM the first token's stream may be a hundred times as long as the others' (massive
    activations; Sun et al., 2024), and a mean of lengths would hide what a block does to all others. A norm behind the
    MLP scales what its neurons give: by as much as it scales all of it.
    """
    return (np.sqrt(sums.activation / sums.tokens) * _out_norms(encoder, row)).astype(np.float32)


def _magnitude(encoder: Encoder, row: Family) -> np.ndarray:
    """[L, F]: l2 norm of each neuron's input weights times that of its output weights, no data needed."""
    blocks: Any = encoder.backbone.get_submodule(row.blocks)
    norms = _out_norms(encoder, row)
    for name in row.mlp_in:
        rows = [b.get_submodule(name).weight.detach().float().norm(dim=1).cpu().numpy() for b in blocks]
        norms = norms * np.stack(rows).reshape(len(rows), row.fused, -1).prod(axis=1)
    return norms.astype(np.float32)
