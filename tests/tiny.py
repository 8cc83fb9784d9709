"""Tiny random-weight checkpoints, made from the families' real transformers configs and saved to a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir_dist.models.families.base import Family
from effir_dist.models.families.registry import FAMILIES, register
from effir_dist.models.operations.drop import keeps_norms
from effir_dist.models.pruning import PruningPlan

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bidirectional-gemma3": ("gemma3_text", {"use_bidirectional_attention": True}),
    "bidirectional-mistral": ("mistral", {"is_causal": False}),
}
"""Name -> a family, and config values with which its attention is another."""
FAMILY_NAMES = tuple(FAMILIES)
MODEL_NAMES = (*FAMILY_NAMES, *VARIANTS)
"""Families, and those variants of them for which all that attention touches is tested again."""
LAYOUTS = tuple({(row.norm_placement, row.fused): name for name, row in FAMILIES.items()}.values())
"""A family for each kind of block: tests of what depends on nothing else run over these."""
POST_NORM = tuple(name for name, row in FAMILIES.items() if row.norm_placement == "post")
"""Families whose dropped sub-layers may leave a norm."""
WITHOUT_BASE: dict[str, Any] = {"train.order": "prune_then_tune", "train.distill_embeddings": 0}
"""Settings over a shipped space's, for a trial that is run by itself."""
_SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def row_of(name: str) -> Family:
    """The family of a name in MODEL_NAMES."""
    return FAMILIES[VARIANTS[name][0] if name in VARIANTS else name]


REPLACEABLE = tuple(name for name in MODEL_NAMES if row_of(name).attention_implementation == "sdpa")
"""Families whose attention ours take the place of; that of the others is left alone."""


@contextlib.contextmanager
def registered(row: Family) -> Iterator[Family]:
    """Within the block there is one more family."""
    register(row)
    try:
        yield row
    finally:
        del FAMILIES[row.model_type]


def windowed(name: str) -> dict[str, int]:
    """Config values with which a family's attention sees a window, if it has one."""
    key = row_of(name).attention_options.get("sliding_window")
    return {key: 16} if key else {}


def pruned(encoder: Encoder) -> Encoder:
    """A model of `tiny_checkpoint` without the MLP of one block and the attention of another, and with a narrow MLP, in
    place; norms stay as a search leaves them."""
    import numpy as np

    from effir_dist.models.encoder import prune_encoder

    parts = {"dropped_mlp": (1,), "dropped_attention": (2,), "widths": ((0, 13),), "ranking": "magnitude"}
    plan = PruningPlan(**parts, keep_norms=keeps_norms(encoder.model_config))
    return prune_encoder(encoder, plan, np.ones((4, 48), np.float32))


def _tokenizer(row: Family):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["[CLS]", "[SEP]", "<eos>"]
    specials.insert(row.tiny.get("pad_token_id", 0), "[PAD]")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*specials, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if row.decoder:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, vocab[token]) for token in ("[CLS]", "[SEP]")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")


def tiny_checkpoint(folder: Path, name: str, seed: int = 0, **sizes: Any) -> Path:
    """Save a model of `name` in MODEL_NAMES with L=4, D=32, F=48 (or `sizes`) and a byte tokenizer; its folder."""
    import torch
    from transformers import AutoConfig, AutoModel

    row, own = row_of(name), VARIANTS.get(name, ("", {}))[1]
    values: dict[str, Any] = {**_SIZES, **row.tiny, **own, **sizes}
    torch.manual_seed(seed)
    path = folder / f"tiny-{name}"
    AutoModel.from_config(AutoConfig.for_model(row.model_type, **row.own(values))).save_pretrained(path)
    _tokenizer(row).save_pretrained(path)
    return path


def write_collection(folder: Path, documents: int = 40, queries: int = 12, seed: int = 0) -> Path:
    """A BEIR-format folder: query i asks for document i; splits train, dev and test of a third of the queries each."""
    import json
    import random

    rng = random.Random(seed)
    words = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "pe") for b in ("ra", "so", "ti", "vu", "xe", "zo")]
    texts = [" ".join(rng.choices(words, k=8)) for _ in range(documents)]
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w") as corpus:
        for i, text in enumerate(texts):
            corpus.write(json.dumps({"_id": f"d{i}", "title": f"title {i}", "text": text}) + "\n")
    with (folder / "queries.jsonl").open("w") as lines:
        for i in range(queries):
            query = " ".join(rng.sample(texts[i].split(), 4))
            lines.write(json.dumps({"_id": f"q{i}", "text": query}) + "\n")
    for number, split in enumerate(("train", "dev", "test")):
        rows = [f"q{i}\td{i}\t1" for i in range(queries) if i % 3 == number]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(rows) + "\n")
    return folder
