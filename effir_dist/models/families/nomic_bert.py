"""Nomic BERT: an encoder with rotary positions, a gated MLP, and a norm behind each sub-layer."""

from __future__ import annotations

from effir_dist.core.errors import InputError
from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family, ModelDict, mlp_width, need
from effir_dist.models.families.formulas import sizes

OLDER_KEYS = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "layer_norm_epsilon": "layer_norm_eps",
    "max_trained_positions": "max_position_embeddings",
    "rotary_emb_base": "rope_theta",
}
"""Key in the config.json of the checkpoints that nomic-ai published -> transformers' key."""
_COMPUTED: dict[str, object] = {
    "activation_function": "swiglu",
    "rotary_emb_fraction": 1.0,
    **dict.fromkeys(("prenorm", "parallel_block", "causal", "rotary_emb_interleaved", "use_rms_norm"), False),
    **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "num_experts", "moe_every_n_layers"), False),
}
"""Keys of the published code with the values that transformers' class computes; their own model had others as well."""


def _read_config(config: ModelDict) -> ModelDict:
    """A published config.json in transformers' keys; the names of tensors are translated by transformers itself.

    Raises InputError for what transformers' class is not, such as the mixture of experts of nomic-embed-text-v2-moe.
    """
    for key, computed in _COMPUTED.items():
        if config.get(key, computed) != computed and (config[key] or computed):
            raise InputError(f"config.json says {key} {config[key]!r}; of nomic_bert only {computed!r} is known")
    return {OLDER_KEYS.get(key, key): value for key, value in config.items() if key not in _COMPUTED}


def _attention(config: ModelDict) -> int:
    return 4 * need(config, "hidden_size") * formulas.query_width(config) + formulas.bert_norm(config)


def _mlp(config: ModelDict, width: int) -> int:
    return 3 * need(config, "hidden_size") * width + formulas.bert_norm(config)


def _rest(config: ModelDict) -> int:
    tables = need(config, "vocab_size") + config.get("type_vocab_size", 2)
    return tables * need(config, "hidden_size") + formulas.bert_norm(config)


def _saved_bytes(config: ModelDict, size: int, longest: int) -> int:
    hidden, inner, width = need(config, "hidden_size"), formulas.query_width(config), mlp_width(config)
    saved = 4 * hidden + inner + formulas.attended(config, longest) + 4 * width + longest
    return size * saved + 4 * need(config, "num_attention_heads") + 8


FAMILY = Family(
    model_type="nomic_bert",
    class_name="NomicBert",
    blocks="layers",
    block_gives_tuple=False,
    norm_placement="post",
    attention=("self_attn", "post_attention_layernorm"),
    mlp=("mlp", "post_mlp_layernorm"),
    norms_behind=("post_attention_layernorm", "post_mlp_layernorm"),
    attention_out="self_attn.o_proj",
    mlp_in=("mlp.gate_proj", "mlp.up_proj"),
    mlp_out="mlp.down_proj",
    fused=1,
    decoder=False,
    causal=formulas.never,
    append_eos=False,
    pooling="mean",
    query_prompt="search_query: ",
    document_prompt="search_document: ",
    max_length=512,
    first_position=formulas.none,
    attention_parameters=_attention,
    mlp_parameters=_mlp,
    norm_behind_parameters=formulas.bert_norm,
    other_parameters=_rest,
    first_attention_saves=formulas.none,
    query_width=formulas.query_width,
    saved_bytes=_saved_bytes,
    linear_layers=formulas.decoder_linear_layers,
    load_options={},
    read_config=_read_config,
    known_code=("modeling_hf_nomic_bert.NomicBertModel",),  # runs with transformers 4 alone
    attention_options={},
    decilm=None,
    space="bert",
    tiny={},
    backbones=(
        Backbone(
            "nomic-embed-text-v1.5",
            "nomic-ai/nomic-embed-text-v1.5",
            sizes("nomic_bert", 30528, 768, 3072, 12, 12, type_vocab_size=2),
            looked_up="https://huggingface.co/nomic-ai/nomic-embed-text-v1.5 (V: transformers' config)",
            retriever=True,
        ),
    ),
    short_names={"nomic": "nomic-embed-text-v1.5"},
)
