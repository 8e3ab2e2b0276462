"""The site: its pages' links lead somewhere, and no page loads anything from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs import make_site as site
from tests.conftest import TESTS


def test_every_link_of_the_documents_leads_to_something_the_site_has() -> None:
    assert {f"docs/{page.name}" for page in (TESTS.parent / "docs").glob("*.md")} <= set(site.PAGES)
    pages = {site.page_of(path) for path in site.PAGES}
    assert len(pages) == len(site.PAGES)
    readme = site.page_text("README.md")
    assert "](tutorial.md)" in readme
    assert "](docs/" not in readme
    for path in site.PAGES:
        site.page_text(path)
    with pytest.raises(SystemExit, match=r"README.md: the link to docs/nothing.md leads to nothing"):
        site.target("README.md", "docs/nothing.md")


def test_a_public_trace_is_shown_with_its_source_and_licence() -> None:
    known = site.licence_of_traces()
    for shown in site.GALLERY:
        assert (site.TRACES / shown.file).exists()
        assert "github.com/" in known[shown.file]
        assert "(MIT, ©" in known[shown.file]


def test_a_link_to_a_page_or_a_place_that_is_not_there_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.html").write_text('<h1 id="here">a</h1>')
    whole = '<a href="there.html#here">x</a><a href="#own" id="own">y</a><a href="https://pypi.org">z</a>'
    (tmp_path / "index.html").write_text(whole)
    assert site.dead_links(tmp_path) == []
    (tmp_path / "index.html").write_text(
        f'{whole}<a href="there.html#else">x</a><a href="gone.html">y</a><img src="gone.png">'
    )
    assert site.dead_links(tmp_path) == [
        "index.html: there.html#else names no place there",
        "index.html: gone.html is not there",
        "index.html: gone.png is not there",
    ]


def test_what_a_page_or_a_style_sheet_loads_from_elsewhere_is_found(tmp_path: Path) -> None:
    page, sheet = tmp_path / "index.html", tmp_path / "main.css"
    page.write_text('<link rel="canonical" href="https://a.org/"><script src="own.js"></script>')
    sheet.write_text('a { background: url("data:image/svg+xml;x") }')
    assert site.loaded_from_elsewhere(tmp_path) == []
    page.write_text('<script src="https://a.org/x.js"></script><link rel="stylesheet" href="//b.org/y.css">')
    sheet.write_text('@import "https://c.org/z.css"; @font-face { src: url(https://d.org/f.woff2) }')
    assert [line.rpartition(" ")[2] for line in site.loaded_from_elsewhere(tmp_path)] == [
        "https://a.org/x.js", "//b.org/y.css", "https://c.org/z.css", "https://d.org/f.woff2",
    ]  # fmt: skip
