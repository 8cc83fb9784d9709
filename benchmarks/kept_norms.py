"""Post-norm encoders without some MLPs, untrained, with and without the norms behind those: nDCG@10.

python -m benchmarks.kept_norms mpnet --blocks 6 5 7. A dropped MLP of such a model takes its norm with it; here is what
the model would score if the norm stayed: norm(x) in place of norm(x + MLP(x)).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import replace

import torch

from effir_dist.core.errors import InputError
from effir_dist.data.sets import load_collection
from effir_dist.evaluate.evaluation import evaluate_texts
from effir_dist.models.encoder import Encoder, load_encoder, prune_encoder
from effir_dist.models.families.registry import family
from effir_dist.models.pruning import PruningPlan


def main() -> None:
    """Print a row for the unpruned model, and one for each longer beginning of `--blocks`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kept_norms", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--blocks", type=int, nargs="+", required=True, help="whose MLPs go, one after the other")
    parser.add_argument("--data", default="pydocs")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--queries", type=int, default=150)
    parser.add_argument("--documents", type=int, default=300)
    args = parser.parse_args()
    encoder = load_encoder(args.model, "auto")
    if family(encoder.model_config).norm_placement != "post":
        raise InputError(f"{args.model} has its norms before its sub-layers: a dropped MLP takes none of the stream's")
    encoder.settings = replace(encoder.settings, max_query_length=32, max_document_length=64)
    texts = load_collection(args.data, args.split, args.queries, args.documents)

    def score(model: Encoder) -> float:
        return evaluate_texts(model, texts, 0).metrics["ndcg_at_10"]

    print("| MLPs dropped | norm dropped too | norm kept |\n|---|---|---|")
    print(f"| none | {score(encoder):.3f} | |", flush=True)
    for count in range(1, len(args.blocks) + 1):
        gone = args.blocks[:count]
        dropped = prune_encoder(copy.deepcopy(encoder), PruningPlan(dropped_mlp=gone), None)
        cells = [f"{score(model):.3f}" for model in (dropped, silenced(encoder, gone))]
        print(f"| {', '.join(map(str, gone))} | {' | '.join(cells)} |", flush=True)


def silenced(encoder: Encoder, blocks: Sequence[int]) -> Encoder:
    """A copy whose MLPs in `blocks` add nothing, before the norm behind them."""
    found = copy.deepcopy(encoder)
    row = family(found.model_config)
    for block in blocks:
        last = found.backbone.get_submodule(f"{row.blocks}.{block}.{row.mlp_out}")
        for parameter in last.parameters():
            torch.nn.init.zeros_(parameter)
    return found


if __name__ == "__main__":
    main()
