"""Checks of a model, in a process of their own beside the checks of the data: they need torch, the driver does not."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from effir_dist.core.errors import InputError
from effir_dist.core.files import write_text_atomic
from effir_dist.core.mapped import cache_errors, cache_root
from effir_dist.models.pretrained import Source

Waiting = Callable[[], list[str]]
"""Waits for a check's warnings."""


def weights_warnings(source: Source, _texts: Sequence[str] = ()) -> list[str]:
    """As `weights.check_weights`."""
    from effir_dist.models.weights import check_weights

    return check_weights(source)


def tokenizer_warnings(source: Source, texts: Sequence[str]) -> list[str]:
    """As `vocabulary.check_size` and `check_texts`."""
    from effir_dist.models import pretrained, vocabulary

    if source.declared and source.declared.transformer:
        source = pretrained.local(source)  # its tokenizer is in a folder of its own
    tokenizer = pretrained.load_tokenizer(source.location)
    vocabulary.check_size(tokenizer, source.config, source.location)
    return vocabulary.check_texts(tokenizer, source.config, source.location, texts)


class ModelChecks:
    """The checks of models, which begin with their weights. What passed is noted in the cache, by the files' times."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._pool: ProcessPoolExecutor | None = None
        self._weights = [self._begin(weights_warnings, source) for source in sources]

    def warnings(self, texts: Sequence[str]) -> list[str]:
        """Of the weights, and of the tokenizers on texts of the run. Raises InputError as the checks do."""
        found = [warning for wait in self._weights for warning in wait()]
        tokenizers = [self._begin(tokenizer_warnings, source, texts) for source in self._sources]
        return [*dict.fromkeys([*found, *(warning for wait in tokenizers for warning in wait())])]

    def end(self) -> None:
        """Give the process back."""
        if self._pool:
            self._pool.shutdown()

    def _begin(self, function: Callable[..., list[str]], source: Source, texts: Sequence[str] = ()) -> Waiting:
        note = cache_root() / "checked" / _key(function.__name__, source, texts)
        if Path(source.location).is_dir() and note.is_file():
            return lambda: [*json.loads(note.read_text())]
        begun = self._submit(function, source, texts)

        def wait() -> list[str]:
            found = begun()
            with cache_errors(note):
                write_text_atomic(note, json.dumps(found))
            return found

        return wait

    def _submit(self, function: Callable[..., list[str]], source: Source, texts: Sequence[str]) -> Waiting:
        if has_torch():
            return lambda: function(source, texts)
        self._pool = self._pool or ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        future = self._pool.submit(function, source, texts)

        def result() -> list[str]:
            try:
                return future.result()
            except BrokenProcessPool:
                raise InputError(f"what looked at {source.location} was killed: is memory short?") from None

        return result


def has_torch() -> bool:
    """Whether torch is in this process already, so that another one would gain nothing."""
    return "torch" in sys.modules


def _key(what: str, source: Source, texts: Sequence[str]) -> str:
    """Of all that a check's result depends on, as far as that is on this machine."""
    folder, dense = Path(source.location), source.declared.dense_folders if source.declared else ()
    files = [file for place in ("", *dense) for file in sorted((folder / place).glob("*"))]
    known = [(os.path.relpath(file, folder), file.stat()) for file in files]
    stats = [(name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in known]
    versions = [importlib.metadata.version(name) for name in ("effir_dist", "transformers")]
    model = [source.location, source.config, repr(source.declared)]
    whole = json.dumps([what, model, stats, versions, list(texts)], default=str)
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@contextlib.contextmanager
def checks_of(sources: Sequence[Source]) -> Iterator[ModelChecks]:
    """Begun at once. An error within the block ends their process, so that it is said at once."""
    before = set(multiprocessing.active_children())
    checks = ModelChecks(sources)
    try:
        yield checks
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.kill()
        raise
    finally:
        checks.end()
