"""How a retriever turns texts into embeddings, as the settings, its folder and its family's row say. Without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effir_dist.core.settings import ModelConfig
from effir_dist.models import pretrained
from effir_dist.models.families.base import dimension
from effir_dist.models.families.registry import family
from effir_dist.models.sentence_folder import SentenceFolder

SETTINGS_FILE = "effir.json"
"""Beside a trial's weights: how texts become embeddings, and the plan."""
EXPORT_FILE = "plan.json"
"""The same in an exported folder, and the unpruned model's config: config.json there is for other tools."""


@dataclass(frozen=True)
class EncoderSettings:
    """How texts become embeddings."""

    pooling: str
    query_prompt: str
    document_prompt: str
    append_eos: bool
    max_query_length: int
    max_document_length: int
    dimension: int = 0
    """Numbers kept of an embedding, the first ones; 0 keeps all."""
    normalize: bool = True
    """Whether embeddings are l2-normalised. With cosine similarity they are in any case."""
    include_prompt: bool = True
    """Whether pooling counts the prompt's tokens."""
    similarity: str = "cosine"
    """How embeddings are compared: `cosine` or `dot`."""
    padding_side: str = "right"
    """Of the folder's tokenizer, for exports. Here it makes no difference."""

    @property
    def unit_length(self) -> bool:
        """Whether embeddings are of length 1, so that their inner products are cosines."""
        return self.normalize or self.similarity == "cosine"

    @property
    def disk_dtype(self) -> type[np.floating[Any]]:
        """Of embeddings in files. No number of one of length 1 is beyond what float16 holds; others' may be."""
        return np.float16 if self.unit_length else np.float32


def description_file(folder: Path) -> Path | None:
    """What describes the pruned model in a folder, of a trial or exported; None where it holds none of ours."""
    return next((folder / name for name in (SETTINGS_FILE, EXPORT_FILE) if (folder / name).is_file()), None)


def make_settings(config: ModelConfig, source: pretrained.Source) -> EncoderSettings:
    """The settings of `config`; where it says nothing the folder's own, and a bare checkpoint's family's.

    Lengths are at most what the model can take.
    """
    row, declared, own = family(source.config), source.declared, dimension(source.config)
    said = declared or SentenceFolder(row.pooling, True, row.query_prompt, row.document_prompt, normalize=True)
    query_length, document_length = pretrained.input_lengths(config, source)
    return EncoderSettings(
        pooling=config.pooling or said.pooling,
        query_prompt=said.query_prompt if config.query_prompt is None else config.query_prompt,
        document_prompt=said.document_prompt if config.document_prompt is None else config.document_prompt,
        append_eos=row.append_eos and declared is None,
        max_query_length=query_length,
        max_document_length=document_length,
        dimension=config.dimension if 0 < config.dimension < own else said.truncate_dim,
        normalize=said.normalize if config.normalize is None else config.normalize,
        include_prompt=said.include_prompt if config.include_prompt is None else config.include_prompt,
        similarity=config.similarity or said.similarity,
        padding_side=said.padding_side,
    )
