"""XLM-RoBERTa: BERT for a hundred languages; positions are counted on from the padding token's id."""

from __future__ import annotations

from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family
from effir_dist.models.families.formulas import sizes


def _tables(positions: int) -> dict[str, int]:
    return {"max_position_embeddings": positions, "type_vocab_size": 1, "pad_token_id": 1}


FAMILY = Family(
    **formulas.bert_parts(),
    model_type="xlm-roberta",
    class_name="XLMRoberta",
    first_position=formulas.after_padding,
    other_parameters=formulas.bert_rest,
    saved_bytes=formulas.bert_saved_bytes,
    attention_options={},
    tiny={"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    backbones=(
        Backbone(
            "multilingual-e5-base",
            "intfloat/multilingual-e5-base",
            sizes("xlm-roberta", 250002, 768, 3072, 12, 12, **_tables(514)),
            looked_up="https://huggingface.co/Metric-AI/armenian-text-embeddings-1 (trained from it)",
            retriever=True,
        ),
        Backbone(
            "multilingual-e5-large",
            "intfloat/multilingual-e5-large",
            sizes("xlm-roberta", 250002, 1024, 4096, 24, 16, **_tables(514)),
            looked_up="https://huggingface.co/Hiveurban/multilingual-e5-large-pooled (a copy)",
            retriever=True,
        ),
        Backbone(
            "bge-m3",
            "BAAI/bge-m3",
            sizes("xlm-roberta", 250002, 1024, 4096, 24, 16, **_tables(8194)),
            max_length=8192,
            looked_up="https://huggingface.co/BAAI/bge-m3 (of its ONNX graph)",
            retriever=True,
        ),
        Backbone(
            "snowflake-arctic-embed-l-v2",
            "Snowflake/snowflake-arctic-embed-l-v2.0",
            sizes("xlm-roberta", 250002, 1024, 4096, 24, 16, **_tables(8194)),
            max_length=8192,
            looked_up="https://huggingface.co/omarabb315/makeML-snowflake (trained from it)",
            retriever=True,
        ),
    ),
)
