"""Every link of the documentation to a file or a heading leads there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import pages


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    wrong = []
    for link in pages.links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            wrong.append(f"{link}: no such file")
        elif anchor and target.suffix == ".md" and anchor not in pages.anchors(target):
            wrong.append(f"{link}: no such heading; there are {', '.join(sorted(pages.anchors(target)))}")
    assert wrong == []


def test_what_links_and_anchors_are(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b`, [c](d.md): e\n## Twice\n## Twice\n[x](y.md#z) [w](https://a.b/c.md) `[no](no.md)`\n"
        "```bash\n# no heading\n[no](no.md)\n```\n"
    )
    assert pages.anchors(page) == {"a-b-c-e", "twice", "twice-1"}
    assert pages.links(page) == ["d.md", "y.md#z"]


def test_every_page_is_in_the_index() -> None:
    index = pages.ROOT / "docs" / "README.md"
    listed = {(index.parent / link.partition("#")[0]).resolve() for link in pages.links(index)}
    assert {page for page in pages.PAGES if page.is_relative_to(index.parent)} - listed == {index}
