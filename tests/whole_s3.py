"""moto's server that, as S3 does, refuses a write of which only a part arrived: moto itself stores that part.

Run as a program with moto's options. Without this, a write that lost its connection and was tried again could be undone
by its own first try, where the server comes to that one late.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from moto import server


class WholeRequests(server.DomainDispatcherApplication):
    """moto's application behind a look at the length of the body, which the last headers say."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("PUT", "POST") and "HTTP_TRANSFER_ENCODING" not in environ:
            length = environ.get("CONTENT_LENGTH")
            body = environ["wsgi.input"].read(int(length or 0))
            if not length or len(body) < int(length):
                start_response("400 Bad Request", [("Content-Length", "0")])
                return []
            environ["wsgi.input"] = io.BytesIO(body)
        return super().__call__(environ, start_response)


if __name__ == "__main__":
    server.DomainDispatcherApplication = WholeRequests  # type: ignore[misc]
    server.main()
