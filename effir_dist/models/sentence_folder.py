"""What a sentence-transformers folder says of itself: how its model turns texts into embeddings."""

from __future__ import annotations

from dataclasses import dataclass

from effir_dist.models.families.base import Dense


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
    """Tokens kept of a query; None where the folder does not say."""
    max_document_length: int | None = None
    normalize: bool = False
    """Whether it has a Normalize module."""
    similarity: str = "cosine"
    """`cosine` or `dot`."""
    dense: tuple[Dense, ...] = ()
    """Layers between pooling and normalisation, in their order."""
    dense_folders: tuple[str, ...] = ()
    """Where the weights of each are, within the folder."""
    truncate_dim: int = 0
    """Numbers kept of an embedding; 0 keeps all."""
    padding_side: str = "right"
    prompts: tuple[tuple[str, str], ...] = ()
    """(name, text) of all its prompts, as it has them."""
    default_prompt_name: str = ""
    """The prompt that sentence-transformers' `encode` takes where it is told none; "" for none."""
    do_lower_case: bool = False
    """Whether texts are turned to lower case before they are tokenised."""
