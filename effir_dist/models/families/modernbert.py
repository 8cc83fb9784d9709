"""ModernBERT: an encoder with norms before its sub-layers, fused matrices, and windows in most blocks."""

from __future__ import annotations

from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family, ModelDict, mlp_width, need
from effir_dist.models.families.formulas import sizes


def _norm(config: ModelDict) -> int:
    return need(config, "hidden_size") * (1 + bool(config.get("norm_bias", False)))


def _attention(config: ModelDict) -> int:
    hidden = need(config, "hidden_size")
    return 4 * hidden * hidden + bool(config.get("attention_bias", False)) * 4 * hidden + _norm(config)


def _mlp(config: ModelDict, width: int) -> int:
    hidden = need(config, "hidden_size")
    return 3 * hidden * width + bool(config.get("mlp_bias", False)) * (2 * width + hidden) + _norm(config)


def _rest(config: ModelDict) -> int:
    return need(config, "vocab_size") * need(config, "hidden_size") + 2 * _norm(config)


def _saved_bytes(config: ModelDict, size: int, longest: int) -> int:
    hidden, inner, width = need(config, "hidden_size"), formulas.query_width(config), mlp_width(config)
    saved = 5 * hidden + 2 * inner + formulas.attended(config, longest) + 4 * width + longest
    return size * saved + 4 * need(config, "num_attention_heads")


def _linear_layers(config: ModelDict) -> list[tuple[int, int]]:
    """q, k and v in one, and so the two matrices into the MLP."""
    hidden, inner, width = need(config, "hidden_size"), formulas.query_width(config), mlp_width(config)
    return [(hidden, 3 * inner), (inner, hidden), (hidden, 2 * width), (width, hidden)]


FAMILY = Family(
    model_type="modernbert",
    class_name="ModernBert",
    blocks="layers",
    block_gives_tuple=False,
    norm_placement="pre",
    attention=("attn", "attn_norm"),
    mlp=("mlp", "mlp_norm"),
    attention_out="attn.Wo",
    mlp_in=("mlp.Wi",),
    mlp_out="mlp.Wo",
    fused=2,
    decoder=False,
    causal=formulas.never,
    append_eos=False,
    pooling="mean",
    query_prompt="",
    document_prompt="",
    max_length=512,
    first_position=formulas.none,
    attention_parameters=_attention,
    mlp_parameters=_mlp,
    other_parameters=_rest,
    first_attention_saves=_norm,  # the embeddings' norm stands before the first attention
    query_width=formulas.query_width,
    saved_bytes=_saved_bytes,
    linear_layers=_linear_layers,
    load_options={},
    attention_options={"sliding_window": "local_attention"},
    decilm=None,
    space="modernbert",
    tiny={"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
    backbones=(
        Backbone(
            "modernbert-base",
            "answerdotai/ModernBERT-base",
            sizes("modernbert", 50368, 768, 1152, 22, 12),
            looked_up="https://huggingface.co/answerdotai/ModernBERT-base",
        ),
        Backbone(
            "gte-modernbert-base",
            "Alibaba-NLP/gte-modernbert-base",
            sizes("modernbert", 50368, 768, 1152, 22, 12),
            looked_up="https://huggingface.co/elucidator8918/frugal-ai-text (trained from it; V: ModernBERT-base)",
            retriever=True,
        ),
    ),
    short_names={"modernbert": "modernbert-base"},
)
