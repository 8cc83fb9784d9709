"""Models, texts and anchors that the speed benchmarks share. Random weights where a machine has no others."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.speed.frame import Options, Variant
from effir_dist.core.errors import InputError
from effir_dist.core.mapped import cache_root, made_once

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder
    from effir_dist.models.pruning import PruningPlan

CARRIED, PACKED_DATA = Path(".gpu"), "pydocs.tar.xz"
"""What is brought along to a machine without a network, all-MiniLM-L6-v2 and pydocs: `benchmarks.carry` makes it."""
SHAPES = {
    "qwen3-0.6b": ("qwen3", 1024, 3072, 28, 16, 8, 128),
    "smollm2": ("llama", 576, 1536, 30, 9, 3, 64),
    "llama-3.2-1b": ("llama", 2048, 8192, 16, 32, 8, 64),
    "mistral-7b": ("mistral", 4096, 14336, 32, 32, 8, 128),
    "qwen2.5-1.5b": ("qwen2", 1536, 8960, 28, 12, 2, 128),
    "qwen3-40m": ("qwen3", 384, 1152, 12, 6, 3, 64),
    "qwen3-9m": ("qwen3", 192, 576, 6, 6, 3, 32),
    "bert-base": ("bert", 768, 3072, 12, 12, 12, 64),
}
"""Name -> model type, D, F, L, heads, key heads, head size; with few tokens in the vocabulary, since none is looked up
twice in a layer."""
REAL = ("minilm", "mpnet", "smollm2")
"""Models of Python packages, with their own weights."""
NARROW = (64, 128, 2, 4, 2, 16)
"""In place of any of them, to see that the cases of a GPU run."""


def minilm(options: Options) -> Encoder:
    """all-MiniLM-L6-v2 with its own lengths, in the dtype of this machine."""
    from effir_dist.models.encoder import load_encoder

    return load_encoder(minilm_path(), options.dtype)


def there(*names: str) -> Iterator[str]:
    """Those of REAL whose package is installed; of the others a sentence says how to install it."""
    from effir_dist.core.errors import InputError
    from effir_dist.models import pretrained

    for name in names:
        try:
            pretrained.find(minilm_path() if name == "minilm" else name)
        except InputError as error:
            print(f"{name} is left out: {error}", flush=True)
        else:
            yield name


def real(name: str, options: Options, dtype: str = "") -> Encoder:
    """One of REAL, with its own lengths but for 256 tokens at most, in this machine's dtype unless one is given."""
    from effir_dist.models.encoder import load_encoder

    encoder = load_encoder(minilm_path() if name == "minilm" else name, dtype or options.dtype)
    lengths = {"max_document_length": min(256, encoder.settings.max_document_length)}
    encoder.settings = dataclasses.replace(encoder.settings, **lengths)
    return encoder


def minilm_path() -> str:
    """Its folder, or its name where the package is installed."""
    return str(CARRIED / "minilm") if (CARRIED / "minilm").is_dir() else "minilm"


def pydocs_path() -> str:
    """The same of the built-in data, which is unpacked once into the user's cache."""
    packed = CARRIED / PACKED_DATA
    if not packed.is_file():
        return "pydocs"
    folder = cache_root() / f"pydocs-carried-{hashlib.sha256(packed.read_bytes()).hexdigest()[:12]}"
    return str(made_once(folder, partial(shutil.unpack_archive, packed), _whole))


def check_here() -> None:
    """Raises InputError where all-MiniLM-L6-v2 or the built-in data is not on this machine and was not carried here."""
    from effir_dist.data.sets import resolve
    from effir_dist.models import pretrained

    try:
        pretrained.find(minilm_path())
        resolve(pydocs_path())
    except InputError as error:
        advice = f"or bring the folder {CARRIED} that `python -m benchmarks.carry` makes where they are installed"
        raise InputError(f"{error}; {advice}") from None


def _whole(folder: Path) -> Path:
    (folder / "test" / "corpus.jsonl").stat()
    return folder


def shaped(name: str, options: Options, plan: PruningPlan | None = None) -> Encoder:
    """A model of that shape with random weights and a tokenizer of bytes; pruned by `plan`, the first neurons kept."""
    import torch
    from transformers import AutoConfig, AutoModel

    from effir_dist.core.settings import ModelConfig
    from effir_dist.models.encoder import Encoder, make_settings
    from effir_dist.models.pretrained import Source
    from effir_dist.models.pruning import apply_plan

    kind, *sizes_of = SHAPES[name]
    hidden, width, blocks, heads, key_heads, head = NARROW if options.small and options.gpu else sizes_of
    sizes = {"hidden_size": hidden, "intermediate_size": width, "num_hidden_layers": blocks, "head_dim": head}
    more = {"num_attention_heads": heads, "num_key_value_heads": key_heads, "vocab_size": 300}
    config = AutoConfig.for_model(kind, **sizes, **more, max_position_embeddings=1024)
    torch.manual_seed(0)
    with torch.device(options.device):
        model = AutoModel.from_config(config, dtype=getattr(torch, options.dtype), attn_implementation="sdpa")
    tree = model.config.to_dict()
    if plan:
        apply_plan(model, tree, plan)
    settings = make_settings(ModelConfig(query_prompt="", max_document_length=512), Source("made", "", tree))
    return Encoder(model.eval(), _bytes_tokenizer(), settings, tree, plan)


@functools.cache
def _bytes_tokenizer() -> Any:
    """A token a byte: a text's length is known, and no vocabulary is needed."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = ["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", pad_token="<eos>")


def passages(count: int, words: int = 150, spread: int = 45) -> list[str]:
    """Texts of about `words` words of the built-in data: 241 tokens of MiniLM's, some cut at its 256."""
    from effir_dist.data.sets import load_collection

    stream = " ".join(load_collection(pydocs_path(), "test").documents).split()
    rng, texts, start = np.random.default_rng(0), [], 0
    for size in rng.normal(words, spread, count).clip(words // 4, 2 * words).astype(int):
        if start + size > len(stream):
            start = 0
        texts.append(" ".join(stream[start : start + size]))
        start += size
    return texts


def letters(count: int, length: int, spread: int = 0) -> list[str]:
    """Texts of `length` bytes less one (the tokenizer of bytes adds `<eos>`), give or take `spread`."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(length - 1 - spread, length + spread, count)
    return ["".join(map(chr, rng.integers(97, 123, size))) for size in sizes]


def sentence_model(encoder: Encoder, options: Options, dtype: str = "") -> Any:
    """The same model in sentence-transformers."""
    import torch
    from sentence_transformers import SentenceTransformer

    with tempfile.TemporaryDirectory() as folder:
        encoder.backbone.save_pretrained(folder)
        encoder.tokenizer.save_pretrained(folder)
        kept = {"dtype": getattr(torch, dtype or options.dtype)}
        model = SentenceTransformer(folder, device=options.device, model_kwargs=kept, local_files_only=True)
    model.max_seq_length = encoder.settings.max_document_length
    return model


def plain_transformers(encoder: Encoder, texts: list[str], batch: int = 32) -> np.ndarray:
    """What a script does: batches in the order given, padded, the mean of the last hidden state. [N, D]"""
    import torch

    found = []
    with torch.no_grad():
        for start in range(0, len(texts), batch):
            limits = {"truncation": True, "max_length": encoder.settings.max_document_length}
            inputs = encoder.tokenizer(texts[start : start + batch], padding=True, return_tensors="pt", **limits)
            inputs = inputs.to(encoder.device)
            hidden = encoder.backbone(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None]
            found.append(((hidden * mask).sum(1) / mask.sum(1)).float().cpu().numpy())
    return np.concatenate(found)


def matrix_product(options: Options, flops: float, size: int = 0, dtype: str = "") -> Variant:
    """The machine's own limit: square matrices in the same dtype, for about a quarter of a second."""
    import torch

    size = size or (64 if options.small else 8192 if options.gpu else 1024)
    kind = getattr(torch, dtype or options.dtype)
    left, right = (torch.randn(size, size, device=options.device, dtype=kind) for _ in "ab")
    times = 1 if options.small else (100 if options.gpu else 12)

    def run() -> None:
        for _ in range(times):
            torch.mm(left, right)

    return Variant(run, share=times * 2 * size**3 / flops)
