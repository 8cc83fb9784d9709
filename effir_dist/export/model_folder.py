"""The files of an exported model: what sentence-transformers, transformers and vLLM read, and our own `plan.json`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir_dist import __version__
from effir_dist.core.errors import InputError
from effir_dist.core.values import Json
from effir_dist.export.sentence_files import sentence_transformers_files, write_dense
from effir_dist.models.families.base import DENSE, TRUNCATED, Family, ModelDict, block_count, mlp_width
from effir_dist.models.families.registry import family
from effir_dist.models.pruning import PruningPlan, mlp_widths

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder

LAYOUT = (
    *("blocks", "block_gives_tuple", "norm_placement", "attention", "mlp", "mlp_in", "mlp_out", "fused"),
    *("width_key", "load_options"),
)
"""What `modeling_effir.py` must know of a family: fields of `families.base.Family`."""
CODE = "modeling_effir"
NOT_IN_CONFIG = ("_name_or_path", "auto_map", "transformers_version", DENSE, TRUNCATED)
"""Keys of a model config that are no part of an exported config.json."""


def is_plain(config: ModelDict, plan: PruningPlan) -> bool:
    """Whether the family's own class, with another width of all MLPs, is the pruned model."""
    return not plan.dropped_attention and len(set(mlp_widths(config, plan))) == 1 and not plan.dropped_mlp


def transformers_config(config: ModelDict, plan: PruningPlan, dtype: str) -> Json:
    """config.json of the pruned model. config: of the unpruned one; dtype: of the weights."""
    row = family(config)
    left = plan.sizes(config).config
    tree = {k: v for k, v in row.own(left).items() if k not in NOT_IN_CONFIG}
    tree |= {"dtype": dtype, "architectures": [row.class_name + "Model"]}
    if row.decoder:  # its LM head is not kept, so what AutoModelForCausalLM builds reads the embeddings
        tree |= {"tie_word_embeddings": True, "use_cache": False}
    if is_plain(config, plan):
        return {**tree, row.width_key: mlp_widths(config, plan)[0]}
    prefix = f"Effir{row.class_name}"
    parts = ["Config", "Model", "ForCausalLM"] if row.decoder else ["Config", "Model"]
    autos = {"Config": "AutoConfig", "Model": "AutoModel", "ForCausalLM": "AutoModelForCausalLM"}
    tree |= {
        "model_type": f"effir_{row.model_type}",
        "architectures": [f"{prefix}Model"],
        "auto_map": {autos[part]: f"{CODE}.{prefix}{part}" for part in parts},
        "effir_layout": _layout(row, plan),
        "per_layer_config": per_layer_config(config, plan),
        "num_hidden_layers": block_count(config),  # whoever reads the tokenizer alone looks for L by this name
    }
    blocks = block_configs(config, plan)
    return tree | ({"architectures": ["DeciLMForCausalLM"], **blocks} if blocks else {})


def _layout(row: Family, plan: PruningPlan) -> Json:
    values = {name: getattr(row, name) for name in LAYOUT}
    if plan.keep_norms:
        values |= {"norms_behind": row.norms_behind, "keep_norms": True}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def per_layer_config(config: ModelDict, plan: PruningPlan) -> dict[str, Json]:
    """transformers' standard key: block -> what differs from the config: `intermediate_size`, `skip`."""
    width_key, layers = family(config).width_key, {}
    for block, width in enumerate(mlp_widths(config, plan)):
        gone = {"attention": block in plan.dropped_attention, "mlp": width == 0}
        skip = [name for name, missing in gone.items() if missing]
        narrower = 0 < width < mlp_width(config)
        layer = ({width_key: width} if narrower else {}) | ({"skip": skip} if skip else {})
        if layer:
            layers[str(block)] = layer
    return layers


def block_configs(config: ModelDict, plan: PruningPlan) -> Json:
    """What vLLM's DeciLMForCausalLM reads of each block; empty where that code cannot run the model.

    It cannot where the family's row says so, where attention is not causal, or where the first block has no attention
    but an MLP: it then takes the residual for granted.
    """
    row, widths = family(config), mlp_widths(config, plan)
    if row.decilm is None or not row.causal(config) or (0 in plan.dropped_attention and widths[0] > 0):
        return {}
    heads = config["num_attention_heads"]
    group = heads // (config.get("num_key_value_heads") or heads)
    blocks = [
        {
            "attention": {"no_op": block in plan.dropped_attention, "n_heads_in_group": group},
            "ffn": {"no_op": width == 0, "intermediate_size": width or None},
        }
        for block, width in enumerate(widths)
    ]
    return {"block_configs": blocks, **row.decilm}


def write_folder(encoder: Encoder, folder: Path, dtype: str, about: Json) -> None:
    """Write weights, tokenizer and all configurations to an empty folder. about: more for `plan.json`.

    Raises InputError for a tokenizer that cannot be taught to append the end-of-text token.
    """
    from effir_dist.models.encoder import FORMAT, save_tensors
    from effir_dist.models.encoder_settings import EXPORT_FILE

    config, plan = encoder.model_config, encoder.plan
    save_tokenizer(encoder, folder)
    save_tensors(encoder.backbone, folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors leaves it to its writer alone
    files: Json = {"config.json": transformers_config(config, plan, dtype)}
    files |= sentence_transformers_files(encoder)
    files[EXPORT_FILE] = {
        "format": FORMAT,
        "effir_dist": __version__,
        "plan": plan.to_dict(),
        "blocks": block_count(config),
        "mlp_widths": mlp_widths(config, plan),
        **encoder.described(),
        "model_config": {k: v for k, v in config.items() if k != "_name_or_path"},  # a local folder, perhaps
        **about,
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    write_dense(encoder, folder)
    if not is_plain(config, plan):
        from effir_dist.models import modeling_effir

        shutil.copyfile(str(modeling_effir.__file__), folder / f"{CODE}.py")


def save_tokenizer(encoder: Encoder, folder: Path) -> None:
    """Save the tokenizer; a decoder's appends its end-of-text token by itself, as other tools do not do it for it."""
    from copy import deepcopy

    tokenizer, settings = deepcopy(encoder.tokenizer), encoder.settings
    if settings.append_eos:
        _append_eos(tokenizer)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.model_max_length = max(settings.max_query_length, settings.max_document_length)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    tree = {**json.loads(path.read_text(encoding="utf-8")), "padding_side": settings.padding_side}
    if settings.append_eos:
        # A family's own class would build its post-processor anew; this one takes tokenizer.json as it is.
        tree = {k: v for k, v in tree.items() if k not in ("add_bos_token", "add_eos_token", "auto_map")}
        tree["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def _append_eos(tokenizer: Any) -> None:
    """Add the end-of-text token to what the tokenizer puts around a text, unless it is there."""
    from tokenizers import processors

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            f"{type(tokenizer).__name__} has no tokenizer.json, so it cannot append its end-of-text token; save a fast "
            "tokenizer in the checkpoint's folder"
        )
    whole, bare = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    if whole[-1] == tokenizer.eos_token_id:
        return
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    around = {"before": whole[:start], "after": [*whole[start + len(bare) :], tokenizer.eos_token_id]}
    pieces = [name for name in ("before", "$A", "after") if name == "$A" or around[name]]
    # One template of all: behind another one in a sequence it would be put around that one's tokens too.
    backend.post_processor = processors.TemplateProcessing(
        single=pieces,
        pair=[*pieces, *(piece.replace("$A", "$B") + ":1" for piece in pieces)],
        special_tokens=[
            {"id": name, "ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids)}
            for name, ids in around.items()
            if ids
        ],
    )
