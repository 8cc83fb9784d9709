"""Post-norm encoders without some sub-layers, untrained, with and without the norms behind those: nDCG@10.

python -m benchmarks.kept_norms mpnet. The two columns are the two values of `prune.keep_norms`; the least important
sub-layers go first, as a search with the norms kept ranks them. With --kind block, what a block without both could keep
of its two norms; the product keeps none.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from effir_dist.core.errors import InputError
from effir_dist.data.sets import load_collection
from effir_dist.evaluate.evaluation import evaluate_texts
from effir_dist.importance.command import calibration_texts
from effir_dist.importance.ranking import Method, calibrate
from effir_dist.models.encoder import Encoder, load_encoder, prune_encoder
from effir_dist.models.families.registry import family
from effir_dist.models.operations.drop import KINDS
from effir_dist.models.pruning import make_plan

Without = Callable[[Encoder, Sequence[int]], Encoder]
"""A copy of an encoder without what is dropped of those blocks."""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kept_norms", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--kind", choices=KINDS, default="mlp", help="what is dropped")
    parser.add_argument("--most", type=int, default=4, help="of how many blocks, one after the other")
    parser.add_argument("--blocks", type=int, nargs="+", help="which, in place of the least important ones")
    parser.add_argument("--data", default="pydocs")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--queries", type=int, default=150)
    parser.add_argument("--documents", type=int, default=300)
    parser.set_defaults(texts=None, samples=64)
    return parser.parse_args()


def main() -> None:
    """Print a row for the unpruned model, and one for each longer beginning of the blocks."""
    args = parse()
    encoder = load_encoder(args.model, "auto")
    if family(encoder.model_config).norm_placement != "post":
        raise InputError(f"{args.model} has its norms before its sub-layers: a dropped one takes none of the stream's")
    encoder.settings = replace(encoder.settings, max_query_length=32, max_document_length=64)
    texts = load_collection(args.data, args.split, args.queries, args.documents)
    blocks = args.blocks or drop_order(encoder, args)[: args.most]

    def score(model: Encoder) -> str:
        return f"{evaluate_texts(model, texts, 0).metrics['ndcg_at_10']:.3f}"

    ways = ways_of(args.kind)
    print(f"| {args.kind} dropped of blocks | {' | '.join(ways)} |\n|---|{'---|' * len(ways)}")
    print(f"| none | {' | '.join([score(encoder)] * len(ways))} |", flush=True)
    for count in range(1, len(blocks) + 1):
        gone = blocks[:count]
        cells = [score(without(encoder, gone)) for without in ways.values()]
        print(f"| {', '.join(map(str, gone))} | {' | '.join(cells)} |", flush=True)


def drop_order(encoder: Encoder, args: argparse.Namespace) -> list[int]:
    """Of a search that keeps norms; that of one which does not is printed beside it."""
    texts, orders = calibration_texts(args), {}
    for keep_norms in (True, False):
        importance = calibrate(encoder, texts, method=Method(keep_norms=keep_norms)).importance
        orders[keep_norms] = importance.drop_order(args.kind)
        print(f"order of importance, norms {'kept' if keep_norms else 'dropped'}: {orders[keep_norms]}")
    return orders[True]


def ways_of(kind: str) -> Mapping[str, Without]:
    """Column -> what is left of the norms."""
    if kind != "block":
        return {
            "norm dropped too": partial(_pruned, kind=kind, keep_norms=False),
            "norm kept": partial(_pruned, kind=kind, keep_norms=True),
        }
    return {
        "both norms dropped": partial(_only_norms, kept=()),
        "the attention's kept": partial(_only_norms, kept=(0,)),
        "the MLP's kept": partial(_only_norms, kept=(1,)),
        "both kept": partial(_only_norms, kept=(0, 1)),
    }


def _pruned(encoder: Encoder, blocks: Sequence[int], kind: str, keep_norms: bool) -> Encoder:
    plan = make_plan(encoder.model_config, **{f"dropped_{kind}": blocks}, keep_norms=keep_norms)
    return prune_encoder(copy.deepcopy(encoder), plan, None)


def _only_norms(encoder: Encoder, blocks: Sequence[int], kept: Sequence[int]) -> Encoder:
    """Of whole blocks nothing but some norms."""
    found = copy.deepcopy(encoder)
    row = family(found.model_config)
    layers: Any = found.backbone.get_submodule(row.blocks)

    def forward(stream: Any, *_: Any, norms: Sequence[Any], **__: Any) -> Any:
        for norm in norms:
            stream = norm(stream)
        return (stream,) if row.block_gives_tuple else stream

    for block in blocks:
        norms = [layers[block].get_submodule(row.norms_behind[index]) for index in kept]
        layers[block].forward = partial(forward, norms=norms)
    return found


if __name__ == "__main__":
    main()
