"""EuroBERT: a multilingual encoder that is built as a Llama whose tokens see all others."""

from __future__ import annotations

from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family
from effir_dist.models.families.formulas import sizes

FAMILY = Family(
    **{
        **formulas.decoder_parts(),
        "decoder": False,
        "causal": formulas.never,
        "append_eos": False,
        "pooling": "mean",
        "query_prompt": "",
    },
    model_type="eurobert",
    class_name="EuroBert",
    attention_parameters=formulas.llama_attention,
    mlp_parameters=formulas.gated_mlp,
    other_parameters=formulas.decoder_rest,
    first_attention_saves=formulas.none,
    query_width=formulas.query_width,
    saved_bytes=formulas.decoder_saved_bytes,
    linear_layers=formulas.decoder_linear_layers,
    attention_options={},
    decilm=None,
    space="bert",
    tiny={"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    known_code=("modeling_eurobert.EuroBertModel",),
    backbones=(
        Backbone(
            "eurobert-210m",
            "EuroBERT/EuroBERT-210m",
            sizes("eurobert", 128256, 768, 3072, 12, 12, num_key_value_heads=12),
            looked_up="https://huggingface.co/EuroBERT/EuroBERT-210m",
        ),
    ),
)
