"""A Hugging Face hub on loopback, for the real huggingface_hub: model and data set repositories out of a folder.

FOLDER/models/ORG/NAME and FOLDER/datasets/ORG/NAME are repositories; any other file is served by its path.

    hub = Hub(folder)
    hub.add(checkpoint, "org/name")                      # a copy of a folder becomes a repository
    hub.used_in(monkeypatch, tmp_path / "cache")         # by this process
    run(..., env={**os.environ, **hub.environment(tmp_path / "cache")})     # by another one
    hub.cut("model.safetensors", times=1)                # the next answer ends half way
    hub.gated.add("org/name")
    hub.offline(monkeypatch)                             # from here on nothing answers
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

BRANCH = "main"
LARGE = (".safetensors", ".bin", ".parquet", ".gz", ".zip")
"""Files that the hub keeps in git-lfs: their ETag is a sha256."""
_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+))?/?")
_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Answer:
    """What is sent back. cut: the connection ends half way; held: half way the rest waits for `Hub.released`."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: bool = False
    held: bool = False


class Hub:
    """The server. Its repositories may change while it runs; each state has its own commit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gated: set[str] = set()
        """Ids whose files need an access token that nobody has."""
        self.commits: dict[str, str] = {}
        """Id -> the commit that it says it is at, instead of a hash of its files."""
        self.requests: list[tuple[str, str]] = []
        """Method and path of each request."""
        self.ranges: list[str] = []
        """What part of a file each GET asked for; "" for all of it."""
        self.half_sent, self.released = threading.Event(), threading.Event()
        self._cuts, self._held, self._lock = Counter[str](), "", threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def add(self, source: Path, name: str, kind: str = "models") -> Path:
        """Copy a folder into the hub under an id; returns its repository's folder. kind: models or datasets."""
        return Path(shutil.copytree(source, self.folder / kind / name, dirs_exist_ok=True))

    def cut(self, name: str, times: int) -> None:
        """The next `times` answers with a file of this name end half way."""
        self._cuts[name] += times

    @contextlib.contextmanager
    def holding(self, name: str) -> Iterator[None]:
        """Within the block a file of this name is sent by half (`half_sent` tells when), and the rest after it."""
        self.half_sent.clear()
        self.released.clear()
        self._held = name
        try:
            yield
        finally:
            self._held = ""
            self.released.set()

    def environment(self, cache: Path) -> dict[str, str]:
        """Variables with which another process uses this hub, and keeps what it gets in `cache`."""
        own = {"HF_ENDPOINT": self.address, "HF_HOME": str(cache), "HF_HUB_CACHE": str(cache / "hub")}
        apart = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": ""}
        return {**own, **apart, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    def used_in(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """This process uses the hub, whose constants it may have read already."""
        from huggingface_hub import constants

        for name, value in self.environment(cache).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", self.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{self.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`close`, and this process knows: huggingface_hub would try for 23 s."""
        from huggingface_hub import constants

        self.close()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def close(self) -> None:
        """Refuse connections from here on."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """What a request gets."""
        url = urllib.parse.urlsplit(target)
        path = urllib.parse.unquote(url.path)
        with self._lock:
            self.requests.append((method, path))
            self.ranges += [headers.get("Range", "")] if method == "GET" else []
        if found := _API.fullmatch(path):
            kind, name, what, revision = found.groups()
            wanted = urllib.parse.parse_qs(body.decode()).get("paths", [])
            return self._repository(kind, name, revision) or self._facts(kind, name, what or "revision", wanted)
        if found := _RESOLVE.fullmatch(path):
            kind, name, revision, file = found.groups()
            kind = "datasets" if kind else "models"
            return self._repository(kind, name, revision, files=True) or self._file(kind, name, file, headers)
        return self._sent(self.folder / path.lstrip("/"), {}, headers) or Answer(404)

    def _repository(self, kind: str, name: str, revision: str | None, files: bool = False) -> Answer | None:
        """An error for what is not to be had, else None."""
        folder = self.folder / kind / name
        if not folder.is_dir():
            return Answer(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."})
        if name in self.gated and files:
            return Answer(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to {name} is restricted."})
        if revision not in (None, BRANCH, self._commit(name, folder)):
            return Answer(404, {"X-Error-Code": "RevisionNotFound"})
        return None

    def _commit(self, name: str, folder: Path) -> str:
        found = repr([_entry(folder, file) for file in _files(folder)]).encode()
        return self.commits.get(name) or hashlib.sha1(found).hexdigest()

    def _facts(self, kind: str, name: str, what: str, wanted: list[str]) -> Answer:
        folder = self.folder / kind / name
        entries = [_entry(folder, file) for file in _files(folder)]
        if what == "paths-info":
            return _json([entry for entry in entries if entry["path"] in wanted])
        if what == "tree":
            return _json(entries)
        siblings = [{"rfilename": entry["path"]} for entry in entries]
        gated = "manual" if name in self.gated else False
        commit = self._commit(name, folder)
        facts = {"_id": "0", "id": name, "sha": commit, "private": False, "gated": gated, "disabled": False}
        return _json({**facts, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings})

    def _file(self, kind: str, name: str, file: str, headers: dict[str, str]) -> Answer:
        folder = self.folder / kind / name
        commit = {"X-Repo-Commit": self._commit(name, folder)}
        if not (folder / file).is_file():
            return Answer(404, {**commit, "X-Error-Code": "EntryNotFound"})
        entry = _entry(folder, folder / file)
        etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        found = self._sent(folder / file, {**commit, "ETag": f'"{etag}"'}, headers)
        assert found
        return found

    def _sent(self, path: Path, own: dict[str, str], headers: dict[str, str]) -> Answer | None:
        """A file, or the rest of it from where a Range asks; None where there is none."""
        if not path.is_file():
            return None
        data, own = path.read_bytes(), {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **own}
        wanted = re.fullmatch(r"bytes=(\d+)-", next((v for k, v in headers.items() if k.lower() == "range"), ""))
        start = int(wanted[1]) if wanted else 0
        if wanted and start >= len(data):
            return Answer(416, {"Content-Range": f"bytes */{len(data)}"})
        if wanted:
            own["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return Answer(206 if wanted else 200, own, data[start:], held=self._held == path.name)

    def is_cut(self, path: str) -> bool:
        """Whether this answer with a file ends half way; it is then counted."""
        name = path.split("?")[0].rsplit("/", 1)[-1]
        with self._lock:
            if self._cuts[name]:
                self._cuts[name] -= 1
                return True
            return False


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _entry(folder: Path, file: Path) -> dict[str, Any]:
    """A file as the hub lists it; `oid` is git's."""
    data = file.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry = {"type": "file", "oid": blob, "size": len(data), "path": file.relative_to(folder).as_posix()}
    if file.suffix in LARGE:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


def _json(value: object) -> Answer:
    return Answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = hub.answer(self.command, self.path, dict(self.headers), body)
            answer.cut = self.command == "GET" and answer.status in (200, 206) and hub.is_cut(self.path)
            with contextlib.suppress(ConnectionError):  # who asked may have been killed
                self._send(answer)

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            # Each connection ends with its answer: a hub that is closed answers nobody.
            own = {"Content-Length": str(len(answer.body)), "Connection": "close"}
            for name, value in {**answer.headers, **own}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            half = len(answer.body) // 2
            self.wfile.write(answer.body[:half])
            if answer.cut:
                return
            if answer.held:
                hub.half_sent.set()
                hub.released.wait()
            self.wfile.write(answer.body[half:])

        do_GET = do_HEAD = do_POST = _serve

        def log_message(self, *_: Any) -> None: ...

    return Handler


@contextlib.contextmanager
def hub_of(folder: Path) -> Iterator[Hub]:
    """A hub for the time of the block."""
    hub = Hub(folder)
    try:
        yield hub
    finally:
        hub.close()
