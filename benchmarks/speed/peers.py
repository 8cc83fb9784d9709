"""What else a user could encode with on a CPU: sentence-transformers, OpenVINO, onnxruntime, each at its best batch.

All get the same model and texts, sorted by length and padded to the longest of a batch, as many threads as `--threads`
says in their own pools, and one stream. Tokens are made within the time. OpenVINO is no dependency of ours:
`pip install --no-deps openvino` (180 MB).
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.speed import models
from benchmarks.speed.frame import ERRORS, Options, reason

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder

Encode = Callable[[list[str], int], np.ndarray]
"""Texts, and how many of them go in a batch -> embeddings [N, D] in the order given."""
BATCHES = {"documents": (1, 4, 16), "queries": (8, 16, 32, 64)}
"""Texts of a batch that are tried."""


@dataclass(frozen=True)
class Peer:
    """Another tool that encodes, with the batch that was the fastest of those tried."""

    label: str
    encode: Encode
    batch: int

    @property
    def name(self) -> str:
        """What a row calls it."""
        return f"{self.label}, batches of {self.batch}"


@dataclass(frozen=True)
class Model:
    """What the peers are made of: an encoder in float32 and a folder for its files while they are measured."""

    float32: Encoder
    folder: Path
    options: Options


def peers(model: Model, dtype: str, texts: list[str], kind: str) -> Iterator[Peer | str]:
    """Those that compute in `dtype`; for one that cannot be had here a sentence."""
    makers: dict[str, Callable[[Model, str], Encode]] = {
        f"sentence-transformers, {dtype}": sentence_transformers,
        f"OpenVINO, {dtype}": openvino,
    }
    if dtype == "float32":
        makers |= {"onnxruntime, float32": onnxruntime, "int8 by onnxruntime, another quality": onnxruntime_int8}
    for label, make in makers.items():
        try:
            encode = make(model, dtype)
            yield Peer(label, encode, best_batch(encode, texts[::2], BATCHES[kind]))
        except ImportError as error:
            yield f"{label}: left out, as the package {error.name} is not installed"
        except ERRORS as error:
            yield f"{label}: left out, as it failed ({reason(error)})"


def best_batch(encode: Encode, texts: list[str], batches: tuple[int, ...]) -> int:
    """Texts of the batch that took the least processor time, of one run over the texts; a first call warms up."""
    taken = {}
    encode(texts[:2], 2)
    for batch in batches:
        if batch > batches[0] and batch >= 2 * len(texts):
            break
        begun = time.process_time()
        encode(texts, batch)
        taken[batch] = time.process_time() - begun
    return min(taken, key=lambda batch: taken[batch])


def sentence_transformers(model: Model, dtype: str) -> Encode:
    """The same model there."""
    sentences = models.sentence_model(model.float32, model.options, dtype)

    def encode(texts: list[str], batch: int) -> np.ndarray:
        options = {"normalize_embeddings": True, "show_progress_bar": False}
        return np.asarray(sentences.encode(texts, batch_size=batch, **options), np.float32)

    return encode


def openvino(model: Model, dtype: str) -> Encode:
    """Converted from torch, whose attention it keeps as one operation; compiled for `dtype`."""
    compiled: Any = (
        _openvino()
        .Core()
        .compile_model(
            _converted(model),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": {"bfloat16": "bf16", "float32": "f32"}[dtype],
                "INFERENCE_NUM_THREADS": model.options.threads,
                "NUM_STREAMS": 1,
                "ENABLE_CPU_PINNING": False,
            },
        )
    )
    request = compiled.create_infer_request()
    return _by_length(model.float32, lambda ids, mask: np.array(request.infer([ids, mask])[0]))


def _converted(model: Model) -> Any:
    """OpenVINO's model, kept in its folder."""
    import torch

    file = model.folder / "openvino.xml"
    if not file.is_file():
        ids = torch.ones(2, 7, dtype=torch.int64)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = _openvino().convert_model(model.float32.eval(), example_input=(ids, torch.ones_like(ids)))
        _openvino().save_model(made, file, compress_to_fp16=False)
    return str(file)


def _openvino() -> Any:
    """The package, which says on the network that it was imported unless its telemetry is missing."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


def onnxruntime(model: Model, dtype: str) -> Encode:
    """The graph that an export writes, in float32."""
    return _session(model, _graph(model))


def onnxruntime_int8(model: Model, dtype: str) -> Encode:
    """The same with weights in int8."""
    from effir_dist.export.onnx_model import write_int8

    return _session(model, write_int8(_graph(model)))


def _graph(model: Model) -> Path:
    import onnxruntime  # noqa: F401

    from effir_dist.export.onnx_model import write_onnx

    file = model.folder / "encoder.onnx"
    return file if file.is_file() else write_onnx(model.float32, model.folder)


def _session(model: Model, graph: Path) -> Encode:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = model.options.threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return _by_length(
        model.float32,
        lambda ids, mask: np.asarray(session.run(None, dict(zip(names, (ids, mask), strict=True)))[0]),
    )


def _by_length(encoder: Encoder, infer: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Encode:
    """Texts to embeddings by a function from ids and mask [B, T] to embeddings [B, D]: longest first, padded."""
    import torch

    from effir_dist.models.encoder import pad

    def encode(texts: list[str], batch: int) -> np.ndarray:
        tokens = encoder.tokenize(texts, "document")
        out = np.empty((len(texts), encoder.dimension), np.float32)
        order = np.argsort(-tokens.lengths, kind="stable")
        for start in range(0, len(order), batch):
            places = order[start : start + batch]
            ids, mask = pad(tokens, places, encoder.pad_id, torch.device("cpu"))
            out[places] = infer(ids.numpy(), mask.numpy())
        return out

    return encode


def own_matrices(encoder: Encoder, plan: list[int]) -> Callable[[], None]:
    """A function that multiplies what the linear layers of a model multiply, and computes nothing
    else. plan: tokens of each batch."""
    import torch

    weights = [m.weight.detach().t() for m in encoder.backbone.modules() if type(m) is torch.nn.Linear]
    kinds = {(rows, weight.shape[0]) for rows in plan for weight in weights}
    inputs = {kind: torch.randn(kind).to(weights[0].dtype) for kind in kinds}

    def run() -> None:
        with torch.inference_mode():
            for rows in plan:
                for weight in weights:
                    torch.mm(inputs[rows, weight.shape[0]], weight)

    return run
