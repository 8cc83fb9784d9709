"""The drop order by every option that the paper leaves open: python -m benchmarks.drop_orders OUT.csv TEXTS [TEXTS ...]

TEXTS are BEIR-format folders or `pydocs`: the first 32 passages of each. Orders of all-MiniLM-L6-v2 by default.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from effir_dist.core.settings import DISTANCES, GRANULARITIES
from effir_dist.data import beir, sets
from effir_dist.importance.ranking import KINDS, Method, calibrate
from effir_dist.models.encoder import load_encoder

SAMPLES = 32


def main() -> None:
    """Write and print a row for each text, distance and level, and greedy re-scoring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drop_orders", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--model", default="minilm")
    args = parser.parse_args()
    encoder, rows = load_encoder(args.model), []
    for name in args.texts:
        folder = beir.part(sets.resolve(name), "train")
        texts = list(beir.read_corpus(folder / "corpus.jsonl").values())[:SAMPLES]
        for method in [*itertools.starmap(Method, itertools.product(DISTANCES, GRANULARITIES)), Method(greedy=True)]:
            importance = calibrate(encoder, texts, method=method).importance
            orders = {kind: " ".join(map(str, importance.drop_order(kind))) for kind in KINDS}
            rows.append({"texts": sets.dataset_name(name), **asdict(method), **orders})
    table = pd.DataFrame(rows)
    table.to_csv(args.out, index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
