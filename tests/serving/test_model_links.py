"""Models at symbolic links: promotion and rollback under load, and what can't be loaded."""

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import soundfile
from conftest import SAMPLING_RATE, speak

from finetune.serving.model_links import LinkWatch
from finetune.serving.models import LoadOptions, ModelRegistry, read_sources

Serve = Callable[..., Any]


def promote(link: Path, folder: Path) -> None:
    """Switch a link at once, as `finetune models promote` does."""
    new = link.with_name("new")
    new.symlink_to(folder)
    new.replace(link)


def copy_model(source: Path, folder: Path, note: str) -> Path:
    """The same model with another digest."""
    folder.mkdir()
    for file in source.iterdir():
        os.link(file, folder / file.name)
    (folder / "note.json").write_text(json.dumps(note))
    return folder


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_link_that_is_switched_changes_the_model_under_load(
    serve: Serve, tone_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = [copy_model(tone_folder, tmp_path / name, name) for name in ("v1", "v2")]
    (broken := tmp_path / "broken").mkdir()
    link = tmp_path / "champion"
    link.symlink_to("v1")
    assert read_sources([str(link)]) == {"champion": str(link)}
    speech, stopped = BytesIO(), threading.Event()
    soundfile.write(speech, speak("ab cab", np.random.default_rng(0)), SAMPLING_RATE, format="WAV")
    answers: list[tuple[int, str]] = []

    def load(address: str) -> None:
        with httpx2.Client(timeout=60) as client:
            while not stopped.is_set():
                answer = client.post(f"{address}/v1/audio/transcriptions", files={"file": ("a.wav", speech.getvalue())})
                answers.append((answer.status_code, answer.json().get("text")))

    with serve(models=[str(link)]) as address, ThreadPoolExecutor(3) as pool:

        def digest() -> str:
            return str(httpx2.get(f"{address}/v1/models").json()["data"][0]["finetune_digest"])

        first = digest()
        running = [pool.submit(load, address) for _ in range(3)]
        try:
            wait_for(lambda: len(answers) > 5)
            promote(link, folders[1])
            wait_for(lambda: digest() != first)
            second = digest()
            promote(link, folders[0])
            wait_for(lambda: digest() == first)
            with caplog.at_level(logging.ERROR, logger="finetune.serving.model_links"):
                for wrong in (broken, tmp_path / "absent"):
                    before = len(caplog.records)
                    promote(link, wrong)
                    wait_for(lambda before=before: len(caplog.records) > before)
                    time.sleep(1.5)
                    assert len(caplog.records) == before + 1  # once
                    assert "stays as it was" in caplog.records[-1].message and digest() == first
            promote(link, folders[1])
            wait_for(lambda: digest() == second)
            count = len(answers)
            wait_for(lambda: len(answers) > count + 5)
        finally:
            stopped.set()
        for each in running:
            each.result(60)
    assert set(answers) == {(200, "ab cab")} and len(answers) > 20


def test_links_are_compared_once(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "link").symlink_to("v1")
    calls: list[str] = []
    promote(tmp_path / "link", tmp_path / "v2")  # After the model was loaded, and before the first look.
    watch = LinkWatch({"a": str(tmp_path / "link")}, {"a": tmp_path / "v1"}, calls.append)
    watch.look()
    watch.look()
    assert calls == ["a"]
    promote(tmp_path / "link", tmp_path / "v1")
    watch.look()
    assert calls == ["a", "a"]


def test_a_connection_that_began_before_a_reload_goes_on_with_the_old_model(tone_folder: Path, tmp_path: Path) -> None:
    folders = [copy_model(tone_folder, tmp_path / name, name) for name in ("v1", "v2")]
    (tmp_path / "link").symlink_to("v1")
    registry = ModelRegistry({"a": str(tmp_path / "link")}, LoadOptions())
    old = registry.all()[0]
    promote(tmp_path / "link", folders[1])
    assert registry.reload("a") == ["a"] and registry.all()[0].digest != old.digest
    wait_for(lambda: not [each for each in threading.enumerate() if each.name == "live-a-0"][1:])
    ready = threading.Event()
    session = old.open_live(SAMPLING_RATE, encoding="s16le", on_events=ready.set)
    speech = speak("ab cab", np.random.default_rng(0))
    session.feed((np.concatenate([speech, np.zeros(16000)]) * 32767).astype("<i2").tobytes())
    session.finish()
    wait_for(lambda: session.ended)
    assert any(getattr(event, "text", "") == "ab cab" for event in session.events())
    registry.all()[0].retire()
