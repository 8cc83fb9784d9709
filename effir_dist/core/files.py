"""Atomic writes of files, and reading of JSON records, with errors that say what to do."""

from __future__ import annotations

import datetime
import errno
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from effir_dist.core.errors import InputError
from effir_dist.core.storage import create_object, is_remote, read_bytes, write_object
from effir_dist.core.values import Json

SCHEMA = 1
TEMPORARY = ".partial-"
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What a file system without hard links answers."""
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)
"""What one without locks answers."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise InputError where the disk is full or `path` may not be written; other errors pass through."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"no space left on {path.parent} while writing {path.name}; "
                f"free some and run the command again (a search goes on with --resume {_run_of(path)})"
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(f"cannot write {path}: {error.strerror}") from None
        raise


def _run_of(path: Path) -> Path | str:
    return next((p for p in path.parents if (p / "config.yaml").exists()), "runs/NAME")


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically: all of it is there, or nothing. Missing folders are made.

    Raises InputError when the disk is full, the folder may not be written or the bucket cannot be reached.
    """
    if is_remote(path):
        write_object(path, data)
        return
    with _whole(path, data) as temporary:
        os.replace(temporary, path)


def create_bytes_atomic(path: Path, data: bytes) -> bool:
    """`write_bytes_atomic` where there is no file yet. False where there is one: it stays, whoever wrote it when."""
    if is_remote(path):
        return create_object(path, data)
    with _whole(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if path.exists():
                return False
            os.replace(temporary, path)
    return True


def free_space(folder: Path) -> tuple[Path, int]:
    """Of a folder on a disk, which need not be there yet: it, or its nearest parent that is, and the bytes free."""
    existing = next(parent for parent in [folder, *folder.resolve().parents] if parent.is_dir())
    return existing, shutil.disk_usage(existing).free


@contextmanager
def _whole(path: Path, data: bytes) -> Iterator[Path]:
    """A file beside `path` with all of `data`, for the block to give it its name."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)
        # Without this a machine that loses power may lose the name, and with it a finished trial.
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def write_text_atomic(path: Path, text: str) -> None:
    """`write_bytes_atomic` for text, as UTF-8."""
    write_bytes_atomic(path, text.encode())


def write_json_atomic(path: Path, value: Any) -> None:
    """`write_bytes_atomic` for JSON. NaN and infinities become null, and numpy's numbers plain ones."""
    write_bytes_atomic(path, _json(value))


def create_json_atomic(path: Path, value: Any) -> bool:
    """`create_bytes_atomic` for JSON, as `write_json_atomic`."""
    return create_bytes_atomic(path, _json(value))


def _json(value: Any) -> bytes:
    return (json.dumps(plain(value), indent=1, allow_nan=False) + "\n").encode()


def plain(value: Any) -> Any:
    """`value` as JSON has it: numpy's arrays and numbers, tuples and paths become lists, numbers and text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def read_json(path: Path) -> Json:
    """The JSON object in `path`. Raises InputError where there is none, or it is of a newer version."""
    try:
        record = json.loads(read_bytes(path))
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise InputError(f"{path} is not a record (no JSON object); remove it, and --resume starts its trial over")
    if record.get("schema", SCHEMA) not in range(SCHEMA + 1):
        newer = f"schema {record['schema']}, this one reads up to {SCHEMA}"
        raise InputError(f"{path} was written by a newer version of effir_dist ({newer}); update effir_dist")
    return record


def now() -> str:
    """The time now in ISO format, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
