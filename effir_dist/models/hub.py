"""Models on the hub: their small files first, all that is needed when they are loaded. huggingface_hub keeps both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from effir_dist.core.errors import InputError
from effir_dist.models.sentence_folder import MODULES, SMALL_FILES

ALL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.py")
"""What a model is loaded from, as patterns."""
OTHERS = ("onnx/*", "openvino/*", "original/*", "consolidated*", "*.fp16.*")
"""The same weights again, for other tools."""


def small_files(hub_id: str) -> Path:
    """A folder with the configs of a model, without its weights.

    Raises InputError where there is no such id, and where the hub is out of reach and the cache has nothing.
    """
    folder = _snapshot(hub_id, SMALL_FILES)
    if not (folder / "config.json").is_file() and not (folder / MODULES).is_file():
        raise _not_read(hub_id, "it holds no config.json")
    return folder


def all_files(hub_id: str) -> Path:
    """A folder with all that the model is loaded from. Raises InputError as `small_files`."""
    folder = _snapshot(hub_id, ALL_FILES)
    if not any(folder.glob("**/*.safetensors")):
        raise no_safetensors(hub_id)
    return folder


def some_files(hub_id: str, folders: Sequence[str]) -> Path:
    """A folder with the weights in some folders of the model. Raises InputError as `small_files`."""
    return _snapshot(hub_id, [f"*{Path(folder).name}/*.safetensors" for folder in folders])


def no_safetensors(hub_id: str) -> InputError:
    """That a model cannot be had without pickles."""
    return InputError(
        f"{hub_id} has no *.safetensors weights, on the model hub or in the local cache; pickles are not read, as they "
        "may run code: convert it where you trust it, save it with save_pretrained, and pass --model PATH"
    )


def is_sentence_model(hub_id: str) -> bool:
    """Whether the cache has a modules.json of this id."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(hub_id, MODULES), str)
    except HFValidationError:
        return False


def _snapshot(hub_id: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, HTTPError, LocalEntryNotFoundError

    try:
        with _quiet():
            return Path(snapshot_download(hub_id, allow_patterns=[*patterns], ignore_patterns=[*OTHERS]))
    except HFValidationError:
        raise InputError(f"no folder and no hub id: {hub_id!r}; pass --model a folder with config.json") from None
    except GatedRepoError:
        raise InputError(
            f"{hub_id} on the model hub is for those who accepted its terms: do so on its page, and set HF_TOKEN"
        ) from None
    except (LocalEntryNotFoundError, HTTPError, OSError, ValueError) as error:
        raise _not_read(hub_id, type(error).__name__) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _not_read(hub_id: str, why: str) -> InputError:
    return InputError(
        f"{hub_id} on the model hub could not be read and is not in the local cache ({why}); download it where there "
        "is a network and pass --model PATH"
    )
