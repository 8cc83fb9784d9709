"""The page as one HTML file: data and scripts inside, nothing fetched, nothing in the data able to run.

A record may come from anybody, so its texts reach the page as JSON in a script that is no program, with every `<`
escaped, and the page's own scripts put them in place as text. Its security policy names the two scripts by their hash:
a script that slipped in all the same would not start, and could send nothing anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from functools import cache
from importlib.resources import files
from typing import Any

SCRIPTS = ("format.js", "charts.js", "trial.js", "search.js", "table.js", "main.js")


def page_html(data: dict[str, Any]) -> str:
    """The page of `page_data.page_data`."""
    # Closed functions of their own: plotly's names and the page's do not meet.
    own = "(() => {\n'use strict';\n" + "\n".join(_part(name) for name in SCRIPTS) + "\n})();"
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in (plotly(), own))
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; connect-src "
    policy += "'self'" if data["live"] else "'none'"
    parts = {
        "POLICY": policy,
        "TITLE": html.escape(" and ".join(run["name"] for run in data["runs"])),
        "STYLE": _part("page.css"),
        "DATA": json_in_html(data),
        "PLOTLY": plotly(),
        "SCRIPT": own,
    }
    pieces = _part("page.html").split("@@")
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def json_in_html(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def plotly() -> str:
    """plotly.js, as plotly's Python package brings it."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


@cache
def _part(name: str) -> str:
    return (files("effir_dist.report") / "page_files" / name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
