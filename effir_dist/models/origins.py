"""Which of a retriever's settings came from where: the user's settings, its own folder, or its family."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from effir_dist.core.settings import ModelConfig
from effir_dist.models.encoder_settings import EncoderSettings, make_settings
from effir_dist.models.families.registry import BACKBONES
from effir_dist.models.pretrained import Source
from effir_dist.models.sentence_folder import SentenceFolder

SETTINGS, FOLDER, ROW, DEFAULTS = "the settings", "its folder", "its family's defaults", "the defaults"
LENGTHS = ("max_query_length", "max_document_length")
OF_ROW = ("pooling", "query_prompt", "document_prompt")
NAMES = (*OF_ROW, *LENGTHS, "dimension", "normalize", "similarity", "include_prompt")
"""Settings of `model` that a folder may declare."""


def resolved(config: ModelConfig, source: Source) -> ModelConfig:
    """`config` with every value that it left to the folder or the row: a run keeps these, whatever the folder says
    later."""
    settings = make_settings(config, source)
    values = {name: getattr(settings, name) for name in NAMES}
    kept = {"dimension": config.dimension or settings.dimension, "retriever": is_retriever(config, source)}
    return replace(config, **{**values, **kept})


def is_retriever(config: ModelConfig, source: Source) -> bool:
    """Whether the model retrieves as it is; a bare language model does not."""
    return _retriever(config, source)[0]


def retriever_text(config: ModelConfig, source: Source) -> str:
    """The same as a part of a sentence, and why it is so."""
    found, why = _retriever(config, source)
    return f"{source.name} is {'a retriever already' if found else 'a bare language model'} ({why})"


def _retriever(config: ModelConfig, source: Source) -> tuple[bool, str]:
    row = None if config.path else BACKBONES.get(source.name)
    if row and row.retriever:
        found, why = True, "a named embedding model"
    elif source.declared:
        found, why = True, "a sentence-transformers folder"
    else:
        found, why = False, "nothing says that it was trained to retrieve: model.retriever=true would"
    if config.retriever is None or config.retriever == found:
        return found, why
    return config.retriever, "model.retriever says so"


def origins(given: Collection[str], declared: SentenceFolder | None) -> dict[str, str]:
    """Setting of `model` -> where its value comes from. given: those that the user set."""
    return {name: SETTINGS if name in given else _unset(name, declared) for name in NAMES}


def _unset(name: str, declared: SentenceFolder | None) -> str:
    """Where a value comes from that nobody set."""
    if declared is None:
        return ROW if name in OF_ROW else DEFAULTS
    return DEFAULTS if name in LENGTHS and getattr(declared, name) is None else FOLDER


def told(settings: EncoderSettings, of: Mapping[str, str], declared: SentenceFolder | None = None) -> str:
    """A sentence for the user: what the retriever does, and for each origin what came from there; and one more where
    the folder's prompt for documents has a name that sentence-transformers does not ask for."""
    words = _words(settings)
    parts = {}
    for origin in (SETTINGS, FOLDER, ROW, DEFAULTS):
        said = [words[name] for name in NAMES if of.get(name) == origin and words[name]]
        parts[origin] = f"by {origin}: {', '.join(said)}" if said else ""
    return f"the retriever, {'; '.join(filter(None, parts.values()))}{_unused_prompt(settings, declared)}"


def _unused_prompt(settings: EncoderSettings, declared: SentenceFolder | None) -> str:
    prompts = dict(declared.prompts) if declared else {}
    name = next((name for name in ("passage", "corpus") if prompts.get(name)), "")
    if not name or settings.document_prompt:
        return ""
    return (
        f"\nits prompt {name!r} is not used: sentence-transformers 6 takes the one named 'document'. To put it before "
        f"documents give 'model.document_prompt={prompts[name]}'"
    )


def _words(settings: EncoderSettings) -> dict[str, str]:
    """Setting -> its value in words; empty where it changes nothing."""
    prompts = {"query": settings.query_prompt, "document": settings.document_prompt}
    left_out = "" if settings.include_prompt or not any(prompts.values()) else "pooling leaves the prompts out"
    return {
        "pooling": f"{settings.pooling.replace('_', ' ')} pooling",
        **{f"{kind}_prompt": f"{kind} prompt {text!r}" for kind, text in prompts.items() if text},
        **{f"{kind}_prompt": f"no {kind} prompt" for kind, text in prompts.items() if not text},
        "max_query_length": f"queries of at most {settings.max_query_length} tokens",
        "max_document_length": f"documents of at most {settings.max_document_length} tokens",
        "dimension": f"the first {settings.dimension} dimensions" if settings.dimension else "",
        "normalize": "normalised" if settings.unit_length else "not normalised",
        "similarity": {"cosine": "cosine similarity", "dot": "inner products"}[settings.similarity],
        "include_prompt": left_out,
    }
