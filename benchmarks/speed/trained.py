"""Models and training pairs of the benchmarks of training, on disk so that every library loads the same files."""

from __future__ import annotations

import functools
import math
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.speed.frame import Options
from benchmarks.speed.models import minilm_path, pydocs_path
from effir_dist.models import pretrained
from effir_dist.models.families.registry import backbone

if TYPE_CHECKING:
    from effir_dist.data.pairs import TrainingPairs


def minilm(folder: Path) -> str:
    """all-MiniLM-L6-v2's weights and tokenizer as a folder; sentence-transformers takes the mean over such a model."""
    source = Path(pretrained.find(minilm_path()).location)
    path = folder / "minilm"
    path.mkdir(exist_ok=True)
    for file in source.iterdir():
        if file.name in ("config.json", "model.safetensors", "vocab.txt") or file.name.startswith("tokenizer"):
            shutil.copy(file, path)
    return str(path)


def real(name: str, folder: Path) -> str:
    """The backbone of an installed model (`models.REAL`) with its weights and tokenizer, as a bare folder."""
    source = pretrained.find(minilm_path() if name == "minilm" else name)
    base, path = pretrained.load_base(source, "float32"), folder / name
    base.model.save_pretrained(path)
    base.tokenizer.save_pretrained(path)
    return str(path)


def random_model(name: str, folder: Path, device: str, **changes: Any) -> str:
    """A named backbone's shape with random weights and MiniLM's tokenizer, in bfloat16 as a folder."""
    import torch
    from transformers import AutoConfig, AutoModel

    sizes = {**backbone(name).config, "max_position_embeddings": 512, **changes}
    config = AutoConfig.for_model(**sizes)
    with torch.device(device):
        model = AutoModel.from_config(config, dtype=torch.bfloat16)
    path = folder / name
    model.save_pretrained(path)
    tokenizer = pretrained.load_tokenizer(minilm(folder))
    tokenizer.eos_token = tokenizer.sep_token
    tokenizer.save_pretrained(path)
    return str(path)


NARROW = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 30522,
}
"""Of a decoder, to see that everything runs."""


def made(name: str, folder: Path, options: Options) -> str:
    """MiniLM, or a named backbone's shape with random weights, as a folder: in `options.kept`, or else in `folder`."""
    if name == "minilm":
        return minilm(folder)
    path = (options.kept or folder) / name
    if not path.is_dir():
        with tempfile.TemporaryDirectory(dir=path.parent) as unfinished:
            changes = NARROW if options.small else {}
            Path(random_model(name, Path(unfinished), options.device, **changes)).rename(path)
    return str(path)


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder in memory where there is one."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)


def pairs(count: int) -> TrainingPairs:
    """Of pydocs, the first ones over again where there are too few."""
    found = _pydocs()
    chosen = [i % len(found.queries) for i in range(count)]
    return _plain([found.queries[i] for i in chosen], [found.positives[i] for i in chosen])


@functools.cache
def _pydocs() -> TrainingPairs:
    from effir_dist.core.settings import DataConfig
    from effir_dist.data.pairs import training_pairs

    return training_pairs(DataConfig(paths=(pydocs_path(),)), 0)


def long_pairs(count: int) -> TrainingPairs:
    """All texts longer than any limit."""
    texts = [" ".join([str(i), *["text"] * 600]) for i in range(2 * count)]
    return _plain(texts[:count], texts[count:])


def _plain(queries: list[str], positives: list[str]) -> TrainingPairs:
    from effir_dist.data.pairs import TrainingPairs

    return TrainingPairs(queries, positives, [[] for _ in queries], [[math.nan] for _ in queries])
