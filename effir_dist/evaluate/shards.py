"""The vectors of a corpus as files that several processes write together and can resume.

FOLDER/corpus.json            texts, model and size of a shard
FOLDER/shard-00003.npy        [n, D] of texts 3n to 4n, in their order, in `disk_dtype`, written atomically
FOLDER/shard-00003.lock       held by the process that computes it; the kernel drops it with the process
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effir_dist.core.errors import InputError
from effir_dist.core.files import disk_errors, read_json, write_bytes_atomic, write_json_atomic
from effir_dist.core.values import Json
from effir_dist.data.beir import document_text, json_object

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder

MANIFEST = "corpus.json"


@dataclass(frozen=True)
class TextFile:
    """Texts in a file, one a line: title and text of a .jsonl, as in BEIR, else the lines themselves.

    Only the start of each line is in memory: 8 bytes a text.
    """

    path: Path
    starts: np.ndarray
    """[N] int64: where each line starts, in bytes."""
    digest: str
    """Of the file's bytes."""

    @staticmethod
    def open(path: Path) -> TextFile:
        """Read the file once. Raises InputError where it cannot be read or holds no text."""
        digest, starts, place = hashlib.sha256(), array("q"), 0
        try:
            with path.open("rb") as file:
                for line in file:
                    digest.update(line)
                    if line.strip():
                        starts.append(place)
                    place += len(line)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        if not starts:
            raise InputError(f"{path} holds no text; expected a text a line, or corpus.jsonl of a BEIR-format folder")
        return TextFile(path, np.frombuffer(starts, np.int64), digest.hexdigest())

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, first: int, last: int) -> list[str]:
        """Texts from `first` to before `last`. Raises InputError for a line that is no text."""
        texts = []
        with self.path.open("rb") as file:
            for number in range(first, last):
                file.seek(int(self.starts[number]))
                texts.append(self._text(file.readline(), number))
        return texts

    def _text(self, line: bytes, number: int) -> str:
        where = f"{self.path}: text {number + 1}"
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise InputError(f"{where} is not UTF-8") from None
        return document_text(json_object(text, where), where) if self.path.suffix == ".jsonl" else text


class Vectors:
    """[N, D] vectors in shards on disk, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError where the folder holds no finished corpus."""
        manifest = _manifest(folder)
        if manifest is None:
            raise InputError(f"{folder} holds no {MANIFEST}; write one with python -m effir_dist.encode")
        count, self.rows = int(manifest["texts"]), int(manifest["shard_texts"])
        files = [shard_file(folder, shard) for shard in range(-(-count // self.rows))]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise InputError(f"{folder} lacks {len(missing)} of {len(files)} shards ({missing[0]}); run encode again")
        self.parts = [np.load(file, mmap_mode="r") for file in files]
        self.shape, self.dtype = (count, self.parts[0].shape[1]), self.parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """A slice of rows without step, as an array."""
        first, last, step = rows.indices(len(self))
        if step != 1:
            raise ValueError("vectors in shards are read in slices without step")
        shards = range(first // self.rows, -(-last // self.rows) if last > first else first // self.rows + 1)
        cut = [self.parts[s][max(0, first - s * self.rows) : max(0, last - s * self.rows)] for s in shards]
        return cut[0] if len(cut) == 1 else np.concatenate(cut)


def shard_file(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.npy"


def encode_corpus(
    encoder: Encoder,
    texts: TextFile,
    folder: Path,
    encode: Callable[[list[str]], np.ndarray],
    shard_texts: int,
    about: Json,
    say: Callable[[str], None],
) -> int:
    """Compute the shards that `folder` lacks and that no other process computes. Returns their number.

    encode: texts -> [n, D]. about: what else identifies these vectors, such as their kind. Any number of processes may
    call it at once. Raises InputError where the folder holds vectors of another corpus or model.
    """
    count = -(-len(texts) // shard_texts)
    identity = {"texts": len(texts), "texts_sha256": texts.digest, "shard_texts": shard_texts}
    _claim_folder(folder, {**identity, "model_sha256": model_digest(encoder), **about})
    done = 0
    for shard in range(count):
        file = shard_file(folder, shard)
        if file.is_file():
            file.with_suffix(".lock").unlink(missing_ok=True)  # of a process that was killed right after its last write
            continue
        with _shard_lock(file.with_suffix(".lock")) as ours:
            if ours and not file.is_file():
                first = shard * shard_texts
                vectors = encode(texts.read(first, min(len(texts), first + shard_texts)))
                packed = io.BytesIO()
                np.save(packed, vectors.astype(encoder.settings.disk_dtype))
                write_bytes_atomic(file, packed.getvalue())
                done += 1
                say(f"{file.name}: {shard + 1} of {count}")
    return done


def unfinished(folder: Path) -> int:
    """Number of shards that are missing: other processes compute them."""
    manifest = _manifest(folder) or {"texts": 0, "shard_texts": 1}
    shards = range(-(-int(manifest["texts"]) // int(manifest["shard_texts"])))
    return sum(not shard_file(folder, shard).is_file() for shard in shards)


def model_digest(encoder: Encoder) -> str:
    """Digest of what determines a model's vectors: weights, their dtype, plan, settings and tokenizer."""
    import torch

    from effir_dist.models.head import head_tensors
    from effir_dist.models.tokens import tokenizer_identity

    digest = hashlib.sha256(tokenizer_identity(encoder.tokenizer))
    digest.update(repr((encoder.settings, encoder.plan)).encode())
    for name, tensor in sorted({**encoder.backbone.state_dict(), **head_tensors(encoder.head)}.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _manifest(folder: Path) -> Json | None:
    file = folder / MANIFEST
    return read_json(file) if file.is_file() else None


def _claim_folder(folder: Path, wanted: Json) -> None:
    found = _manifest(folder)
    if found is None:
        write_json_atomic(folder / MANIFEST, wanted)
        found = _manifest(folder)
    other = [key for key, value in wanted.items() if (found or {}).get(key) != value]
    if other:
        raise InputError(f"{folder} holds vectors of another {other[0]}; take another folder, or remove that one")


@contextlib.contextmanager
def _shard_lock(path: Path) -> Iterator[bool]:
    """Whether this process got the lock. It is released at the end of the block or of the process."""
    with disk_errors(path):
        file = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
        path.unlink(missing_ok=True)
    finally:
        os.close(file)
