"""Headless Chromium for the tests of the page, and a page that notes what it should not do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = Path("/usr/bin/chromium")
QUIET = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking")
QUIET = (*QUIET, "disable-component-update", "disable-sync")
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}


@dataclass
class Watched:
    """A page, and what it complained of and asked for since it was opened."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def trial(self) -> str:
        """The heading of the selected trial."""
        return str(self.page.locator("#trial h2").inner_text())

    def column(self, number: int) -> list[str]:
        """What the table of trials shows in a column, row by row."""
        script = "n => [...document.querySelectorAll('#trials tbody tr')].map(row => row.cells[n].textContent)"
        return list(self.page.evaluate(script, number))

    def points(self, trace: int) -> Any:
        """The points of a trace of the front's plot, counting those that have any: others are not drawn."""
        return self.page.locator("#front-chart .scatterlayer .trace").nth(trace).locator("path.point")

    def over(self, point: Any) -> tuple[float, float]:
        """The middle of an element, in pixels of the window."""
        box = point.bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of its own, ended with the block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=[f"--{name}" for name in QUIET])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, address: str, **options: Any) -> Iterator[Watched]:
    """The page at an address, drawn."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    watched = Watched(context.new_page())
    watched.page.on("console", lambda message: watched.complaints.append(f"{message.type}: {message.text}"))
    watched.page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    watched.page.on("dialog", lambda dialog: (watched.complaints.append(dialog.message), dialog.dismiss()))
    watched.page.on("request", lambda request: watched.requests.append(request.url))
    watched.page.goto(address)
    watched.page.wait_for_selector("#trial h2")
    yield watched
    context.close()
