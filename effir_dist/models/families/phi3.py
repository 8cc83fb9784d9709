"""Phi 3 and 3.5: a decoder whose queries, keys and values come from one matrix, and gate and up from another."""

from __future__ import annotations

from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family, ModelDict, mlp_width, need
from effir_dist.models.families.formulas import sizes


def _attention(config: ModelDict) -> int:
    return formulas.decoder_attention(config, qkv_bias=False, o_bias=False, qk_norm=False)


def _mlp(config: ModelDict, width: int) -> int:
    return 3 * need(config, "hidden_size") * width + need(config, "hidden_size")


def _linear_layers(config: ModelDict) -> list[tuple[int, int]]:
    """q, k and v in one, and so gate and up."""
    hidden, width = need(config, "hidden_size"), mlp_width(config)
    inner, keys = formulas.query_width(config), formulas.key_width(config)
    return [(hidden, inner + 2 * keys), (inner, hidden), (hidden, 2 * width), (width, hidden)]


def _saved_bytes(config: ModelDict, size: int, longest: int) -> int:
    """A plain decoder's, and the attention's result once more, whose heads lie apart; values that are not repeated keep
    the queries and keys alive from which they were cut."""
    inner, keys = formulas.query_width(config), formulas.key_width(config)
    cut = inner + keys if keys == inner or not longest else 0
    return formulas.decoder_saved_bytes(config, size, longest) + size * (inner + cut)


FAMILY = Family(
    **{**formulas.decoder_parts(), "mlp_in": ("mlp.gate_up_proj",), "fused": 2},
    model_type="phi3",
    class_name="Phi3",
    attention_parameters=_attention,
    mlp_parameters=_mlp,
    other_parameters=formulas.decoder_rest,
    first_attention_saves=formulas.none,
    query_width=formulas.query_width,
    saved_bytes=_saved_bytes,
    linear_layers=_linear_layers,
    attention_options={"sliding_window": "sliding_window"},
    decilm=None,  # its tensors have other names there
    space="llama",
    tiny={"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3},
    backbones=(
        Backbone(
            "phi-3-mini-4k-instruct",
            "microsoft/Phi-3-mini-4k-instruct",
            sizes("phi3", 32064, 3072, 8192, 32, 32, num_key_value_heads=32),
            looked_up="https://huggingface.co/ehartford/phi3-4k (a copy)",
        ),
    ),
)
