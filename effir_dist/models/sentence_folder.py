"""What a sentence-transformers folder says of itself: how its model turns texts into embeddings.

Read are the forms that versions 2 to 6 wrote. What we cannot keep is refused with its module's name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from effir_dist.core.config import read_json, read_json_list
from effir_dist.core.errors import InputError
from effir_dist.core.values import Json
from effir_dist.models.families.base import DENSE, TRUNCATED, Dense, ModelDict

MODULES = "modules.json"
SMALL_FILES = ("*config.json", MODULES, "config_sentence_transformers.json")
"""All that is read here, as patterns for a hub."""
KEPT = ("Transformer", "Pooling", "Dense", "Normalize")
POOLINGS = {"cls": "cls", "max": "max", "mean": "mean", "weightedmean": "weighted_mean", "lasttoken": "last"}
"""sentence-transformers' name -> ours."""
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Key of a Pooling module's config before version 6 -> the mode that it asks for."""
SIMILARITIES = ("cosine", "dot")
HARMLESS = {"torch_dtype", "dtype", "attn_implementation", "add_pooling_layer", "use_cache", "trust_remote_code"}
"""Options of a Transformer that do not change what it computes."""
LENGTH, PADDING = "model_max_length", "padding_side"
"""Keys of tokenizer_config.json, which options of a Transformer may override."""


@dataclass(frozen=True)
class SentenceFolder:
    """All that such a folder declares. What it leaves out has sentence-transformers' own default."""

    pooling: str
    """One of `families.base.POOLINGS`."""
    include_prompt: bool = True
    """Whether pooling counts the prompt's tokens."""
    query_prompt: str = ""
    document_prompt: str = ""
    max_query_length: int | None = None
    """Tokens kept of a query; None for as many as the model takes."""
    max_document_length: int | None = None
    normalize: bool = False
    """Whether it has a Normalize module."""
    similarity: str = "cosine"
    """`cosine` or `dot`."""
    dense: tuple[Dense, ...] = ()
    """Layers between pooling and normalisation, in their order."""
    dense_folders: tuple[str, ...] = ()
    """Where the weights of each are, from the Transformer's folder."""
    truncate_dim: int = 0
    """Numbers kept of an embedding; 0 keeps all."""
    padding_side: str = "right"
    prompts: tuple[tuple[str, str], ...] = ()
    """(name, text) of all its prompts, as it has them."""
    default_prompt_name: str = ""
    """The prompt that sentence-transformers' `encode` takes where it is told none; "" for none."""
    do_lower_case: bool = False
    """Whether texts are turned to lower case before they are tokenised."""
    transformer: str = ""
    """The Transformer's folder within this one: mostly itself."""

    @staticmethod
    def from_dict(tree: Json) -> SentenceFolder:
        """The inverse of `dataclasses.asdict`, of JSON. Raises TypeError or KeyError for anything else."""
        tuples = {"dense_folders": tuple(tree["dense_folders"]), "prompts": tuple(map(tuple, tree["prompts"]))}
        return SentenceFolder(**{**tree, **tuples, "dense": tuple(Dense(**layer) for layer in tree["dense"])})


def read_folder(folder: Path) -> SentenceFolder | None:
    """What the folder declares; None where it has no modules.json, as a bare checkpoint.

    Raises InputError, with the module's name, for what cannot be kept, and for files that are damaged.
    """
    if not (folder / MODULES).is_file():
        return None
    modules = [_Module.of(each, folder) for each in read_json_list(folder / MODULES)]
    _check_order(modules, folder)
    transformer, pooling, *others = modules
    dense = [module for module in others if module.kind == "Dense"]
    about = _object(folder / "config_sentence_transformers.json")
    options = _transformer_options(transformer)
    tokenizer = _object(transformer.folder / "tokenizer_config.json") | options["processor_kwargs"]
    query, document = _prompts(about)
    normalize, similarity = any(module.kind == "Normalize" for module in others), _similarity(about, folder)
    if normalize and similarity == "dot" and about.get("truncate_dim"):
        raise others[-1].refuse("stands before truncate_dim where dot products compare")
    return SentenceFolder(
        pooling=_pooling(pooling),
        include_prompt=bool(pooling.config.get("include_prompt", True)),
        query_prompt=query,
        document_prompt=document,
        max_query_length=options.get("query_length") or _length(transformer, options, tokenizer),
        max_document_length=options.get("document_length") or _length(transformer, options, tokenizer),
        normalize=normalize,
        similarity=similarity,
        dense=tuple(map(_dense, dense)),
        dense_folders=tuple(os.path.relpath(module.path, transformer.path or ".") for module in dense),
        truncate_dim=int(about.get("truncate_dim") or 0),
        padding_side=str(tokenizer.get(PADDING, "right")),
        prompts=tuple((name, str(text or "")) for name, text in (about.get("prompts") or {}).items()),
        default_prompt_name=str(about.get("default_prompt_name") or ""),
        do_lower_case=bool(options.get("do_lower_case")),
        transformer=transformer.path,
    )


@dataclass(frozen=True)
class _Module:
    """An entry of modules.json."""

    kind: str
    """Its class, without the package."""
    path: str
    folder: Path
    config: Json

    @staticmethod
    def of(entry: Json, root: Path) -> _Module:
        """Raises InputError for a class that is not sentence-transformers' own or that we do not know, and for a path
        that leads out of the folder."""
        name, path = str(entry.get("type", "")), str(entry.get("path", ""))
        kind = name.rpartition(".")[2]
        if not name.startswith("sentence_transformers.") or kind not in KEPT:
            known = ", ".join(KEPT)
            raise InputError(f"{root} has a module {name!r}, which cannot be kept; known are {known}")
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise InputError(f"{root / MODULES} names the folder {path!r} for its module {kind}, which leads out of it")
        config = {} if kind == "Transformer" else _object(root / path / "config.json")
        return _Module(kind, path, root / path, config)

    def refuse(self, what: str) -> InputError:
        """That something of this module cannot be kept."""
        return InputError(f"the module {self.kind} in {self.folder} {what}, which cannot be kept")


def _check_order(modules: Sequence[_Module], folder: Path) -> None:
    """Raises InputError for anything but a Transformer, a Pooling, Dense layers, and a Normalize."""
    kinds = [module.kind for module in modules]
    dense = kinds[2:].count("Dense")
    if kinds != ["Transformer", "Pooling", *["Dense"] * dense, *["Normalize"] * (len(kinds) > 2 + dense)]:
        raise InputError(
            f"{folder / MODULES} has {', '.join(kinds) or 'no module'}; expected Transformer, Pooling, then perhaps "
            "Dense layers, then perhaps Normalize"
        )
    for module in modules[2:]:
        for key in ("module_input_name", "module_output_name"):
            if module.config.get(key) not in (None, "sentence_embedding"):
                raise module.refuse(f"has {key} {module.config[key]!r}")


def _object(path: Path) -> Json:
    """The JSON object in a file, an empty one where there is no such file."""
    return read_json(path) if path.is_file() else {}


def _pooling(module: _Module) -> str:
    """The pooling. Raises InputError for several at once, and for one that we do not have."""
    modes = module.config.get("pooling_mode") or [mode for flag, mode in FLAGS.items() if module.config.get(flag)]
    names = [modes] if isinstance(modes, str) else list(modes or ["mean"])
    if len(names) != 1 or names[0] not in POOLINGS:
        raise module.refuse(f"pools by {' and '.join(map(str, names))}")
    return POOLINGS[names[0]]


def _dense(module: _Module) -> Dense:
    activation = str(module.config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    if not activation.startswith("torch.nn."):
        raise module.refuse(f"has the activation {activation!r}")
    if module.config.get("use_residual"):
        raise module.refuse("has use_residual")
    try:
        sizes = int(module.config["in_features"]), int(module.config["out_features"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{module.folder}/config.json must hold the numbers in_features and out_features") from None
    return Dense(*sizes, bool(module.config.get("bias", True)), activation)


def _transformer_options(module: _Module) -> Json:
    """Of sentence_bert_config.json, or what earlier versions called so. Raises InputError for what we cannot keep."""
    files = sorted(module.folder.glob("sentence_*_config.json"))
    options = _object(files[0]) if files else {}
    for old, new in (("model_args", "model_kwargs"), ("tokenizer_args", "processor_kwargs")):
        options[new] = options.get(new) or options.get(old) or {}
    options["config_kwargs"] = options.get("config_kwargs") or options.get("config_args") or {}
    changed = {*options["model_kwargs"], *options["config_kwargs"]} - HARMLESS
    changed |= set(options["processor_kwargs"]) - {LENGTH, PADDING, *HARMLESS}
    text = (options.get("modality_config") or {}).get("text", {})
    usual: dict[str, tuple[Any, ...]] = {
        "transformer_task": (None, "feature-extraction"),
        "module_output_name": (None, "token_embeddings"),
        "query_expansion": (None, {}),
        "processing_kwargs": (None, {}),
        "tokenizer_name_or_path": (None,),
    }
    changed |= {key for key, values in usual.items() if options.get(key) not in values}
    if text.get("method_output_name", "last_hidden_state") not in ("last_hidden_state", ["last_hidden_state"]):
        changed.add("method_output_name")
    if "message" in (options.get("modality_config") or {}):  # version 6 then renders every text by a chat template
        changed.add("modality_config.message")
    if changed:
        raise module.refuse(f"sets {', '.join(sorted(changed))}")
    return options


def _length(module: _Module, options: Json, tokenizer: Json) -> int | None:
    """Tokens kept of a text: the folder's own number, else the tokenizer's, at most the model's positions."""
    own = options["processor_kwargs"].get(LENGTH) or options.get("max_seq_length")
    if own:
        return int(own)
    positions = _object(module.folder / "config.json").get("max_position_embeddings")
    known = [int(length) for length in (tokenizer.get(LENGTH), positions) if length and 0 < length < 2**31]
    return min(known, default=None)


def _prompts(about: Json) -> tuple[str, str]:
    """What `encode_query` and `encode_document` of version 6 put before a text.

    There is always a prompt named `query` and one named `document`, empty where the folder has none. So neither
    `passage` nor `default_prompt_name` is ever asked.
    """
    prompts = about.get("prompts") or {}
    return str(prompts.get("query") or ""), str(prompts.get("document") or "")


def _similarity(about: Json, folder: Path) -> str:
    """Raises InputError for a model of another kind, or another similarity."""
    kind, similarity = about.get("model_type", "SentenceTransformer"), about.get("similarity_fn_name") or "cosine"
    if kind != "SentenceTransformer":
        raise InputError(f"{folder} is a {kind}; expected a SentenceTransformer, with one vector a text")
    if similarity not in SIMILARITIES:
        raise InputError(f"{folder} compares by {similarity!r}, which cannot be kept; known: {', '.join(SIMILARITIES)}")
    return str(similarity)


def behind_pooling(declared: SentenceFolder | None) -> Json:
    """What a folder's modules add to its model's config: Dense layers and truncation."""
    if declared is None:
        return {}
    dense = {DENSE: [asdict(layer) for layer in declared.dense]} if declared.dense else {}
    return {**dense, **({TRUNCATED: declared.truncate_dim} if declared.truncate_dim else {})}


def bare_config(config: ModelDict) -> Json:
    """A config without what is ours."""
    return {key: value for key, value in config.items() if key not in (DENSE, TRUNCATED)}
