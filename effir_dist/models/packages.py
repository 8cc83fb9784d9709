"""Weights inside installed Python packages: a folder as it is, or a file that is unpacked once into the user's cache.

`package:MODULE/PATH` in a backbone's row says where they are. `{1..5}` in it counts the pieces of one file, each in a
package of its own. A `.gguf` is dequantised, and a `.zip` in pieces unpacked.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from effir_dist.core.errors import InputError
from effir_dist.core.mapped import cache_root, made_once
from effir_dist.models.families.base import Backbone
from effir_dist.models.quiet import quiet_transformers

PREFIX = "package:"
FORMAT = 1
"""Raised whenever the same packages would give other files."""
PIECES = re.compile(r"\{1\.\.(\d+)\}")
SKIPPED = "desktop.ini"
"""What Windows leaves in folders."""


def folder(row: Backbone) -> Path:
    """The checkpoint's folder. A file is unpacked first, once for each version, whole or not at all.

    Raises InputError where a package is missing or damaged, or the cache folder cannot be written.
    """
    places = _places(row.source.removeprefix(PREFIX))
    files = tuple(_installed(row, place) for place in places)
    if files[0].is_dir():
        return files[0]
    known = [(place, _version(place), file.stat().st_size) for place, file in zip(places, files, strict=True)]
    key = hashlib.sha256(repr((FORMAT, known)).encode()).hexdigest()[:12]
    target = cache_root() / "weights" / f"{row.name}-{key}"
    return made_once(target, functools.partial(_unpack, row, files), _whole)


def _places(place: str) -> list[str]:
    """'m_{1..2}/f.{1..2}' -> 'm_1/f.1', 'm_2/f.2'."""
    pieces = PIECES.search(place)
    return [PIECES.sub(str(number + 1), place) for number in range(int(pieces[1]))] if pieces else [place]


def _installed(row: Backbone, place: str) -> Path:
    module, _, inner = place.partition("/")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise _needs(row, module)
    path = Path(next(iter(spec.submodule_search_locations))) / inner
    if not path.exists():
        raise InputError(
            f"backbone {row.name!r} needs {path}, which the installed package lacks; install it again: {row.install}"
        )
    return path


def _needs(row: Backbone, module: str) -> InputError:
    return InputError(f"backbone {row.name!r} needs the Python package {module.replace('_', '-')}: {row.install}")


def _version(place: str) -> str:
    """Of the package that a place names; empty where no installer has put it there."""
    try:
        return importlib.metadata.version(place.partition("/")[0])
    except importlib.metadata.PackageNotFoundError:
        return ""


def _whole(unpacked: Path) -> Path:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (unpacked / name).stat()
    return unpacked


def _unpack(row: Backbone, files: tuple[Path, ...], target: Path) -> None:
    """Fill the empty folder `target`, down to the disk: after a loss of power too it is whole where it is named."""
    print(f"unpacking {row.name} from its Python package (once)", file=sys.stderr)
    (_from_gguf if files[0].suffix == ".gguf" else _from_zip)(row, files, target)
    for file in filter(Path.is_file, target.rglob("*")):
        with file.open("rb") as written:
            os.fsync(written.fileno())


def _from_gguf(row: Backbone, files: tuple[Path, ...], target: Path) -> None:
    """Save the body, without its LM head, in bfloat16. transformers reads such a file and refuses to save what it
    read, as if it were quantised still: the tensors go into a plain model of the same config."""
    if importlib.util.find_spec("gguf") is None:
        raise _needs(row, "gguf")
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    place, name = str(files[0].parent), files[0].name
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):  # its progress bar heeds no setting
        read = AutoModel.from_pretrained(place, gguf_file=name, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name)
        own = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
        with torch.device("meta"):
            plain = AutoModel.from_config(AutoConfig.for_model(**own))
        plain.load_state_dict(read.state_dict(), assign=True)
        plain.save_pretrained(target)
        tokenizer.model_max_length = own["max_position_embeddings"]
        tokenizer.save_pretrained(target)


def _from_zip(row: Backbone, files: tuple[Path, ...], target: Path) -> None:
    """Put the pieces together, beside `target`, and unpack what is in the archive's one folder."""
    joined = target.with_name("joined.zip")
    with joined.open("wb") as whole:
        for file in files:
            with file.open("rb") as piece:
                shutil.copyfileobj(piece, whole, 2**20)
    with _as_damage(row), zipfile.ZipFile(joined) as archive:
        for info in archive.infolist():
            _extract(archive, info, target)


@contextlib.contextmanager
def _as_damage(row: Backbone) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that: a place before the file's beginning
            raise
        reason = f"the packages of backbone {row.name!r} hold no whole zip ({error})"
        raise InputError(f"{reason}; install them again: {row.install}") from None


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    """Raises InputError for a path that would lie outside of `target`."""
    path = PurePosixPath(info.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in info.filename:
        raise InputError(f"the archive of the package holds {info.filename!r}, which leads out of its folder")
    if info.is_dir() or path.name == SKIPPED:
        return
    file = target.joinpath(*path.parts[1:])
    file.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(info) as source, file.open("wb") as written:
        shutil.copyfileobj(source, written, 2**20)
