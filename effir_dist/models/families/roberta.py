"""RoBERTa: BERT with more training; positions are counted on from the padding token's id."""

from __future__ import annotations

from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family
from effir_dist.models.families.formulas import sizes

FAMILY = Family(
    **formulas.bert_parts(),
    model_type="roberta",
    class_name="Roberta",
    first_position=formulas.after_padding,
    other_parameters=formulas.bert_rest,
    saved_bytes=formulas.bert_saved_bytes,
    attention_options={},
    tiny={"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    backbones=(
        Backbone(
            "roberta-base",
            "FacebookAI/roberta-base",
            sizes("roberta", 50265, 768, 3072, 12, 12, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1),
            looked_up="https://huggingface.co/snibbles22/roberta-base (a duplicate)",
        ),
    ),
)
