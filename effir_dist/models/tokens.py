"""Texts as ragged arrays of token ids, in memory maps by content hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effir_dist.core.errors import InputError
from effir_dist.core.kept import Kept
from effir_dist.core.mapped import made_once, mapped, write_arrays
from effir_dist.core.strings import Strings

BATCH = 1024
MOST_KEPT = 8


@dataclass(frozen=True)
class Tokens:
    """Token ids of N texts, one after the other."""

    ids: NDArray[np.int32]
    """[total]"""
    offsets: NDArray[np.int64]
    """[N + 1]; text i is ids[offsets[i]:offsets[i + 1]]"""
    prompt: int = 0
    """How many tokens each text begins with that pooling leaves out."""

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


def _ragged(rows: Sequence[Sequence[int]]) -> Tokens:
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    ids = np.fromiter((i for row in rows for i in row), dtype=np.int32, count=int(offsets[-1]))
    return Tokens(ids, offsets)


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
    if isinstance(texts, Strings):
        digest.update(texts.digest.encode())
        return digest.hexdigest()[:32]
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()[:32]


def tokenize(
    tokenizer: Any, texts: Sequence[str], prompt: str, max_length: int, append_eos: bool, cache: Path | None
) -> Tokens:
    """Ids of `prompt` + text for each of `texts`, cut to `max_length`, with the tokenizer's own special tokens.

    `append_eos` makes `eos_token_id` the last one, within `max_length`. `cache` is a folder, or None to keep nothing;
    with one, tokens are in memory maps, which the processes of a machine share, and the same list of texts is neither
    read nor hashed again by this process.
    Raises InputError where `append_eos` asks for a token that the tokenizer lacks, or the cache cannot be written.
    """
    eos = tokenizer.eos_token_id if append_eos else None
    if append_eos and eos is None:
        raise InputError("the tokenizer has no end-of-text token to pool; set model.pooling to mean or cls")

    def parts() -> Iterator[Tokens]:
        batches = (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
        return (_encode(tokenizer, [prompt + t for t in batch], max_length, eos) for batch in batches)

    if cache is None:
        return _concatenate([*parts()])

    def shared() -> Tokens:
        folder = cache / f"tokens-{_key(tokenizer, texts, prompt, max_length, eos)}"
        return made_once(folder, lambda empty: _write(empty, parts()), _open)

    key = (tokenizer_identity(tokenizer), tokenizer.truncation_side, prompt, max_length, eos, len(texts), cache)
    return _kept.get(texts, key, shared)


_kept: Kept[Tokens] = Kept(MOST_KEPT)


def prompt_tokens(tokenizer: Any, prompt: str, max_length: int) -> int:
    """Tokens of a prompt as sentence-transformers counts them where pooling leaves it out: special tokens before it are
    of it, one behind it is not. 0 where there is no prompt."""
    if not prompt:
        return 0
    ids = _encode(tokenizer, [prompt], max_length, None)[0]
    return len(ids) - (len(ids) > 0 and int(ids[-1]) in tokenizer.all_special_ids)


def _concatenate(parts: Sequence[Tokens]) -> Tokens:
    if not parts:
        return _ragged([])
    return Tokens(np.concatenate([part.ids for part in parts]), _offsets([part.lengths for part in parts]))


def _offsets(lengths: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([[0], *lengths]).cumsum(dtype=np.int64)


def _write(folder: Path, parts: Iterable[Tokens]) -> None:
    """Write tokens for `_open`, a part at a time: 8 bytes a text are in memory."""
    lengths: list[NDArray[np.int64]] = []

    def ids() -> Iterator[NDArray[np.int32]]:
        for part in parts:
            lengths.append(part.lengths)
            yield part.ids

    write_arrays(folder / "ids", ids(), np.int32)
    write_arrays(folder / "offsets", [_offsets(lengths)], np.int64)


def _open(folder: Path) -> Tokens:
    """Raises OSError or ValueError where the files are missing or damaged."""
    tokens = Tokens(mapped(folder / "ids", np.int32), mapped(folder / "offsets", np.int64))
    if not len(tokens.offsets) or tokens.offsets[-1] != len(tokens.ids):
        raise ValueError(f"{folder} is damaged")
    return tokens
