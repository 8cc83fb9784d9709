"""What the clients of S3 and Google Cloud Storage raise, told apart: not there, refused, or it may pass."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from enum import Enum
from functools import cache
from pathlib import Path

from effir_dist.core.errors import InputError

PASSING_CODES = {"RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"}
"""S3's names of errors with status 400 after which the same request may go well."""
REFUSED_CODES = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
"""The same, of credentials that are not taken."""


class Fault(Enum):
    """What an error of a bucket means."""

    MISSING = "the bucket answers that there is no such object"
    REFUSED = "the bucket does not let us"
    CONDITION = "a condition of the request does not hold (412)"
    PASSING = "no answer, half an answer, or one that may be another next time"
    ANSWER = "any other answer"


def fault_of(error: Exception) -> Fault | None:
    """What an error that a client raised means; None where it is none of the bucket's."""
    if isinstance(error, InputError):
        return None
    if isinstance(error, FileNotFoundError):
        return Fault.MISSING
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return None  # this machine's disk
    if isinstance(error, _auth_errors()):
        return Fault.PASSING if getattr(error, "retryable", False) else Fault.REFUSED
    status, code = _answer(error)
    if status:
        return _by_status(status, code)
    if isinstance(error, _passing_errors()):
        return Fault.PASSING
    return None


def _by_status(status: int, code: str) -> Fault:
    if code in PASSING_CODES or status in (408, 409, 425, 429) or (status >= 500 and status != 501):
        return Fault.PASSING
    if code in REFUSED_CODES or status in (401, 403):
        return Fault.REFUSED
    return {404: Fault.MISSING, 412: Fault.CONDITION}.get(status, Fault.ANSWER)


def _answer(error: Exception) -> tuple[int, str]:
    """The HTTP status that an error is about, and S3's name of it; 0 where there was no answer."""
    for known in _chain(error) if isinstance(error, OSError) else (error,):
        response = getattr(known, "response", None)
        if isinstance(response, dict):  # botocore's ClientError, which s3fs turns into an OSError
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return int(status), str(response.get("Error", {}).get("Code", ""))
    code = str(getattr(error, "code", ""))  # gcsfs's HttpError
    if code.isdigit():
        return int(code), ""
    if isinstance(error, PermissionError) or str(error).startswith("Forbidden"):  # gcsfs: an OSError with this text
        return 403, ""
    if isinstance(error, FileExistsError):
        return 412, ""
    return (400, "") if isinstance(error, ValueError) and str(error).startswith("Bad Request") else (0, "")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(5):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


@cache
def _auth_errors() -> tuple[type[BaseException], ...]:
    found: list[type[BaseException]] = []
    try:
        from botocore import exceptions

        found += [exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.SSOError]
        found += [exceptions.ProfileNotFound]
    except ImportError:  # only Google's client is installed
        pass
    try:
        from google.auth import exceptions as google

        found += [google.DefaultCredentialsError, google.RefreshError]
    except ImportError:  # only S3's client is installed
        pass
    return tuple(found)


@cache
def _passing_errors() -> tuple[type[BaseException], ...]:
    """Errors without an answer, or with half of one: of the clients that are installed."""
    import aiohttp

    found: list[type[BaseException]] = [aiohttp.ClientError, OSError]
    try:
        from botocore.exceptions import BotoCoreError

        found.append(BotoCoreError)
    except ImportError:  # only Google's client is installed
        pass
    try:
        from gcsfs.retry import ChecksumError, HttpError
        from google.auth.exceptions import GoogleAuthError

        found += [ChecksumError, HttpError, GoogleAuthError]
    except ImportError:  # only S3's client is installed
        pass
    return tuple(found)


def explained(path: Path | str, error: Exception, fault: Fault, tries: int) -> InputError:
    """The sentence for a request to the bucket of `path` that came to nothing."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    if fault is Fault.REFUSED:
        return InputError(f"the bucket of {path} refuses this ({reason}); check credentials and policy")
    if fault is Fault.MISSING:
        return InputError(f"there is no bucket for {path} ({reason}); make it, or check its name")
    if fault is Fault.PASSING:
        return InputError(
            f"cannot reach {path} after {tries} tries ({reason}); check network and credentials, "
            "then run the command again (a search goes on with --resume)"
        )
    status = _answer(error)[0]
    return InputError(f"the bucket of {path} answers with status {status} ({reason}); check its URL and region")
