"""The site of the manual is built without a warning, its links lead somewhere, and it has all that the code has."""

import argparse
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from diagrams import PATHS, draw_layers, draw_paths, read_layers
from generated import list_commands, list_keys, list_routes
from list_versions import list_versions
from manual import DOCS, PAGES, name_of


class _Page(HTMLParser):
    """The links and the anchors of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.anchors |= {name for name in (values.get("id"), values.get("name")) if name}
        self.links += [link for link in (values.get("href"), values.get("src")) if link]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        """The text, with single spaces."""
        return " ".join("".join(self.words).split())


def read(site: Path, page: str) -> _Page:
    """A page of the site."""
    return _Page((site / "scripts/docs" / f"{page}.html").read_text(encoding="utf-8"))


@pytest.mark.long
def test_each_link_within_the_site_leads_to_a_page_and_to_a_heading_of_it(site: Path) -> None:
    pages = {
        file: _Page(file.read_text(encoding="utf-8")) for file in site.rglob("*.html") if "_static" not in str(file)
    }
    broken = []
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            known = pages[target].anchors if target in pages else set()
            if not target.exists() or (parts.fragment and target in pages and unquote(parts.fragment) not in known):
                broken.append((file.relative_to(site).as_posix(), link))
    assert len(pages) > 45 and not broken


@pytest.mark.long
def test_each_page_is_on_the_site_and_nothing_else_is(site: Path) -> None:
    written = {file.relative_to(site).with_suffix("").as_posix() for file in site.rglob("*.html")}
    pages = {name_of(page).removesuffix(".md") for page in PAGES} - {"README"}
    assert pages <= written
    assert {name.split("/")[0] for name in written} <= {
        *("scripts", "recipes", "SECURITY", "CHANGELOG", "CONTRIBUTING"),
        *("index", "search", "genindex", "py-modindex", "_static"),
    }


def test_each_command_and_each_option_is_described(site: Path) -> None:
    text = read(site, "reference/commands").text
    commands = list(list_commands())
    assert len(commands) > 25
    for command in commands:
        assert f"$ {command.prog} --help" in text
        for action in command._actions:
            assert action.help == argparse.SUPPRESS or all(option in text for option in action.option_strings)


def test_each_recipe_key_is_described_with_its_meaning(site: Path) -> None:
    text = read(site, "reference/recipe_keys").text
    number = 0
    for _, _, fields in list_keys():
        for key, field in fields.items():
            number += 1
            assert field.description and field.description.strip().endswith((".", "denoise.")), key
            assert key in text, key
    assert number > 90


def test_each_route_of_the_service_is_described(site: Path) -> None:
    text = read(site, "reference/http").text
    routes = list(list_routes())
    assert len(routes) > 12
    assert all(f"{method} {path}" in text for method, path, _ in routes)
    assert "WS /v1/realtime" in text


def test_the_site_can_be_searched(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert '"plateau"' in index or "plateau:" in index


def test_the_diagrams_have_every_package() -> None:
    layers = draw_layers()
    names = {name for layer in read_layers() for name in layer}
    assert names == set(re.findall(r'<text x="[^"]*" y="[^"]*">(\w+)</text>', layers))
    assert {name for stations in PATHS.values() for name, _ in stations} <= names
    assert "\n\n" not in draw_paths() and draw_paths().count("<rect") == sum(map(len, PATHS.values()))


def test_versions_are_listed_for_the_switch(site: Path, tmp_path: Path) -> None:
    for name in ("0.1.0", "0.10.0", "0.9.1", "main"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.html").write_text("")
    (tmp_path / "other").mkdir()
    assert list_versions(tmp_path) == ["0.10.0", "0.9.1", "0.1.0", "main"]
    subprocess.run([sys.executable, DOCS / "list_versions.py", site.parent], check=True, capture_output=True)
    assert json.loads((site.parent / "versions.json").read_text()) == ["0.1.0"]
    assert "0.1.0/index.html" in (site.parent / "index.html").read_text()
