"""A search of a real model from a Python package, cut to seconds: it ends with a front, a report and a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from effir_dist.export.command import export
from effir_dist.models.encoder import load_encoder
from effir_dist.runs.run_folder import Run
from tests import needs
from tests.search.test_search import finish, start

SHORT = [
    *("--trials=1", "search.scheduler=plain", "train.steps=1", "train.batch_size=4", "prune.calibration_texts=2"),
    *("data.max_train_pairs=100", "data.max_queries=5", "data.max_documents=20"),
    *("data.max_test_queries=5", "data.max_test_documents=20", "search.keep_weights=all", "train.dtype=float32"),
]
PLANS = "plans: {half: {drop_mlp: 0.5, width_ratio: 0.7}}\n"


@pytest.mark.slow
def test_a_search_of_smollm2_ends_with_a_model_that_others_load(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    needs.backbone("smollm2")
    (tmp_path / "space.yaml").write_text(PLANS + "settings: {prune.width_multiple: 64, score.dtype: float32}\n")
    search = start(tmp_path, "--backbone=smollm2", "--space=space.yaml", "--name=real", *SHORT)
    output = finish(search, tmp_path)
    run = Run.open(tmp_path / "runs" / "real")
    assert "train 1 plan" in output, "a fixed plan is not screened"
    assert {"front.csv", "front.png", "report.html"} <= {file.name for file in (run.folder / "report").iterdir()}, (
        output
    )
    [record], out = run.results(), tmp_path / "model"
    export(run, record, out)
    texts, own = ["How is a path of a file split?", "x"], load_encoder(str(run.trial_folder("0000")), "stored")
    theirs = SentenceTransformer(str(out), trust_remote_code=True).encode_document(texts)
    np.testing.assert_allclose(theirs, own.encode(texts), atol=2e-5)
    model = AutoModel.from_pretrained(out, trust_remote_code=True, dtype="auto")
    assert sum(tensor.numel() for tensor in model.parameters()) == record.value("parameters")
