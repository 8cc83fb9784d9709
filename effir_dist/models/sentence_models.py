"""Any sentence-transformers model folder as a retriever: with its own pooling, prompts and lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from effir_dist.core.config import read_json
from effir_dist.core.errors import InputError
from effir_dist.models import hub
from effir_dist.models.quiet import quiet_transformers
from effir_dist.models.weights import refuse_pickles


def is_sentence_model(name_or_path: str) -> bool:
    """Whether this is a folder that sentence-transformers saved (or that we export, without our own plan.json), or a
    hub id whose modules.json is in the cache."""
    from effir_dist.models.encoder_settings import description_file

    folder = Path(name_or_path)
    return ((folder / "modules.json").is_file() and not description_file(folder)) or hub.is_sentence_model(name_or_path)


class SentenceModel:
    """A SentenceTransformer behind `Encoder`'s `encode`, for what we cannot load ourselves."""

    def __init__(self, folder: str, dtype: str = "float32") -> None:
        """Raises InputError where sentence-transformers is missing or cannot load the folder, which may hold tensors
        in safetensors only, and no code."""
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise InputError(f"{folder} is for sentence-transformers; install `effir_dist[st]`") from None
        folder = folder if Path(folder).is_dir() else str(hub.all_files(folder))
        refuse_pickles(Path(folder))
        config = Path(folder) / "config.json"
        if config.is_file() and str(read_json(config).get("model_type", "")).startswith("effir_"):
            import effir_dist.models.auto  # noqa: F401  # an export's architecture, so that none of its code need run
        options = {"use_safetensors": True, "dtype": dtype}
        try:
            with quiet_transformers():
                self.model = SentenceTransformer(folder, model_kwargs=options, local_files_only=True)
        except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"sentence-transformers cannot load {folder}: {reason}") from None

    def encode(self, texts: list[str], kind: str = "document", batch_tokens: int = 0) -> np.ndarray:
        """Embeddings of queries or documents, l2-normalised where its similarity is cosine: [N, D] float32."""
        encode = self.model.encode_query if kind == "query" else self.model.encode_document
        batch = max(1, (batch_tokens or 4096) // (self.length(kind) or 512))
        cosine = self.model.similarity_fn_name == "cosine"
        options: dict[str, Any] = {"normalize_embeddings": cosine, "show_progress_bar": False}
        vectors: Any = encode(texts, batch_size=batch, **options)
        return np.asarray(vectors, np.float32)

    def length(self, kind: str) -> int | None:
        """Tokens kept of a query or document."""
        own = getattr(self.model[0], f"{kind}_length", None)
        return own if own is not None else self.model.max_seq_length

    def set_length(self, kind: str, tokens: int) -> None:
        """Cut queries or documents to `tokens`. Raises InputError for a model that has no such setting."""
        if not hasattr(self.model[0], f"{kind}_length"):
            raise InputError(f"--max-{kind}-length: this model's {type(self.model[0]).__name__} has no such setting")
        setattr(self.model[0], f"{kind}_length", tokens)
