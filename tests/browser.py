"""A real browser without a window, which has a network to nothing and writes to a folder that goes with it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # Whatever it would ask for elsewhere than on this machine, it finds nothing.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--window-size=1280,900",
)


@contextmanager
def open_browser(*arguments: str) -> Iterator[Any]:
    """A selenium driver of Chromium, with more arguments for it.

    The test is skipped where there is none, or fails if FINETUNE_BROWSER=required.
    """
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    driver_path = shutil.which("chromedriver")
    if browser is None or driver_path is None:
        missing = "chromium" if browser is None else "chromedriver"
        reason = f"{missing} is not installed (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("FINETUNE_BROWSER") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for argument in (*_ARGUMENTS, *arguments, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        # With the driver's path given, selenium looks for none to download.
        driver = webdriver.Chrome(options, webdriver.ChromeService(driver_path))
        try:
            yield driver
        finally:
            driver.quit()
