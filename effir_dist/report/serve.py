"""The page of running searches on 127.0.0.1: `python -m effir_dist.report runs/NAME --serve`."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from effir_dist.core.errors import InputError
from effir_dist.core.storage import is_remote, names
from effir_dist.core.values import Json
from effir_dist.report.compare import load
from effir_dist.report.page import page_html
from effir_dist.report.page_data import page_data
from effir_dist.runs.run_folder import Run

HOST = "127.0.0.1"
DISK_SECONDS, BUCKET_SECONDS = 1.0, 60.0
"""The least time between two readings of the runs: in a bucket each takes a request a trial."""


class Pages:
    """The page's data, computed again when a run has changed. Safe to call from any thread."""

    def __init__(self, runs: list[Run]) -> None:
        self.runs = runs
        self._lock = threading.Lock()
        self._data: Json = {}
        self._pause = BUCKET_SECONDS if any(is_remote(run.folder) for run in runs) else DISK_SECONDS
        self._next_look = 0.0

    def data(self) -> Json:
        """`page_data`, and under `stamp` a name for this state of the runs. Raises InputError as `load`."""
        with self._lock:
            if time.monotonic() >= self._next_look:
                stamp = _stamp(self.runs)
                if self._data.get("stamp") != stamp:
                    self._data = {**page_data(load(self.runs), live=True), "stamp": stamp}
                self._next_look = time.monotonic() + self._pause
            return self._data


def _stamp(runs: list[Run]) -> str:
    """Changes when a trial starts, ends or is scored on test: a record that is written never changes."""
    seen = [(run.location, trial, names(run.trial_folder(trial))) for run in runs for trial in run.trials()]
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]


def make_server(runs: list[Run], port: int) -> ThreadingHTTPServer:
    """A server of the page that does not serve yet; port 0 takes a free one.

    Raises InputError where the port is taken.
    """
    pages = Pages(runs)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, pages)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Silent: the page asks every few seconds."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot serve on {HOST}:{port} ({error}); choose another --port") from None


def _answer(request: BaseHTTPRequestHandler, pages: Pages) -> None:
    # Another site may resolve its own name to 127.0.0.1; the browser then asks here under that name.
    if request.headers.get("Host", "").rsplit(":", 1)[0] not in (HOST, "localhost"):
        _send(request, HTTPStatus.FORBIDDEN, "text/plain", "use the address 127.0.0.1")
        return
    address = urlsplit(request.path)
    try:
        if address.path == "/":
            _send(request, HTTPStatus.OK, "text/html", page_html(pages.data()))
        elif address.path == "/data.json":
            data = pages.data()
            if data["stamp"] in parse_qs(address.query).get("known", []):
                _send(request, HTTPStatus.NO_CONTENT, "application/json", "")
            else:
                _send(request, HTTPStatus.OK, "application/json", json.dumps(data, allow_nan=False))
        else:
            _send(request, HTTPStatus.NOT_FOUND, "text/plain", "known: / and /data.json")
    except InputError as error:
        _send(request, HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", f"{error}")


def _send(request: BaseHTTPRequestHandler, status: HTTPStatus, kind: str, text: str) -> None:
    body = text.encode()
    request.send_response(status)
    request.send_header("Content-Type", f"{kind}; charset=utf-8")
    request.send_header("Content-Length", str(len(body)))
    request.send_header("Cache-Control", "no-store")
    request.send_header("X-Content-Type-Options", "nosniff")
    request.end_headers()
    request.wfile.write(body)


def serve(runs: list[Run], port: int) -> None:
    """Serve the page until interrupted. Raises InputError where the port is taken or a record is not as written."""
    with make_server(runs, port) as server:
        print(f"http://{HOST}:{server.server_address[1]}/ (Ctrl-C ends it)", flush=True)
        server.serve_forever()
