"""What sentence-transformers reads of an exported folder: its modules, pooling, Dense layers, prompts and lengths.

All that the base's own folder declared is given back, in the form that versions 5 and 6 read, with what the trial
changed of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from effir_dist.core.values import Json
from effir_dist.models.families.base import Dense, dense_layers

if TYPE_CHECKING:
    from torch import Tensor

    from effir_dist.models.encoder import Encoder

IDENTITY = "torch.nn.modules.linear.Identity"
MODES = {
    "cls": "cls_token",
    "mean": "mean_tokens",
    "max": "max_tokens",
    "weighted_mean": "weightedmean_tokens",
    "last": "lasttoken",
}
"""Our pooling -> its key, `pooling_mode_KEY`, in a Pooling module's config."""


@dataclass(frozen=True)
class Module:
    """A module of sentence-transformers, as a folder holds it."""

    kind: str
    """Name of its class."""
    config: Json = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


def modules(encoder: Encoder) -> list[Module]:
    """The modules behind the transformer: pooling, Dense layers, truncation, normalisation."""
    settings, hidden = encoder.settings, int(encoder.model_config["hidden_size"])
    modes = {f"pooling_mode_{key}": name == settings.pooling for name, key in MODES.items()}
    pooling = {"word_embedding_dimension": hidden, **modes, "include_prompt": settings.include_prompt}
    found = [Module("Pooling", pooling), *_dense(encoder)]
    if settings.dimension and not _declared_cut(encoder):
        found.append(_cut(encoder))
    return [*found, *([Module("Normalize")] if settings.normalize else [])]


def _dense(encoder: Encoder) -> list[Module]:
    """The retriever's own Dense layers, with their weights as they are now."""
    from torch import nn

    linear = [layer for layer in encoder.head.modules() if isinstance(layer, nn.Linear)]
    return [
        Module("Dense", asdict(layer), {f"linear.{name}": tensor for name, tensor in own.state_dict().items()})
        for layer, own in zip(dense_layers(encoder.model_config), linear, strict=True)
    ]


def _cut(encoder: Encoder) -> Module:
    """A projection that keeps the first dimensions: the first rows of the identity.

    sentence-transformers' own truncate_dim cuts after the normalisation, and leaves vectors shorter than 1.
    """
    import torch

    dense, kept = dense_layers(encoder.model_config), encoder.settings.dimension
    whole = dense[-1].out_features if dense else int(encoder.model_config["hidden_size"])
    rows = torch.eye(kept, whole, dtype=next(encoder.parameters()).dtype)
    return Module("Dense", asdict(Dense(whole, kept, False, IDENTITY)), {"linear.weight": rows})


def _declared_cut(encoder: Encoder) -> bool:
    """Whether embeddings are cut as the base's own folder says, by its truncate_dim."""
    declared = encoder.declared
    return declared is not None and encoder.settings.dimension == declared.truncate_dim


def sentence_transformers_files(encoder: Encoder) -> Json:
    """Relative path -> JSON content, but the tensors: `write_dense` writes those."""
    found = modules(encoder)
    places = {place(number, module): module for number, module in enumerate(found, 1)}
    listed = [("Transformer", ""), *((module.kind, path) for path, module in places.items())]
    return {
        # Names that versions 2 to 6 and vLLM know.
        "modules.json": [
            {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for n, (kind, path) in enumerate(listed)
        ],
        **{f"{path}/config.json": module.config for path, module in places.items() if module.config},
        "sentence_bert_config.json": _lengths(encoder),
        "config_sentence_transformers.json": _model(encoder),
    }


def place(number: int, module: Module) -> str:
    """The folder of a module, the transformer being number 0."""
    return f"{number}_{module.kind}"


def _lengths(encoder: Encoder) -> Json:
    settings = encoder.settings
    longest = max(settings.max_query_length, settings.max_document_length)
    lower = encoder.declared is not None and encoder.declared.do_lower_case
    lengths: Json = {"max_seq_length": longest, "do_lower_case": lower}
    for kind in ("query", "document"):
        own = getattr(settings, f"max_{kind}_length")
        lengths |= {f"{kind}_length": own} if own != longest else {}
    return lengths


def _model(encoder: Encoder) -> Json:
    settings, declared = encoder.settings, encoder.declared
    own = {"query": settings.query_prompt, "document": settings.document_prompt}
    cut = {"truncate_dim": settings.dimension} if settings.dimension and _declared_cut(encoder) else {}
    default = declared.default_prompt_name if declared else ("document" if settings.document_prompt else "")
    return {
        "model_type": "SentenceTransformer",
        "prompts": {**(dict(declared.prompts) if declared else {}), **own},
        "default_prompt_name": default or None,
        "similarity_fn_name": settings.similarity,
        **cut,
    }


def write_dense(encoder: Encoder, folder: Path) -> None:
    """Write the tensors of all modules that have some, each in its own folder."""
    from safetensors.torch import save_file

    for number, module in enumerate(modules(encoder), 1):
        if module.tensors:
            file = folder / place(number, module) / "model.safetensors"
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.tensors.items()}
            save_file(tensors, file, metadata={"format": "pt"})
            file.chmod(0o644)  # safetensors leaves it to its writer alone
