"""Our encoder under the real mteb, on a task made of local data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import needs

mteb = needs.module("mteb")

from effir_dist.data.sets import load_collection  # noqa: E402
from effir_dist.evaluate.evaluation import evaluate_texts  # noqa: E402
from effir_dist.models.encoder import load_encoder  # noqa: E402
from effir_dist.mteb_model import MtebEncoder  # noqa: E402


def local_task(folder: Path) -> Any:
    """The test split of a BEIR-format folder as an mteb task."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    collection = load_collection(str(folder), "test")

    class Toy(AbsTaskRetrieval):  # type: ignore[misc]
        metadata = TaskMetadata(
            name="Toy", description="local", reference=None, dataset={"path": "local/toy", "revision": "1"},
            type="Retrieval", category="t2t", modalities=["text"], eval_splits=["test"], eval_langs=["eng-Latn"],
            main_score="ndcg_at_10", date=None, domains=None, task_subtypes=None, license=None,
            annotations_creators=None, dialect=None, sample_creation=None, bibtex_citation=None,
        )  # fmt: skip

        def load_data(self, *_: Any, **__: Any) -> None:
            rows = zip(collection.document_ids, collection.documents, strict=True)
            queries = zip(collection.query_ids, collection.queries, strict=True)
            split = {
                "corpus": Dataset.from_list([{"id": i, "text": t, "title": ""} for i, t in rows]),
                "queries": Dataset.from_list([{"id": i, "text": t} for i, t in queries]),
                "relevant_docs": collection.qrels,
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Toy()


def test_mteb_scores_our_encoder_as_we_do(checkpoints: dict[str, Path], collection: Path, tmp_path: Path) -> None:
    from mteb.models import EncoderProtocol

    model = MtebEncoder(str(checkpoints["llama"]))
    assert isinstance(model, EncoderProtocol)
    results = mteb.evaluate(
        model, [local_task(collection)], cache=None, encode_kwargs={"batch_size": 8}, overwrite_strategy="always"
    )
    found = results[0].scores["test"][0]["ndcg_at_10"]
    ours = evaluate_texts(load_encoder(str(checkpoints["llama"])), load_collection(str(collection), "test"), 4096)
    assert found == pytest.approx(ours.metrics["ndcg_at_10"], abs=1e-4)
    meta = model.mteb_model_meta
    assert (meta.name, meta.embed_dim) == ("effir_dist/tiny-llama", 32)


def test_queries_and_documents_get_their_own_prompts(checkpoints: dict[str, Path]) -> None:
    from mteb.types import PromptType

    model = MtebEncoder(str(checkpoints["llama"]))
    batches = [{"text": ["a", "b"]}, {"text": ["c"]}]
    queries = model.encode(batches, prompt_type=PromptType.query)
    documents = model.encode(batches, prompt_type=PromptType.document)
    np.testing.assert_allclose(queries, model.encoder.encode(["a", "b", "c"], "query"), atol=1e-6)
    np.testing.assert_allclose(documents, model.encoder.encode(["a", "b", "c"]), atol=1e-6)
    assert tuple(model.similarity(queries, documents).shape) == (3, 3)
    np.testing.assert_allclose(model.similarity_pairwise(queries, queries).numpy(), 1, atol=1e-5)
