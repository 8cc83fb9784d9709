"""`python -m effir_dist.importance`: importance of all sub-layers and their drop order, as table, CSV and heat map."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir_dist.core import renamed
from effir_dist.core.config import replace
from effir_dist.core.errors import InputError, command
from effir_dist.core.settings import DISTANCES, DTYPES, GRANULARITIES, RunConfig
from effir_dist.importance.ranking import KINDS, Importance, Method, calibrate
from effir_dist.models import own_code
from effir_dist.models.families import registry

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from effir_dist.models.encoder import Encoder

TITLES = {"mlp": "MLP", "attention": "attention", "block": "whole block"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m effir_dist.importance",
        description="How much each attention and MLP changes the residual stream, and the order in which they are "
        "dropped.",
    )
    registry.list_in(p)
    p.add_argument("--backbone", metavar="NAME", default="minilm", help="a name of the list below (default: minilm)")
    p.add_argument("--model", metavar="PATH", default="", help="a local checkpoint, a hub id, or such a name")
    what = "BEIR-format folder, or a name such as beir:scifact: texts of its training corpus are taken"
    own_code.add_option(p)
    p.add_argument("--data", "--train-data", metavar="DIR", default="pydocs", help=what)
    p.add_argument("--texts", metavar="FILE", type=Path, help="a file with a text on each line, instead of --data")
    p.add_argument("--samples", type=int, default=256, help="how many texts, the first of the file (default: 256)")
    p.add_argument("--length", type=int, default=512, help="tokens kept of each (default: 512)")
    p.add_argument("--distance", choices=DISTANCES, default="cosine")
    what = "distance of each token, or of the pooled stream (default: token)"
    p.add_argument("--granularity", choices=GRANULARITIES, default="token", help=what)
    renamed.refuse_option(p, "--level", "--granularity")
    p.add_argument("--greedy", action="store_true", help="measure again after each drop")
    what = "whether a dropped sub-layer leaves the norm behind its sum, in models with norms there (default: yes)"
    p.add_argument("--keep-norms", action=argparse.BooleanOptionalAction, default=True, help=what)
    p.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights")
    p.add_argument("--out", type=Path, default=Path("importance"), help="folder for importance.csv and .png")
    return p


@command
def main() -> None:
    """Entry point."""
    from effir_dist.models.vocabulary import check_encoder

    args = parser().parse_args()
    if registry.is_backbone(args.model):
        args.backbone, args.model = args.model, ""
    texts = calibration_texts(args)
    encoder = _load(args)
    check_encoder(encoder, args.model or args.backbone, texts)
    method = Method(args.distance, args.granularity, args.greedy, args.keep_norms)
    importance = calibrate(encoder, texts, method=method).importance
    orders = {kind: importance.drop_order(kind) for kind in KINDS}
    table = order_table(importance, orders)
    print(f"{args.model or args.backbone}: {len(texts)} texts, {args.distance} per {args.granularity}")
    print("importance, and the place in the order of dropping (1: first)")
    print(shown(table))
    _write(args.out, table, heat_map(orders, args.model or args.backbone))


def calibration_texts(args: argparse.Namespace) -> list[str]:
    """The texts that importance is measured on. Raises InputError where there are none."""
    from effir_dist.data import beir, sets

    if args.samples < 1:
        raise InputError(f"--samples must be 1 or more, got {args.samples}")
    if args.texts is None:
        folder = beir.part(sets.resolve(args.data), "train")
        texts = list(beir.read_corpus(folder / "corpus.jsonl").values())[: args.samples]
    else:
        texts = [line for _, line in beir.lines(args.texts)][: args.samples]
    if not texts:
        raise InputError(f"no calibration text in {args.texts or args.data}; it needs at least one")
    return texts


def _load(args: argparse.Namespace) -> Encoder:
    from effir_dist.models import pretrained, weights
    from effir_dist.models.encoder import build_encoder, default_device, make_settings, resolve_dtype

    config = replace(RunConfig(), {"model.max_document_length": args.length})
    source, dtype = pretrained.find(args.backbone, args.model, args.trust_remote_code), resolve_dtype(args.dtype)
    weights.check_weights(source)
    base = pretrained.load_base(source, dtype)
    return build_encoder(base, make_settings(config.model, source), dtype).to(default_device())


def order_table(importance: Importance, orders: dict[str, list[int]]) -> pd.DataFrame:
    """One row a block: the importance of each kind, and its place in the drop order (1 is dropped first)."""
    import pandas as pd

    columns: dict[str, Any] = {"block": range(len(importance.mlp))}
    for kind in KINDS:
        columns[f"{kind}_importance"] = getattr(importance, kind)
        columns[f"{kind}_drop"] = [orders[kind].index(block) + 1 for block in range(len(importance.mlp))]
    return pd.DataFrame(columns)


def shown(table: pd.DataFrame) -> str:
    """The table of `order_table` for a terminal of 80 columns."""
    heads = {f"{kind}_importance": TITLES[kind] for kind in KINDS} | {f"{kind}_drop": "drop" for kind in KINDS}
    return table.rename(columns=heads).to_string(index=False, float_format=lambda value: f"{value:.4f}")


def heat_map(orders: dict[str, list[int]], name: str) -> Figure:
    """For each kind: blocks (upwards) against how many are dropped, filled where the block is dropped."""
    import numpy as np
    from matplotlib.figure import Figure

    blocks = len(orders["mlp"])
    figure = Figure(figsize=(3 + 3.2 * len(orders), 2.2 + 0.11 * max(blocks, 16)), dpi=150, layout="constrained")
    for ax, (kind, order) in zip(figure.subplots(1, len(orders), sharey=True), orders.items(), strict=True):
        gone = np.array([[order.index(block) < dropped for dropped in range(1, blocks + 1)] for block in range(blocks)])
        edge = "white" if blocks <= 16 else "none"
        ax.pcolormesh(np.arange(1, blocks + 2) - 0.5, np.arange(blocks + 1) - 0.5, gone, cmap="Blues", edgecolors=edge)
        ax.set_title(TITLES[kind], fontsize=11)
        ax.set_xlabel("number dropped")
        ax.set_aspect("equal")
        ticks = range(0, blocks, max(1, blocks // 8))
        ax.set_yticks(list(ticks))
        ax.set_xticks([tick + 1 for tick in ticks])
    figure.axes[0].set_ylabel("block (0 reads the embeddings)")
    figure.suptitle(f"What goes first in {name} (dark: dropped)", fontsize=12)
    return figure


def _write(folder: Path, table: pd.DataFrame, figure: Figure) -> None:
    from effir_dist.core.files import write_bytes_atomic, write_text_atomic

    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_text_atomic(folder / "importance.csv", table.to_csv(index=False))
    write_bytes_atomic(folder / "importance.png", image.getvalue())
    print(f"wrote {folder / 'importance.csv'}\nwrote {folder / 'importance.png'}")
