"""Pages at the width of a phone and of a desktop: nothing is wider than the window, and what moves them works."""

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browser import open_browser

PAGES = ("index", "reference/recipe_keys", "reference/commands", "understand/architecture", "how_to/live_captions")

# Elements of the text that stick out of the window, and are in nothing that scrolls.
_WIDE = """
return [...document.querySelectorAll("article *")]
  .filter(each => each.getBoundingClientRect().right > innerWidth + 1 && !each.closest(".table-wrapper, .diagram, pre"))
  .map(each => each.outerHTML.slice(0, 80))
"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """A static server with two versions of the site."""
    folder = site.parent
    (folder / "0.2.0").symlink_to(site)
    (folder / "versions.json").write_text(json.dumps(["0.2.0", "0.1.0"]))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
    (folder / "0.2.0").unlink()
    (folder / "versions.json").unlink()


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """A browser."""
    with open_browser() as opened:
        yield opened


def resize(driver: Any, width: int) -> None:
    """Show pages as on a device of this width."""
    size = {"width": width, "height": 850, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_no_wider_than_its_window(driver: Any, address: str, page: str, width: int) -> None:
    resize(driver, width)
    driver.get(f"{address}/0.1.0/scripts/docs/{page}.html")
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert driver.execute_script(_WIDE) == []


def test_diagrams_have_the_colours_of_light_and_of_dark(driver: Any, address: str) -> None:
    resize(driver, 1440)
    driver.get(f"{address}/0.1.0/scripts/docs/understand/architecture.html")
    colours = []
    for theme in ("light", "dark"):
        driver.execute_script("document.body.dataset.theme = arguments[0]", theme)
        of = "return getComputedStyle(document.querySelector(arguments[0])).fill"
        colours.append([driver.execute_script(of, f".diagram {name}") for name in ("text", "rect")])
    [light_text, light_box], [dark_text, dark_box] = colours
    assert light_text != dark_text and light_box != dark_box and light_text != light_box and dark_text != dark_box


def test_the_switch_leads_to_the_same_page_of_another_version(driver: Any, address: str) -> None:
    from selenium.webdriver.support.ui import Select, WebDriverWait

    resize(driver, 1440)
    driver.get(f"{address}/0.1.0/scripts/docs/understand/ctc.html")
    wait = WebDriverWait(driver, 20)
    switch = wait.until(lambda found: found.find_elements("css selector", ".versions select"))[0]
    assert Select(switch).first_selected_option.text == "0.1.0"
    Select(switch).select_by_visible_text("0.2.0")
    wait.until(lambda found: found.current_url == f"{address}/0.2.0/scripts/docs/understand/ctc.html")


def test_a_word_is_found(driver: Any, address: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get(f"{address}/0.1.0/search.html?q=plateau")
    WebDriverWait(driver, 20).until(
        lambda found: [
            each for each in found.find_elements("css selector", "ul.search a") if "ctc" in each.get_attribute("href")
        ]
    )
