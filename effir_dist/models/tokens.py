"""Texts as ragged arrays of token ids, kept on disk by content hash."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effir_dist.core.errors import InputError
from effir_dist.core.kept import Kept

BATCH = 1024
MOST_KEPT = 8


@dataclass(frozen=True)
class Tokens:
    """Token ids of N texts, one after the other."""

    ids: NDArray[np.int32]
    """[total]"""
    offsets: NDArray[np.int64]
    """[N + 1]; text i is ids[offsets[i]:offsets[i + 1]]"""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        """The ids of one text; a negative index counts from the end."""
        start = range(len(self))[index]
        return self.ids[self.offsets[start] : self.offsets[start + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N] tokens of each text."""
        return np.diff(self.offsets)

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Tokens:
        """The texts at `indices`, in that order."""
        return _ragged([self[int(i)].tolist() for i in indices])


def _ragged(rows: Sequence[Sequence[int]]) -> Tokens:
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    ids = np.fromiter((i for row in rows for i in row), dtype=np.int32, count=int(offsets[-1]))
    return Tokens(ids, offsets)


def _concatenate(parts: Sequence[Tokens]) -> Tokens:
    if not parts:
        return _ragged([])
    offsets = np.concatenate([[0], *(part.lengths for part in parts)]).cumsum(dtype=np.int64)
    return Tokens(np.concatenate([part.ids for part in parts]), offsets)


def _with_eos(row: list[int], eos: int, max_length: int) -> list[int]:
    return row if row and row[-1] == eos else [*row[: max_length - 1], eos]


def _encode(tokenizer: Any, texts: Sequence[str], max_length: int, eos: int | None) -> Tokens:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        options = {"return_attention_mask": False, "return_token_type_ids": False}
        rows = tokenizer(list(texts), truncation=True, max_length=max_length, **options)["input_ids"]
    else:
        # The same without what transformers wraps around each text, one core's work that all others wait for.
        backend.no_padding()
        backend.enable_truncation(max_length, direction=tokenizer.truncation_side)
        rows = [encoding.ids for encoding in backend.encode_batch_fast(list(texts))]
    return _ragged(rows if eos is None else [_with_eos(row, eos, max_length) for row in rows])


def tokenizer_identity(tokenizer: Any) -> bytes:
    """Equal for tokenizers that make the same tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        name = f"{type(tokenizer).__name__} {tokenizer.name_or_path} {len(tokenizer)}"
        return hashlib.sha256(name.encode()).digest()
    # Both are left behind by the last call, and set again by the next: no part of what the tokenizer is.
    backend.no_truncation()
    backend.no_padding()
    return hashlib.sha256(bytes(backend.to_str(), "utf-8")).digest()


def _key(tokenizer: Any, texts: Sequence[str], prompt: str, max_length: int, eos: int | None) -> str:
    digest = hashlib.sha256(tokenizer_identity(tokenizer))
    digest.update(repr((prompt, max_length, eos, tokenizer.truncation_side, len(texts))).encode())
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()[:32]


def _load(file: Path) -> Tokens | None:
    """What `file` holds, or None where it is missing or damaged: then it is made again."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return Tokens(arrays["ids"], arrays["offsets"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _save(file: Path, tokens: Tokens) -> None:
    temporary: str | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".partial", delete=False) as stream:
            temporary = stream.name
            np.savez(stream, ids=tokens.ids, offsets=tokens.offsets)
        os.replace(temporary, file)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise InputError(f"cannot write the token cache {file}: {error.strerror}; free space there") from None


def tokenize(
    tokenizer: Any, texts: Sequence[str], prompt: str, max_length: int, append_eos: bool, cache: Path | None
) -> Tokens:
    """Ids of `prompt` + text for each of `texts`, cut to `max_length`, with the tokenizer's own special tokens.

    `append_eos` makes `eos_token_id` the last one, within `max_length`. `cache` is a folder, or None to keep nothing;
    with one, the same list of texts is neither read nor hashed again by this process.
    Raises InputError where `append_eos` asks for a token that the tokenizer lacks, or the cache cannot be written.
    """
    eos = tokenizer.eos_token_id if append_eos else None
    if append_eos and eos is None:
        raise InputError("the tokenizer has no end-of-text token to pool; set model.pooling to mean or cls")
    if cache is None:
        return _tokenize(tokenizer, texts, prompt, max_length, eos, None)
    key = (tokenizer_identity(tokenizer), tokenizer.truncation_side, prompt, max_length, eos, len(texts), cache)
    return _kept.get(texts, key, lambda: _tokenize(tokenizer, texts, prompt, max_length, eos, cache))


_kept: Kept[Tokens] = Kept(MOST_KEPT)


def _tokenize(
    tokenizer: Any, texts: Sequence[str], prompt: str, max_length: int, eos: int | None, cache: Path | None
) -> Tokens:
    file = cache / f"tokens-{_key(tokenizer, texts, prompt, max_length, eos)}.npz" if cache else None
    cached = _load(file) if file else None
    if cached is not None:
        return cached
    batches = (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
    tokens = _concatenate([_encode(tokenizer, [prompt + t for t in batch], max_length, eos) for batch in batches])
    if file:
        _save(file, tokens)
    return tokens
