"""Retrievers by effir_dist and by sentence-transformers itself, in one run: python -m benchmarks.retrievers

Each of `--only` on BEIR-format folders, in float32: nDCG@10 of both, and the least cosine of a text's two embeddings.
Writes OUT (reports/retrievers.md) and OUT.json beside it, a row at a time; rows of earlier runs stay. `mpnet` and
`smollm2` need their packages (see README); `cls`, `dense` and `left` are made here, of real weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effir_dist.core.errors import InputError, command
from effir_dist.core.files import read_json, write_json_atomic, write_text_atomic
from effir_dist.core.measures import MEASURES, QUALITY
from effir_dist.core.values import Json
from effir_dist.data.sets import Collection, load_collection
from effir_dist.evaluate.evaluation import evaluate_embeddings
from effir_dist.models import pretrained

EQUAL = 1e-4
"""Of nDCG@10: what counts as equal."""
KINDS = ("query", "document")
HEADS = ("retriever", "data set", "of", "effir_dist", "sentence-transformers", "difference", "equal to 1e-4")
MORE = ("least cosine", "seconds of each")


@dataclass(frozen=True)
class Made:
    """A retriever to compare: what it is, and how its sentence-transformers folder is found or made in a folder."""

    about: str
    folder: Callable[[Path], str]


@command
def main() -> None:
    """Compare and write."""
    run(parser().parse_args())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m benchmarks.retrievers", description=__doc__)
    result.add_argument("--data", action="append", metavar="DIR", help="(default: ../shared/data/scifact)")
    result.add_argument("--split", default="test")
    result.add_argument("--only", default=",".join(RETRIEVERS), help="names (default: %(default)s)")
    result.add_argument("--documents", type=int, default=0, help="the judged and a sample (default: 0, all)")
    result.add_argument("--queries", type=int, default=0, help="a sample (default: 0, all)")
    result.add_argument("--out", type=Path, default=Path("reports/retrievers.md"))
    return result


def run(arguments: argparse.Namespace) -> None:
    """A row for each retriever and data set; one that is not here is left out with a sentence."""
    names = arguments.only.split(",")
    unknown = [name for name in names if name not in RETRIEVERS]
    if unknown:
        raise InputError(f"--only names {unknown[0]!r}; known: {', '.join(RETRIEVERS)}")
    for path in arguments.data or ["../shared/data/scifact"]:
        collection = load_collection(path, arguments.split, arguments.queries, arguments.documents)
        for name in names:
            with tempfile.TemporaryDirectory(prefix="effir-retriever-") as scratch:
                try:
                    folder = RETRIEVERS[name].folder(Path(scratch))
                except InputError as error:
                    print(f"{name}: left out, {error}", flush=True)
                    continue
                row = compare(folder, collection)
            keep({"retriever": name, "about": RETRIEVERS[name].about, **row}, arguments.out)
            print(line(row | {"retriever": name}), flush=True)


def compare(folder: str, collection: Collection) -> Json:
    """nDCG@10 of a sentence-transformers folder by both, the least cosine of their embeddings, and seconds."""
    from sentence_transformers import SentenceTransformer

    from effir_dist.models.encoder import load_encoder

    encoder = load_encoder(folder)
    options: Json = {"local_files_only": True, "device": str(encoder.device), "model_kwargs": {"dtype": "float32"}}
    theirs = SentenceTransformer(folder, **options)
    ours, seconds = _timed(lambda: [encoder.encode(_texts(collection, kind), kind) for kind in KINDS])
    encode = {"query": theirs.encode_query, "document": theirs.encode_document}
    options = {"show_progress_bar": False, "normalize_embeddings": theirs.similarity_fn_name == "cosine"}
    other, their_seconds = _timed(lambda: [encode[kind](_texts(collection, kind), **options) for kind in KINDS])
    scores = [evaluate_embeddings(*vectors, collection).metrics[QUALITY] for vectors in (ours, other)]
    return {
        "dataset": collection.name,
        "of": str(collection.size),
        "ours": scores[0],
        "theirs": scores[1],
        "cosine": min(_least_cosine(*pair) for pair in zip(ours, other, strict=True)),
        "seconds": [seconds, their_seconds],
        "similarity": encoder.settings.similarity,
    }


def _texts(collection: Collection, kind: str) -> list[str]:
    return list(collection.queries if kind == "query" else collection.documents)


def _timed(work: Callable[[], list[np.ndarray]]) -> tuple[list[np.ndarray], float]:
    started = time.perf_counter()
    found = work()
    return found, time.perf_counter() - started


def _least_cosine(one: np.ndarray, other: np.ndarray) -> float:
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / norms).min())


def keep(row: Json, out: Path) -> None:
    """Add a row to OUT.json, in place of an earlier one of the same retriever and data, and write the table anew."""
    file = out.with_suffix(".json")
    kept = read_json(file)["rows"] if file.is_file() else []
    same = ("retriever", "dataset", "of")
    rows = [r for r in kept if any(r[key] != row[key] for key in same)] + [row]
    order = [*RETRIEVERS]
    rows.sort(key=lambda r: (r["dataset"], order.index(r["retriever"]) if r["retriever"] in order else len(order)))
    write_json_atomic(file, {"rows": rows})
    write_text_atomic(out, render(rows))


def render(rows: Sequence[Json]) -> str:
    """The report as Markdown."""
    cells = [HEADS + MORE, ("---",) * len(HEADS + MORE), *map(_cells, rows)]
    table = "\n".join(f"| {' | '.join(each)} |" for each in cells)
    about = dict.fromkeys(f"- `{row['retriever']}`: {row['about']}" for row in rows)
    return (
        "# Retrievers as their folders declare them\n\n"
        f"{MEASURES[QUALITY].label} of the same folder by effir_dist and by sentence-transformers, both in float32, in "
        "one run of `python -m benchmarks.retrievers`. Scores are times 100.\n\n"
        f"{table}\n\n" + "\n".join(about) + "\n"
    )


def _cells(row: Json) -> tuple[str, ...]:
    difference = row["ours"] - row["theirs"]
    equal = "yes" if abs(difference) <= EQUAL else "no"
    scores = [f"{100 * row[side]:.2f}" for side in ("ours", "theirs")]
    seconds = " and ".join(f"{each:.0f}" for each in row["seconds"])
    named = (f"`{row['retriever']}` ({row['similarity']})", row["dataset"], row["of"])
    return (*named, *scores, f"{100 * difference:+.4f}", equal, f"{row['cosine']:.7f}", seconds)


def line(row: Json) -> str:
    """A row for the screen."""
    return ", ".join(f"{head} {cell}" for head, cell in zip(HEADS + MORE, _cells(row), strict=True))


def _backbone(name: str) -> Callable[[Path], str]:
    return lambda scratch: pretrained.find(name).location


def _saved(scratch: Path, base: str, modules: Callable[[int], list[Any]], length: int, **options: Any) -> str:
    """A folder that sentence-transformers saved: the weights of a backbone, and `modules` of its hidden size."""
    from sentence_transformers import SentenceTransformer, models

    first = models.Transformer(pretrained.find(base).location)
    first.max_seq_length = length
    folder = scratch / "made"
    made = SentenceTransformer(modules=[first, *modules(first.auto_model.config.hidden_size)], **options)
    made.save(str(folder), create_model_card=False)
    return str(folder)


def _cls(scratch: Path) -> str:
    from sentence_transformers import models

    return _saved(scratch, "minilm", lambda size: [models.Pooling(size, "cls"), models.Normalize()], 128)


def _dense(scratch: Path) -> str:
    """Two layers, as EmbeddingGemma has, that keep what MiniLM knows: to 1,536 by orthonormal columns and a tanh, whose
    inputs are small, then to 256 by a random projection."""
    import torch
    from sentence_transformers import models

    generator = torch.Generator().manual_seed(0)

    def layers(size: int) -> list[Any]:
        wide, _ = torch.linalg.qr(torch.randn(4 * size, size, generator=generator))
        down = torch.randn(256, 4 * size, generator=generator) / 16
        first = models.Dense(size, 4 * size, bias=True, activation_function=torch.nn.Tanh(), init_weight=wide)
        torch.nn.init.zeros_(first.linear.bias)
        second = models.Dense(4 * size, 256, bias=False, activation_function=torch.nn.Identity(), init_weight=down)
        return [models.Pooling(size, "mean"), first, second]

    return _saved(scratch, "minilm", layers, 256, similarity_fn_name="dot", prompts={"query": "question: "})


def _left(scratch: Path) -> str:
    """A decoder with last-token pooling whose tokenizer pads on the left and appends nothing.

    Without its chat template: sentence-transformers 6 would put every text into a conversation by it.
    """
    from sentence_transformers import models

    folder = _saved(scratch, "smollm2", lambda size: [models.Pooling(size, "lasttoken"), models.Normalize()], 128)
    file = Path(folder) / "tokenizer_config.json"
    write_json_atomic(file, {**read_json(file), "padding_side": "left"})
    (Path(folder) / "chat_template.jinja").unlink(missing_ok=True)
    write_json_atomic(Path(folder) / "sentence_bert_config.json", {"max_seq_length": 128, "do_lower_case": False})
    return folder


RETRIEVERS = {
    "minilm": Made("all-MiniLM-L6-v2 as published: mean pooling, normalised", _backbone("minilm")),
    "mpnet": Made("all-mpnet-base-v2 as published: mean pooling, normalised", _backbone("mpnet")),
    "cls": Made("MiniLM's weights with CLS pooling, 128 tokens", _cls),
    "dense": Made("MiniLM's weights, two Dense layers to 256, not normalised, dot, a query prompt", _dense),
    "left": Made("SmolLM2-135M-Instruct, last token, padded on the left, 128 tokens; never trained to retrieve", _left),
}


if __name__ == "__main__":
    main()
