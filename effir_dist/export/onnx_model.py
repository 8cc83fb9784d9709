"""An encoder as an ONNX graph, from token ids to embeddings; int8, and what that costs in nDCG@10."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from effir_dist.core.errors import InputError
from effir_dist.core.measures import QUALITY
from effir_dist.core.values import Json
from effir_dist.models.encoder import Encoder

if TYPE_CHECKING:
    from effir_dist.data.sets import Collection
    from effir_dist.evaluate.evaluation import Evaluation
    from effir_dist.runs.run_folder import Run

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "sentence_embedding"
MISSING = "ONNX needs more packages; install `effir_dist[onnx]`"


def write_onnx(encoder: Encoder, folder: Path) -> Path:
    """Write `encoder.onnx` in float32 and return its path: int64 [B, T] ids and mask -> float32 [B, D].

    B and T are dynamic. Raises InputError where a package is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise InputError(MISSING) from None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "encoder.onnx"
    ids = torch.ones(2, 7, dtype=torch.int64)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=_longest(encoder))}
    module = encoder.float().eval()
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module,
            (ids, torch.ones_like(ids)),
            dynamo=True,
            input_names=INPUTS,
            output_names=[OUTPUT],
            dynamic_shapes=(sizes, sizes),
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # the exporter's stack traces, with the paths of this machine's files
    program.save(path, external_data=_bytes(encoder) > 1 << 30)
    return path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters print and warn of: packages that are not needed, and passes that are not wanted."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _longest(encoder: Encoder) -> int:
    from effir_dist.models.pretrained import longest_input

    return min(longest_input(encoder.model_config), 1 << 20)


def _bytes(encoder: Encoder) -> int:
    return sum(p.numel() * 4 for p in encoder.parameters())


def write_int8(model: Path) -> Path:
    """Write `encoder_int8.onnx` beside a float32 graph: weights of its matrix products as int8, activations as they
    come (dynamic quantisation)."""
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError:
        raise InputError(MISSING) from None
    path = model.with_name("encoder_int8.onnx")
    with _quiet():
        quantize_dynamic(model, path, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm", "Gather"])
    return path


class OnnxEncoder(Encoder):
    """An encoder whose forward pass onnxruntime runs, on the CPU."""

    def __init__(self, model: Path, like: Encoder) -> None:
        """model: a graph of `write_onnx` or `write_int8`; like: the encoder that it was made of."""
        super().__init__(torch.nn.Identity(), like.tokenizer, like.settings, like.model_config, like.plan)
        try:
            import onnxruntime
        except ImportError:
            raise InputError(MISSING) from None
        self.session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """[B, T] ids and mask -> [B, D] float32 embeddings."""
        feed = dict(zip(INPUTS, (input_ids.numpy(), attention_mask.numpy()), strict=True))
        return torch.from_numpy(np.asarray(self.session.run([OUTPUT], feed)[0]))


def measure_int8(run: Run, encoder: Encoder, float32: Path, int8: Path) -> Json:
    """nDCG@10 of both graphs on the run's own data, on test where the run has it, else on the search's queries.

    {"split", "bytes": {"float32", "int8"}, "ndcg_at_10": {data set: {"float32", "int8", "difference", "low", "high",
    and the counts of `SetSize`}}}; low and high bound the difference, a 95 % paired bootstrap interval.
    Raises InputError where the data is gone.
    """
    from effir_dist.core.config import from_dict
    from effir_dist.data.roles import search_collection, test_collection
    from effir_dist.evaluate.evaluation import evaluate

    config = from_dict(run.config)
    read = test_collection if config.data.test_split else search_collection
    encoders = {"float32": OnnxEncoder(float32, encoder), "int8": OnnxEncoder(int8, encoder)}
    rows = {}
    for path in config.data.paths:
        collection: Collection = read(path, config.data, config.search.seed)
        scores = {k: evaluate(e, collection, config.score.batch_tokens) for k, e in encoders.items()}
        rows[collection.name] = {**_compared(scores), **vars(collection.size)}
    sizes = {kind: path.stat().st_size for kind, path in (("float32", float32), ("int8", int8))}
    return {"split": "test" if config.data.test_split else "search", "bytes": sizes, QUALITY: rows}


def _compared(scores: dict[str, Evaluation]) -> dict[str, float]:
    from effir_dist.evaluate.comparison import paired

    difference = paired(scores["int8"].per_query, scores["float32"].per_query)[QUALITY]
    values = {kind: s.metrics[QUALITY] for kind, s in scores.items()}
    return {**values, "difference": difference.value, "low": difference.low, "high": difference.high}
