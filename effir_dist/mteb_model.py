"""A retriever as MTEB takes models: `mteb.evaluate(MtebEncoder("FOLDER"), tasks)`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from effir_dist.core.errors import InputError
from effir_dist.core.settings import ScoreConfig


class MtebEncoder:
    """mteb's EncoderProtocol over `effir_dist.load`: prompts and lengths are the model's own, for every task."""

    def __init__(self, model_name: str, revision: str | None = None, device: str | None = None, **_: Any) -> None:
        """model_name: what `effir_dist.load` takes; revision is recorded only; device: the GPU if there is one.

        Raises InputError where there is no such model.
        """
        from effir_dist.models.encoder import load_encoder

        self.name, self.revision = model_name, revision
        self.encoder = load_encoder(model_name)
        if device:
            self.encoder.to(device)

    def encode(self, inputs: Iterable[dict[str, Any]], *, prompt_type: Any = None, **_: Any) -> np.ndarray:
        """Embeddings of batches {"text": [...]}: [N, D] float32; queries where `prompt_type` is "query"."""
        texts = [text for batch in inputs for text in batch["text"]]
        kind = "query" if str(getattr(prompt_type, "value", prompt_type)) == "query" else "document"
        return self.encoder.encode(texts, kind, ScoreConfig.batch_tokens)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The model's similarities, inner products: [N, D], [M, D] -> a torch tensor [N, M]."""
        first, second = (_rows(e) for e in (embeddings1, embeddings2))
        return first @ second.T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The model's similarities of pairs: [N, D], [N, D] -> a torch tensor [N]."""
        first, second = (_rows(e) for e in (embeddings1, embeddings2))
        return (first * second).sum(-1)

    @property
    def mteb_model_meta(self) -> Any:
        """mteb's ModelMeta. Raises InputError where mteb is not installed."""
        try:
            from mteb.models import ModelMeta
        except ImportError:
            raise InputError("mteb is not installed: pip install mteb") from None
        settings = self.encoder.settings
        known = {
            "name": f"effir_dist/{self.name.rstrip('/').rsplit('/', 1)[-1]}",
            "revision": self.revision,
            "n_parameters": sum(p.numel() for p in self.encoder.parameters()),
            "max_tokens": max(settings.max_query_length, settings.max_document_length),
            "embed_dim": self.encoder.dimension,
            "similarity_fn_name": settings.similarity,
            "framework": ["PyTorch"],
        }
        return ModelMeta.create_empty(overwrites=known)


def _rows(embeddings: Any) -> Any:
    """Embeddings as a float32 tensor [N, D]; with cosine similarity they are of length 1 already."""
    import torch

    return torch.atleast_2d(torch.as_tensor(np.asarray(embeddings), dtype=torch.float32))
