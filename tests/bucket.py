"""A real S3 server on loopback, and a wire to it that can be made bad."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

S3_PROGRAM = Path(__file__).with_name("whole_s3.py")
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def s3_server(log: Path, **environment: str) -> Iterator[str]:
    """moto's server (of S3 and of all else that AWS has) in a process of its own; yields its address."""
    port = free_port()
    command = [sys.executable, str(S3_PROGRAM), "-H", "127.0.0.1", "-p", str(port)]
    known = {**os.environ, **CREDENTIALS, **environment}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=known)
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
    try:
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/moto-api/", timeout=5).close()
                break
            time.sleep(0.1)
        yield address
    finally:
        process.kill()
        process.wait()


class BadWire:
    """Passes bytes on to a server on loopback, except for connections that it refuses, delays or cuts off.

    What comes back of a cut connection ends after some bytes; what was sent has arrived by then, or half of it.
    """

    def __init__(self, server: str, share: float, seed: int = 0) -> None:
        self.port = int(server.rsplit(":", 1)[1])
        self.share, self.rng = share, random.Random(seed)
        self.faults: dict[str, int] = {"refused": 0, "slow": 0, "cut answer": 0, "cut request": 0}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        """No more connections."""
        self.listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                fault = self.rng.choice(list(self.faults)) if self.rng.random() < self.share else ""
                if fault:
                    self.faults[fault] += 1
                threading.Thread(target=self._serve, args=(client, fault), daemon=True).start()

    def _serve(self, client: socket.socket, fault: str) -> None:
        if fault == "refused":
            client.close()
            return
        if fault == "slow":
            time.sleep(1.0)
        server = socket.create_connection(("127.0.0.1", self.port))
        limits = {"cut answer": (None, 60), "cut request": (300, None)}.get(fault, (None, None))
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else parts of a request wait 40 ms for others
        for source, target, limit in ((client, server, limits[0]), (server, client, limits[1])):
            threading.Thread(target=self._pump, args=(source, target, limit), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        sent = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                part = data if limit is None else data[: limit - sent]
                target.sendall(part)
                sent += len(part)
                if limit is not None and sent >= limit:
                    break
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
