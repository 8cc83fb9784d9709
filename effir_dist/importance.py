"""Scores of sub-layers (paper, section 3.1) and of neurons, on the unpruned model; computed once a search.

S_l = 1 - cos(x_l, x_l + F_l(x_l)), x_l the residual stream before the sub-layer's norm: in float32, per token over D,
then the mean over all real tokens of all texts. Attention and MLP sub-layers are ranked as two groups.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from effir_dist.backbones import Family, block_count, family, mlp_width

if TYPE_CHECKING:
    import torch

    from effir_dist.encoder import Encoder


@dataclass(frozen=True)
class Importance:
    """Scores of every sub-layer, [L] each: higher matters more."""

    mlp: tuple[float, ...]
    attention: tuple[float, ...]

    def drop_order(self, kind: str = "mlp") -> list[int]:
        """Blocks by rising score: the first is dropped first."""
        scores = {"mlp": self.mlp, "attention": self.attention}[kind]
        return sorted(range(len(scores)), key=lambda block: (scores[block], block))


@dataclass(frozen=True)
class Scores:
    """What a search knows before its first trial."""

    importance: Importance
    neurons: dict[str, np.ndarray]
    """[L, F] for each ranking; higher stays."""


@dataclass
class _Sums:
    """Running sums over tokens, one entry a block."""

    mlp: np.ndarray
    attention: np.ndarray
    activation: np.ndarray
    """[L, F] sums of the squared input of the MLP's last matrix."""
    residual: np.ndarray
    """[L] sums of the squared norm of the residual stream that the MLP reads."""
    tokens: int = 0
    seen: dict[str, Any] = field(default_factory=dict)


def score_model(encoder: Encoder, texts: list[str], batch_tokens: int = 4096) -> Scores:
    """Importance of each sub-layer and the rankings of neurons, from `texts` encoded as documents."""
    import torch

    from effir_dist.encoder import length_sorted_batches, pad

    tokens = encoder.tokenize(texts, "document")
    config, row = encoder.model_config, family(encoder.model_config)
    blocks, width = block_count(config), mlp_width(config)
    sums = _Sums(np.zeros(blocks), np.zeros(blocks), np.zeros((blocks, width)), np.zeros(blocks))
    hooks = [hook for i in range(blocks) for hook in _listen(encoder, row, i, sums)]
    try:
        with torch.inference_mode():
            for indices in length_sorted_batches(tokens.lengths, batch_tokens):
                ids, mask = pad(tokens, indices, encoder.pad_id, encoder.device)
                sums.seen["mask"] = mask.bool()
                encoder(ids, mask)
                sums.tokens += int(mask.sum())
    finally:
        for hook in hooks:
            hook.remove()
    importance = Importance(tuple((sums.mlp / sums.tokens).tolist()), tuple((sums.attention / sums.tokens).tolist()))
    return Scores(importance, {"activation": _activation(encoder, row, sums), "magnitude": _magnitude(encoder, row)})


def _listen(encoder: Encoder, row: Family, index: int, sums: _Sums) -> list[Any]:
    """Hooks on one block: where the residual stream enters, between its sub-layers, and where it leaves."""
    block = encoder.backbone.get_submodule(row.blocks)[index]  # type: ignore[index]

    def entered(_module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        sums.seen["in"] = args[0] if args else options["hidden_states"]

    def between(stream: torch.Tensor) -> None:
        sums.attention[index] += _cosine_distance(sums.seen["in"], stream, sums.seen["mask"])
        sums.residual[index] += float(stream[sums.seen["mask"]].double().pow(2).sum())
        sums.seen["between"] = stream

    def left(_module: Any, _args: Any, output: Any) -> None:
        stream = output[0] if isinstance(output, tuple) else output
        sums.mlp[index] += _cosine_distance(sums.seen["between"], stream, sums.seen["mask"])

    def activated(_module: Any, args: tuple[Any, ...]) -> None:
        real = args[0][sums.seen["mask"]].float()
        sums.activation[index] += real.pow(2).sum(0).double().cpu().numpy()

    if row.pre_norm:
        middle = block.get_submodule(row.mlp[1]).register_forward_pre_hook(lambda _m, args: between(args[0]))
    else:
        middle = block.get_submodule(row.attention[0]).register_forward_hook(lambda _m, _a, out: between(out[0]))
    return [
        block.register_forward_pre_hook(entered, with_kwargs=True),
        middle,
        block.get_submodule(row.mlp_out).register_forward_pre_hook(activated),
        block.register_forward_hook(left),
    ]


def _cosine_distance(before: torch.Tensor, after: torch.Tensor, mask: torch.Tensor) -> float:
    """Sum over real tokens of 1 - cos. before, after: [B, T, D]; mask: [B, T]."""
    import torch

    cosine = torch.nn.functional.cosine_similarity(before[mask].float(), after[mask].float(), dim=-1)
    return float((1 - cosine).double().sum())


def _out_norms(encoder: Encoder, row: Family) -> np.ndarray:
    """[L, F]: l2 norm of what each neuron writes to the residual stream for an activation of 1."""
    blocks: Any = encoder.backbone.get_submodule(row.blocks)
    return np.stack([b.get_submodule(row.mlp_out).weight.detach().float().norm(dim=0).cpu().numpy() for b in blocks])


def _activation(encoder: Encoder, row: Family, sums: _Sums) -> np.ndarray:
    """[L, F]: root mean square of what each neuron adds to the residual stream, relative to the stream's own norm.

    Relative, so that neurons of different blocks compare: streams grow with depth.
    """
    rms = np.sqrt(sums.activation / sums.tokens)
    stream = np.sqrt(sums.residual / sums.tokens)
    return (rms * _out_norms(encoder, row) / stream[:, None]).astype(np.float32)


def _magnitude(encoder: Encoder, row: Family) -> np.ndarray:
    """[L, F]: l2 norm of each neuron's input weights times that of its output weights, no data needed."""
    blocks: Any = encoder.backbone.get_submodule(row.blocks)
    norms = _out_norms(encoder, row)
    for name in row.mlp_in:
        rows = [b.get_submodule(name).weight.detach().float().norm(dim=1).cpu().numpy() for b in blocks]
        norms = norms * np.stack(rows).reshape(len(rows), row.fused, -1).prod(axis=1)
    return norms.astype(np.float32)
