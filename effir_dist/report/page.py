"""The page as one HTML file with data and scripts inside. It fetches nothing, and nothing in the data can run.

A record may come from anybody. Its texts reach the page as JSON with every `<` escaped, in a script element that is
not executed, and the page's scripts insert them as text. The security policy names the two scripts by their hash: any
other script would not start, and could not send anything.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from functools import cache
from importlib.resources import files
from typing import Any

from effir_dist.core.values import Json

SCRIPTS = ("format.js", "charts.js", "trial.js", "search.js", "table.js", "main.js")


def page_html(data: Json) -> str:
    """The page of `page_data.page_data`."""
    # In a function of its own, so that plotly's names and the page's do not clash.
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
    """JSON that cannot end the script element around it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def plotly() -> str:
    """plotly.js, from plotly's Python package."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


@cache
def _part(name: str) -> str:
    return (files("effir_dist.report") / "page_files" / name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
