"""Whether bfloat16 is exact enough: nDCG@10 of all-MiniLM-L6-v2 in both dtypes on every data set at hand.

Numbers beside the times: nDCG@10 times 100; they may differ by 0.1.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.speed import models
from benchmarks.speed.frame import Cases, Comparison, Options, Variant

FOLDERS = (Path("shared/data"), Path("../shared/data"), Path("../../shared/data"))
"""Where BEIR-format folders may be."""


def comparisons(options: Options) -> Iterator[Comparison]:
    """pydocs, and the data sets in `shared/data`; samples of them."""
    yield from _of_sets(_data_sets(), (5, 10) if options.small else (50, 150))


def gpu_cases(options: Options) -> Cases:
    """All of pydocs; then all of the others."""
    limits = (5, 10) if options.small else (0, 0)
    first, *others = _data_sets()
    return {"pydocs": functools.partial(_of_sets, [first], limits), "more": functools.partial(_of_sets, others, limits)}


def _of_sets(names: Sequence[str], limits: tuple[int, int]) -> Iterator[Comparison]:
    from effir_dist.data.sets import load_collection
    from effir_dist.evaluate.evaluation import evaluate
    from effir_dist.models.encoder import load_encoder

    encoders = {dtype: load_encoder(models.minilm_path(), dtype) for dtype in ("bfloat16", "float32")}
    for name in names:
        collection = load_collection(name, "test", *limits)

        def run(dtype: str, collection=collection) -> dict[str, float]:
            return {"nDCG@10": 100 * evaluate(encoders[dtype], collection, 0).metrics["ndcg_at_10"]}

        label = f"{collection.name}: {len(collection.queries)} queries, {len(collection.documents)} documents"
        variants = {dtype: Variant(lambda dtype=dtype, run=run: run(dtype)) for dtype in encoders}
        yield Comparison(label, variants, len(collection.documents), "documents", rounds=1)


def _data_sets() -> list[str]:
    """Those at hand, small ones first."""
    from effir_dist.data.sets import resolve

    found = [
        path
        for folder in FOLDERS
        for path in sorted(folder.resolve().glob("*"))
        if (path / "qrels" / "test.tsv").is_file()
    ]
    sizes = {name: (resolve(name) / "corpus.jsonl") for name in (models.pydocs_path(), *map(str, found))}
    return sorted(sizes, key=lambda name: sizes[name].stat().st_size if sizes[name].is_file() else 0)
