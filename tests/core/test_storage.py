"""Every call of a bucket under errors of the store and of the wire, for S3 and for Google Cloud Storage."""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from effir_dist.core import storage
from effir_dist.core.errors import InputError
from effir_dist.core.files import create_bytes_atomic, write_bytes_atomic
from effir_dist.core.locks import locked
from effir_dist.core.storage import exists, names, place, read_bytes, read_locally, remove, written_locally
from effir_dist.runs.run_folder import Run
from tests.bucket import CREDENTIALS, s3_server
from tests.faulty import CUT, TIMEOUT, FakeGoogle, FaultyS3, FaultyStore
from tests.synthetic import record

STORES = ("s3", "gs")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyS3]:
    import boto3

    with s3_server(tmp_path_factory.mktemp("s3") / "log") as address, pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="runs")
        store = FaultyS3(address)
        yield store
        store.close()


@pytest.fixture(scope="module")
def gs() -> Iterator[FakeGoogle]:
    store = FakeGoogle()
    yield store
    store.close()


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FaultyStore:
    """A store that the clients talk to, and that can be told to fail. Waits are short."""
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # as `place` has it; read when gcsfs is imported
    import gcsfs
    import gcsfs.retry

    found = request.getfixturevalue(request.param)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", found.address)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", found.address)
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(storage, "ATTEMPTS", 3)
    monkeypatch.setattr(storage, "ANSWER_SECONDS", 0.5)
    quick = types.SimpleNamespace(sleep=functools.partial(asyncio.sleep, 0.001))
    monkeypatch.setattr(gcsfs.retry, "asyncio", types.SimpleNamespace(sleep=lambda _: quick.sleep()))
    found.scheme = request.param
    return found


@pytest.fixture(scope="module", autouse=True)
def own_clients() -> Iterator[None]:
    """No client of other tests is met here, nor one of these, with their short waits, afterwards."""
    import gcsfs
    import s3fs

    kinds = s3fs.S3FileSystem, gcsfs.GCSFileSystem
    for kind in kinds:
        kind.clear_instance_cache()
    yield
    for kind in kinds:
        kind.clear_instance_cache()


@pytest.fixture
def folder(store: FaultyStore, tmp_path: Path) -> Path:
    """A folder in the store that holds `a` and `in/b`."""
    found = place(f"{store.scheme}://runs/{tmp_path.name}")
    write_bytes_atomic(found / "a", b"first")
    write_bytes_atomic(found / "in" / "b", b"second")
    return found


def read_folder(path: Path) -> dict[str, bytes]:
    with read_locally(path) as local:
        return {str(p.relative_to(local)): p.read_bytes() for p in local.rglob("*") if p.is_file()}


def write_folder(path: Path) -> None:
    with written_locally(path) as local:
        local.mkdir()
        (local / "c").write_bytes(b"third")


def append(path: Path) -> bytes:
    with written_locally(path, append=True) as local:
        with local.open("ab") as file:
            file.write(b" and more")
    return read_bytes(path)


def lock(path: Path) -> list[str]:
    with locked(path):
        return names(path)


CALLS: dict[str, tuple[Callable[[Path], object], object]] = {
    "exists": (lambda f: exists(f / "a"), True),
    "not there": (lambda f: exists(f / "x"), False),
    "a folder is no file": (lambda f: exists(f / "in"), False),
    "read": (lambda f: read_bytes(f / "a"), b"first"),
    "names": (names, ["a", "in"]),
    "write": (lambda f: (write_bytes_atomic(f / "a", b"new"), read_bytes(f / "a"))[1], b"new"),
    "create": (lambda f: (create_bytes_atomic(f / "x", b"new"), read_bytes(f / "x")), (True, b"new")),
    "create twice": (lambda f: (create_bytes_atomic(f / "a", b"new"), read_bytes(f / "a")), (False, b"first")),
    "remove": (lambda f: (remove(f), names(f))[1], []),
    "read a folder": (read_folder, {"a": b"first", "in/b": b"second"}),
    "write a folder": (lambda f: (write_folder(f / "new"), read_bytes(f / "new" / "c"))[1], b"third"),
    "lock": (lock, ["a", "in", "lock"]),
    "append": (lambda f: append(f / "a"), b"first and more"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_fault_that_passes_changes_nothing(call: str, store: FaultyStore, folder: Path) -> None:
    action, expected = CALLS[call]
    for fault in (500, CUT, TIMEOUT):
        write_bytes_atomic(folder / "a", b"first")
        write_bytes_atomic(folder / "in" / "b", b"second")
        remove(folder / "x")
        remove(folder / "new")
        with store.fail(fault, times=1):
            assert action(folder) == expected, fault
            assert store.seen == 1


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (403, "refuses this .*; check credentials and policy"),
        (412, "answers with status 412"),
        (500, r"cannot reach .* after 3 tries .*network and credentials"),
        (CUT, r"cannot reach .* after 3 tries .*network and credentials"),
    ],
)
def test_a_fault_that_stays_is_said(
    call: str, fault: int | str, message: str, store: FaultyStore, folder: Path
) -> None:
    with store.fail(fault), pytest.raises(InputError, match=message):
        CALLS[call][0](folder)
    if fault != CUT:  # a request has arrived whose answer has not
        assert read_folder(folder) == {"a": b"first", "in/b": b"second"}


@pytest.mark.parametrize(
    ("status", "tries", "message"),
    [
        (400, 1, "answers with status 400"),
        (401, 1, "refuses this"),
        (408, 3, "cannot reach"),
        (429, 3, "cannot reach"),
        (501, 1, "answers with status 501"),
        (503, 3, "cannot reach"),
    ],
)
def test_what_may_pass_is_tried_again(
    status: int, tries: int, message: str, store: FaultyStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(storage.time, "sleep", waits.append)
    with store.fail(status), pytest.raises(InputError, match=message):
        read_bytes(folder / "a")
    assert waits == [0.001, 0.002][: tries - 1]


@pytest.mark.parametrize("call", CALLS)
def test_a_bucket_that_is_not_there(call: str, store: FaultyStore, folder: Path) -> None:
    absent = {"exists": False, "not there": False, "a folder is no file": False, "names": [], "remove": []}
    with store.fail(404):
        if call in absent:
            assert CALLS[call][0](folder) == absent[call]
        elif call.startswith("read"):
            with pytest.raises(FileNotFoundError):
                CALLS[call][0](folder)
        else:
            with pytest.raises(InputError, match=r"there is no bucket for .*make it, or check its name"):
                CALLS[call][0](folder)


def test_a_store_that_never_answers(store: FaultyStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "ATTEMPTS", 1)
    with store.fail(TIMEOUT), pytest.raises(InputError, match="cannot reach"):
        read_bytes(folder / "a")


def test_a_complete_record_is_not_replaced_by_a_failed_one(store: FaultyStore, tmp_path: Path) -> None:
    """The driver looks for the record, the wire fails, and what it takes for a failure it notes."""
    run = Run.create(f"{store.scheme}://runs/{tmp_path.name}", {})
    run.write_result(record(0, 0.66))
    for fault in (500, 403, 400, CUT):
        with store.fail(fault):
            with pytest.raises(InputError):
                run.finished("0000")
            with pytest.raises(InputError):
                run.rungs("0000")
    for times in range(1, 3):
        with store.fail(CUT, times):
            assert run.write_result(record(0, 0.1)).values["ndcg_at_10"] == 0.66


def test_the_half_of_our_own_first_try_is_made_whole(folder: Path) -> None:
    """As a store that is not atomic keeps it of a request that was cut off."""
    write_bytes_atomic(folder / "x", b"ne")
    assert create_bytes_atomic(folder / "x", b"new")
    assert read_bytes(folder / "x") == b"new"


def test_who_is_not_logged_in_is_told_so(store: FaultyStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import NoCredentialsError
    from google.auth.exceptions import DefaultCredentialsError, RefreshError

    for error in (NoCredentialsError(), DefaultCredentialsError("none found"), RefreshError("expired")):

        def fail(error: Exception = error) -> None:
            raise error

        with pytest.raises(InputError, match="check credentials"):
            storage.patiently(folder, fail)


def test_google_credentials_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import gcsfs
    from google.auth.exceptions import DefaultCredentialsError

    def connect(*_: object, **__: object) -> None:
        raise DefaultCredentialsError("File key.json was not found.")

    gcsfs.GCSFileSystem.clear_instance_cache()
    monkeypatch.setattr(gcsfs.core.GoogleCredentials, "connect", connect)
    with pytest.raises(InputError, match=r"gs://runs/demo refuses this .*key.json was not found.*check credentials"):
        place("gs://runs/demo")


def test_a_mistake_of_ours_is_no_fault_of_the_bucket(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        storage.patiently(folder, lambda: 1 / 0)
