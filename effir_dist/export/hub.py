"""Uploading an exported folder to a model hub, through huggingface_hub; it also knows the address and the token."""

from __future__ import annotations

from pathlib import Path

from effir_dist.core.errors import InputError


def push(folder: Path, repository: str) -> str:
    """Upload a folder to a model repository, which is made (private) where there is none; returns its address.

    Raises InputError where the hub cannot be reached or refuses; the folder stays as it is.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError  # of httpx, or of httpx2

    api = HfApi()
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Pruned model, by effir_dist")
    except HFValidationError:
        raise InputError(f"--push-to-hub must be NAME or OWNER/NAME, got {repository!r}; {_later(folder)}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = "log in with `hf auth login`" if status in (401, 403) else f"HTTP {status}"
        raise InputError(f"the model hub refuses {repository!r} ({reason}); {_later(folder)}") from None
    except (HTTPError, OSError) as error:
        raise InputError(f"the model hub cannot be reached ({type(error).__name__}); {_later(folder)}") from None
    return str(address)


def _later(folder: Path) -> str:
    return f"the model is complete in {folder}: upload it later with `hf upload REPO {folder}`"
