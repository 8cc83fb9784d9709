"""Tiny random-weight checkpoints, made from the families' real transformers configs and saved to a folder."""

from __future__ import annotations

from pathlib import Path

FAMILY_NAMES = ("qwen2", "qwen3", "llama", "mistral", "bert", "modernbert")
_SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def _tokenizer(bert: bool):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["[PAD]", "[CLS]", "[SEP]", "<eos>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*specials, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if not bert:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


def tiny_checkpoint(folder: Path, family: str, seed: int = 0, **sizes: int) -> Path:
    """Save a model of `family` with L=4, D=32, F=48 (or `sizes`) and a byte tokenizer; returns its folder."""
    import torch
    from transformers import AutoConfig, AutoModel

    more = {} if "bert" in family else {"num_key_value_heads": 2}
    if family == "modernbert":
        more = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    if family == "qwen3":
        more["head_dim"] = 16
    config = AutoConfig.for_model(family, **{**_SIZES, **more, **sizes})
    torch.manual_seed(seed)
    path = folder / f"tiny-{family}"
    AutoModel.from_config(config).save_pretrained(path)
    _tokenizer("bert" in family).save_pretrained(path)
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
