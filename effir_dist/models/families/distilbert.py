"""DistilBERT: BERT of half the blocks, without token types; the norms behind its sub-layers are the block's own."""

from __future__ import annotations

from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family, ModelDict, need
from effir_dist.models.families.formulas import sizes


def _rest(config: ModelDict) -> int:
    """Embeddings of tokens and positions, and their norm with its bias."""
    tables = need(config, "vocab_size") + need(config, "max_position_embeddings")
    return tables * need(config, "hidden_size") + 2 * need(config, "hidden_size")


_PARTS = {
    "blocks": "transformer.layer",
    "attention": ("attention", "sa_layer_norm"),
    "mlp": ("ffn", "output_layer_norm"),
    "norms_behind": ("sa_layer_norm", "output_layer_norm"),
    "attention_out": "attention.out_lin",
    "mlp_in": ("ffn.lin1",),
    "mlp_out": "ffn.lin2",
    "load_options": {},
}
FAMILY = Family(
    **{**formulas.bert_parts(), **_PARTS},
    model_type="distilbert",
    class_name="DistilBert",
    first_position=formulas.none,
    other_parameters=_rest,
    saved_bytes=formulas.bert_saved_bytes,
    attention_options={},
    config_keys={
        "hidden_size": "dim",
        "intermediate_size": "hidden_dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
    },
    tiny={},
    backbones=(
        Backbone(
            "msmarco-distilbert-tas-b",
            "sentence-transformers/msmarco-distilbert-base-tas-b",
            sizes("distilbert", 30522, 768, 3072, 6, 12, max_position_embeddings=512),
            looked_up="https://huggingface.co/sentence-transformers/msmarco-distilbert-base-tas-b",
            retriever=True,
        ),
    ),
)
