"""A page in Chromium: what a user does, and what it shows."""

import json
import time
from pathlib import Path
from typing import Any

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

WIDTHS = {"phone": (360, 740), "desktop": (1280, 900)}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]  # of axe-core
FIND = "const q = (each) => document.querySelector(each), all = (each) => [...document.querySelectorAll(each)];"


class Window:
    """The actions of a user on the page, and what it shows."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, address: str, width: str = "desktop", scheme: str = "light") -> None:
        """Open the page as in a new tab."""
        size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
        self.command("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1, mobile=False)
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)  # Discards those of an earlier page.
        self.driver.get(address)
        self.run("sessionStorage.clear()")
        self.driver.refresh()

    def command(self, name: str, **values: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, values)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a script, in which q and all find elements."""
        return self.driver.execute_script(f"{FIND}\n{script}", *arguments)

    def run_async(self, script: str, *arguments: Any) -> Any:
        """The value of a script that can wait; its errors are raised."""
        body = f"const done = arguments[arguments.length - 1]; (async (...given) => {{ {script} }})(...arguments)"
        answer = self.driver.execute_async_script(
            f"{body}.then((value) => done([value]), (e) => done(String(e)))", *arguments
        )
        assert isinstance(answer, list), answer
        return answer[0]

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        script = "return all(arguments[0]).map(each => each.textContent)"
        return self.run(script, selector)

    def wait(self, script: str, *arguments: Any, seconds: float = 60) -> Any:
        """The value of a script as soon as it is true."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(f"return {script}", *arguments)):
            assert time.monotonic() < deadline, (script, self.find("body").text)
            time.sleep(0.02)
        return value

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, selector: str) -> None:
        """Press Tab until an element has the focus."""
        for _ in range(40):
            self.press(Keys.TAB)
            if self.run("return document.activeElement.matches(arguments[0])", selector):
                return
        raise AssertionError(f"{selector} can't be reached with Tab")

    def give_file(self, file: Path) -> None:
        """Choose a file, and wait for its words."""
        self.find("#files").send_keys(str(file))
        self.wait("q('article .status')?.textContent.includes('words')")

    def complaints(self) -> list[str]:
        """What the browser has written to its console, violations of the content security policy among it."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def network(self, method: str) -> list[dict[str, Any]]:
        """The events of the network."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [each["params"] for each in messages if each["method"] == method]


def overflow(window: Window) -> int:
    """Pixels by which the page is wider than the window."""
    return window.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
