"""Pruned transformers models: the family's own architecture, without the sub-layers and neurons that were removed.

An exported folder holds a copy of this file, the same for all families, so it imports nothing but torch and
transformers: `trust_remote_code=True` loads the folder where effir_dist is not installed. What is special about a
family is data, `effir_layout` in config.json; what was removed is transformers' own key, `per_layer_config`.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
import transformers
from torch import nn


class _Sublayers(nn.Module):
    """A block of which a sub-layer was removed: its own modules, called in the order that its norms have."""

    layout: Any
    without_attention: bool
    without_mlp: bool
    kept_norms: tuple[str, str]
    """Of a removed attention and of a removed MLP: the path of the norm behind its sum where that stays, else ""."""

    def part(self, name: str, *inputs: Any, **options: Any) -> torch.Tensor:
        """What one module makes of its inputs: [B, T, D]."""
        output = getattr(self, name)(*inputs, **options)
        return output[0] if isinstance(output, tuple) else output

    def branch(self, names: tuple[str, ...], stream: torch.Tensor, **options: Any) -> torch.Tensor:
        """F(norm(x)), or norm2(F(norm(x))) where a second norm is named: [B, T, D] -> [B, T, D]."""
        module, before, *after = names
        output = self.part(module, self.part(before, stream), **options)
        return self.part(after[0], output) if after else output

    def given(self, stream: torch.Tensor) -> Any:
        """What the block gives: the stream [B, T, D], or where the model expects that, a tuple of it."""
        return (stream,) if self.layout.block_gives_tuple else stream


class _PreNorm(_Sublayers):
    """x + F(norm(x)) for the sub-layers that are left; the residual passes straight through the others."""

    def forward(self, hidden_states: torch.Tensor, **options: Any) -> Any:
        """[B, T, D] -> [B, T, D]."""
        if not self.without_attention:
            hidden_states = hidden_states + self.branch(self.layout.attention, hidden_states, **options)
        if not self.without_mlp:
            hidden_states = hidden_states + self.branch(self.layout.mlp, hidden_states)
        return self.given(hidden_states)


class _ScaledPreNorm(_PreNorm):
    """x + m F(norm(x)), m the block's own number. Without the sub-layer nothing is left to be multiplied."""

    residual_multiplier: float

    def branch(self, names: tuple[str, ...], stream: torch.Tensor, **options: Any) -> torch.Tensor:
        """m F(norm(x)): [B, T, D] -> [B, T, D]."""
        return super().branch(names, stream, **options) * self.residual_multiplier


class _ResPostNorm(_PreNorm):
    """x + norm(F(x)): a sub-layer reads the stream as it is, and what it adds is normalised."""

    def branch(self, names: tuple[str, ...], stream: torch.Tensor, **options: Any) -> torch.Tensor:
        """norm(F(x)): [B, T, D] -> [B, T, D]."""
        module, after = names
        return self.part(after, self.part(module, stream, **options))


class _Parallel(_Sublayers):
    """x + A(norm(x)) + M(norm(x)): both sub-layers read the same stream."""

    def forward(self, hidden_states: torch.Tensor, **options: Any) -> Any:
        """[B, T, D] -> [B, T, D]."""
        stream = hidden_states
        if not self.without_attention:
            hidden_states = hidden_states + self.branch(self.layout.attention, stream, **options)
        if not self.without_mlp:
            hidden_states = hidden_states + self.branch(self.layout.mlp, stream)
        return self.given(hidden_states)


class _PostNorm(_Sublayers):
    """norm(x + F(x)). Without the sub-layer norm(x), or x where the norm is removed as well.

    Where the attention stands alone in the layout, the sub-layers' last modules add the stream and normalise.
    """

    def forward(self, hidden_states: torch.Tensor, *inputs: Any, **options: Any) -> Any:
        """[B, T, D] -> [B, T, D]. Further inputs are the attention's: its mask, and where it has one its bias."""
        if self.without_attention:
            hidden_states = self.normed(self.kept_norms[0], hidden_states)
        else:
            attention, *norm = self.layout.attention
            output = self.part(attention, hidden_states, *inputs, **options)
            hidden_states = self.part(norm[0], hidden_states + output) if norm else output
        if self.without_mlp:
            hidden_states = self.normed(self.kept_norms[1], hidden_states)
        else:
            first, last = self.layout.mlp
            output = self.part(first, hidden_states)
            steps = (hidden_states + output,) if len(self.layout.attention) > 1 else (output, hidden_states)
            hidden_states = self.part(last, *steps)
        return self.given(hidden_states)

    def normed(self, norm: str, stream: torch.Tensor) -> torch.Tensor:
        """What is left of a step without its sub-layer: [B, T, D] -> [B, T, D]."""
        found: torch.Tensor = self.get_submodule(norm)(stream) if norm else stream
        return found


PLACEMENTS = {
    "pre": _PreNorm,
    "sandwich": _PreNorm,
    "scaled_pre": _ScaledPreNorm,
    "res_post": _ResPostNorm,
    "parallel": _Parallel,
    "post": _PostNorm,
}
"""Where the norms are -> how a block is computed. A sandwich differs from `pre` by the second norm that it names."""


def _placement(layout: Any) -> str:
    """The norms' place in a layout. Older exports say `pre_norm`, true or false, instead."""
    old = getattr(layout, "pre_norm", None)
    return str(layout.norm_placement) if old is None else ("pre" if old else "post")


@functools.cache
def _subclass(
    base: type,
    placement: str,
    names: tuple[tuple[str, ...], ...],
    gives_tuple: bool,
    gone: tuple[bool, bool],
    kept_norms: tuple[str, str],
) -> type[nn.Module]:
    layout = types.SimpleNamespace(attention=names[0], mlp=names[1], block_gives_tuple=gives_tuple)
    members = {"layout": layout, "without_attention": gone[0], "without_mlp": gone[1], "kept_norms": kept_norms}
    members["unpruned"] = base
    return type(f"Pruned{base.__name__}", (PLACEMENTS[placement], base), members)


def drop(block: nn.Module, layout: Any, attention: bool, mlp: bool, keep_norms: bool = False) -> None:
    """Remove a block's attention or MLP or both, in place. layout: names of a block's parts (families.base.Family).

    keep_norms: whether the norm behind the sum of one removed sub-layer stays; of a whole block nothing does. A norm
    that both share stays for as long as one of them needs it. What was dropped before stays dropped.
    """
    placement, names = _placement(layout), (tuple(layout.attention), tuple(layout.mlp))
    gone = (attention or getattr(block, "without_attention", False), mlp or getattr(block, "without_mlp", False))
    needed = {name for part, dropped in zip(names, gone, strict=True) if not dropped for name in part}
    behind = layout.norms_behind if keep_norms and not all(gone) else ("", "")
    kept = tuple(norm if dropped else "" for norm, dropped in zip(behind, gone, strict=True))
    for name in {name for part in names for name in part} - needed:
        if name in block._modules:
            _remove(block, name, kept)
    base: Any = getattr(type(block), "unpruned", type(block))
    gives_tuple = getattr(layout, "block_gives_tuple", False)  # older exports do not say, and none of theirs does
    block.__class__ = _subclass(base, placement, names, gives_tuple, gone, kept)


def _remove(parent: nn.Module, name: str, kept: tuple[str, ...]) -> None:
    """Remove a module of `parent`, but for the modules at the paths `kept` and those that they stand in."""
    inside = tuple(path.removeprefix(f"{name}.") for path in kept if path.startswith(f"{name}."))
    if inside:
        module = parent.get_submodule(name)
        for child in [*module._modules]:
            _remove(module, child, inside)
    elif name not in kept:
        delattr(parent, name)


def narrow(block: nn.Module, layout: Any, index: torch.Tensor) -> None:
    """Keep the neurons at `index` of a block's MLP, in place. layout: as for `drop`."""
    for name in layout.mlp_in:
        linear: Any = block.get_submodule(name)
        full = linear.out_features // layout.fused
        rows = torch.cat([index + part * full for part in range(layout.fused)])
        linear.weight = nn.Parameter(linear.weight.detach()[rows].clone(), linear.weight.requires_grad)
        if linear.bias is not None:
            linear.bias = nn.Parameter(linear.bias.detach()[rows].clone(), linear.bias.requires_grad)
        linear.out_features = len(rows)
    out: Any = block.get_submodule(layout.mlp_out)
    out.weight = nn.Parameter(out.weight.detach()[:, index].clone(), out.weight.requires_grad)
    out.in_features = len(index)


class _Attributes(dict[str, Any]):
    """A mapping whose keys are attributes too, as vLLM's DeciLM code reads `block_configs`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class _PrunedConfig:
    """Mixed into a family's config."""

    def __post_init__(self, **options: Any) -> None:
        blocks = options.pop("block_configs", None)
        if blocks is not None:
            self.block_configs = [_Attributes({part: _Attributes(b[part]) for part in b}) for b in blocks]
        super().__post_init__(**options)  # type: ignore[misc]


class _PrunedModel:
    """Mixed into a family's model: builds the whole architecture (without memory), then takes away what was pruned."""

    def __init__(self, config: Any, *inputs: Any, **options: Any) -> None:
        layout = types.SimpleNamespace(**config.effir_layout)
        # Widths that differ by layer are no reading matter for the family's own constructor.
        overrides = config.__dict__.pop("_heterogeneity_spec", None)
        try:
            super().__init__(config, *inputs, **{**layout.load_options, **options})  # type: ignore[call-arg]
        finally:
            if overrides is not None:
                config._heterogeneity_spec = overrides
        model: Any = getattr(self, self.base_model_prefix, self)  # type: ignore[attr-defined]
        blocks, width_key = model.get_submodule(layout.blocks), getattr(layout, "width_key", "intermediate_size")
        for number, changes in (overrides.per_layer_overrides if overrides else {}).items():
            attention, mlp = (part in changes.get("skip", ()) for part in ("attention", "mlp"))
            if width_key in changes:
                device = next(blocks[number].parameters()).device
                narrow(blocks[number], layout, torch.arange(changes[width_key], device=device))
            if attention or mlp:
                drop(blocks[number], layout, attention, mlp, getattr(layout, "keep_norms", False))

    @classmethod
    def from_pretrained(cls, name: Any, *inputs: Any, **options: Any) -> Any:
        """transformers' own, but weights that do not fit are an error: the plan was edited, or a file is another's."""
        wants_info = options.pop("output_loading_info", False)
        model, info = super().from_pretrained(name, *inputs, output_loading_info=True, **options)  # type: ignore[misc]
        wrong = [*info["missing_keys"], *info["unexpected_keys"]]
        if wrong:
            raise ValueError(f"the weights in {name} do not fit per_layer_config in config.json: {sorted(wrong)[:5]}")
        return (model, info) if wants_info else model


def _counting_real_tokens(forward: Any) -> Any:
    """A forward pass that counts learned positions from the first real token, whichever side is padded.

    Embeddings with a `padding_idx` do so by themselves, and begin behind it.
    """

    @functools.wraps(forward)
    def counting(self: Any, *inputs: Any, **options: Any) -> Any:
        mask = options.get("attention_mask", inputs[1] if len(inputs) > 1 else None)
        embeddings = getattr(self, "embeddings", None)
        learned = hasattr(embeddings, "position_embeddings") and not hasattr(embeddings, "padding_idx")
        if learned and mask is not None and mask.dim() == 2 and options.get("position_ids") is None:
            options["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
        return forward(self, *inputs, **options)

    return counting


def _unpruned(name: str) -> Any:
    """The class of transformers that EffirX stands for; None where there is none.

    The class with an LM head is that of XConfig, where it has another name than XForCausalLM.
    """
    own, head = name.removeprefix("Effir"), "ForCausalLM"
    if own == name or hasattr(transformers, own) or not own.endswith(head):
        return None if own == name else getattr(transformers, own, None)
    config: Any = getattr(transformers, f"{own.removesuffix(head)}Config", None)
    return None if config is None else transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(config, None)


def __getattr__(name: str) -> Any:
    """EffirXConfig, EffirXModel and EffirXForCausalLM for each such class of transformers; made once."""
    base = _unpruned(name)
    if base is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    members: dict[str, Any] = {"__module__": __name__, "__qualname__": name}
    if issubclass(base, transformers.PreTrainedConfig):
        made = type(name, (_PrunedConfig, base), {**members, "model_type": f"effir_{base.model_type}"})
    else:
        config_name = f"Effir{base.config_class.__name__}"
        config = globals().get(config_name) or __getattr__(config_name)
        members |= {"config_class": config, "forward": _counting_real_tokens(base.forward)}
        made = type(name, (_PrunedModel, base), members)
    globals()[name] = made
    return made
