"""A model that writes the letters of tones, as a folder, and a service around it."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from programs import execute
from tone_model import write_tone_model

AXE = "axe-core@4.14.1"


@pytest.fixture(scope="session")
def tone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder as `finetune export` writes it."""
    return write_tone_model(tmp_path_factory.mktemp("models") / "tones")


Serve = Callable[..., Any]


@pytest.fixture(scope="session")
def serve(tone_folder: Path) -> Serve:
    """`with serve(option=value) as address` runs a service with these settings in a thread of this process."""
    from finetune.serving.server import serve as run
    from finetune.serving.service import Service
    from finetune.serving.settings import load_settings

    @contextmanager
    def start(**options: Any) -> Iterator[str]:
        settings = load_settings({"models": [str(tone_folder)], "port": 0, **options}, None, {})
        service = Service.load(settings)
        start.services.append(service)
        address: list[str] = []
        thread = threading.Thread(target=run, args=(service, address.append), daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not address and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            yield address[0]
        finally:
            service.stop()
            thread.join(30)
            assert not thread.is_alive()

    start.services = []  # the last one is that of the last call
    return start


@pytest.fixture(scope="session")
def address(serve: Serve) -> Iterator[str]:
    """The address of a service that tests share."""
    with serve() as where:
        yield where


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The accessibility checker as a script."""
    npm = shutil.which("npm")
    required = os.environ.get("FINETUNE_BROWSER") == "required"
    if npm is None:
        (pytest.fail if required else pytest.skip)("npm is not installed, which fetches axe-core")
    folder = tmp_path_factory.mktemp("axe")
    try:
        execute([npm, "pack", AXE], folder)
    except AssertionError as error:
        (pytest.fail if required else pytest.skip)(f"npm can't fetch {AXE}: {str(error).strip().splitlines()[-1]}")
    shutil.unpack_archive(next(folder.glob("*.tgz")), folder)
    return (folder / "package" / "axe.min.js").read_text(encoding="utf-8")
