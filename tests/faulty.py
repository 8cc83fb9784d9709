"""S3 and Google Cloud Storage on loopback that answer single requests with an error, late, or by half."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TIMEOUT, CUT = "timeout", "cut"
PRECONDITION = b"<Error><Code>PreconditionFailed</Code><Message>it does not hold</Message></Error>"
"""As S3-compatible stores answer 412: without saying which condition."""
Answer = tuple[int, dict[str, str], bytes]


class FaultyStore:
    """An HTTP server; `fail` decides what becomes of the next requests."""

    def __init__(self) -> None:
        self.fault: int | str = 0
        self.times = 0.0
        self.seen = 0
        """Requests that were failed."""
        self.released = threading.Event()
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @contextlib.contextmanager
    def fail(self, fault: int | str, times: float = float("inf")) -> Iterator[None]:
        """Within the block the next requests get a status, no answer (TIMEOUT), or the half of one (CUT)."""
        self.fault, self.times, self.seen = fault, times, 0
        self.released.clear()
        try:
            yield
        finally:
            self.times = 0
            self.released.set()

    def next_fault(self) -> int | str:
        with self.lock:
            if not self.times:
                return 0
            self.times, self.seen = self.times - 1, self.seen + 1
            return self.fault

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        raise NotImplementedError

    def error(self, status: int) -> Answer:
        return status, {}, PRECONDITION if status == 412 else b""


class FaultyS3(FaultyStore):
    """Passes requests on to a real S3 server on loopback."""

    def __init__(self, server: str) -> None:
        super().__init__()
        self.behind = server.removeprefix("http://")

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        connection = http.client.HTTPConnection(self.behind)
        left_out = ("expect", "transfer-encoding", "connection")
        connection.request(method, target, body, {k: v for k, v in headers.items() if k.lower() not in left_out})
        found = connection.getresponse()
        content = found.read()
        kept = {k: v for k, v in found.getheaders() if k.lower() not in ("transfer-encoding", "connection", "date")}
        connection.close()
        return found.status, kept, content


class FakeGoogle(FaultyStore):
    """What gcsfs uses of Google's JSON API, in memory: one bucket, `runs`."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.generations = itertools.count(1)

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        url = urllib.parse.urlsplit(target)
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path.startswith("/upload/"):
            return self._upload(query, body)
        name = urllib.parse.unquote(url.path.split("/o/", 1)[1]) if "/o/" in url.path else ""
        if not name:
            return self._list(query) if url.path.endswith("/o") else _said({"name": "runs", "kind": "storage#bucket"})
        with self.lock:
            if name not in self.objects:
                return 404, {}, b""
            generation, data = self.objects[name]
            if method == "DELETE":
                del self.objects[name]
                return 204, {}, b""
        if query.get("alt") == "media" or url.path.startswith("/download/"):
            return 200, {"Content-Type": "application/octet-stream"}, data
        return _said(self._facts(name, generation, data))

    def _facts(self, name: str, generation: int, data: bytes) -> dict[str, Any]:
        return {"name": name, "bucket": "runs", "size": str(len(data)), "generation": str(generation)}

    def _list(self, query: dict[str, str]) -> Answer:
        prefix, end = query.get("prefix", ""), query.get("delimiter", "")
        with self.lock:
            found = {name: facts for name, facts in sorted(self.objects.items()) if name.startswith(prefix)}
        deeper = {prefix + n[len(prefix) :].split(end)[0] + end for n in found if end and end in n[len(prefix) :]}
        items = [self._facts(n, *f) for n, f in found.items() if not (end and end in n[len(prefix) :])]
        return _said({"items": items, "prefixes": sorted(deeper)})

    def _upload(self, query: dict[str, str], body: bytes) -> Answer:
        _, facts, data = body.split(b"\n--==0==", 2)[0:1] + body.split(b"--==0==")[1:3]
        name = json.loads(facts.split(b"\n\n", 1)[1])["name"]
        content = data.split(b"\n\n", 1)[1].removesuffix(b"\n")
        with self.lock:
            if query.get("ifGenerationMatch") == "0" and name in self.objects:
                return 412, {}, b'{"error": {"code": 412, "message": "conditionNotMet"}}'
            self.objects[name] = (next(self.generations), content)
            return _said(self._facts(name, *self.objects[name]))


def _said(value: dict[str, Any]) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _handler(store: FaultyStore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body are sent apart; else each answer takes 40 ms

        def _serve(self) -> None:
            body, fault = self._body(), store.next_fault()
            if fault == TIMEOUT:
                store.released.wait()
                self.close_connection = True
                return
            if isinstance(fault, int) and fault:
                self._send(*store.error(fault))
                return
            answer = store.answer(self.command, self.path, dict(self.headers), body)
            self._send(*answer, cut=fault == CUT)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _send(self, status: int, headers: dict[str, str], body: bytes, cut: bool = False) -> None:
            """cut: the connection ends within the headers, or within the body where there is one."""
            length = headers.pop("Content-Length", str(len(body)))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": length}.items():
                self.send_header(name, value)
            self.close_connection = self.close_connection or cut
            if cut and (self.command == "HEAD" or not body):
                del self._headers_buffer[1:]
                self.flush_headers()
                return
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if cut else body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

        def log_message(self, *_: Any) -> None: ...

    return Handler
