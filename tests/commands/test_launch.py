"""Folders that libraries write to are settled before they are loaded; a cache that can't be kept fails nothing."""

import logging
import os
import pwd
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from finetune.audio.headers import HeaderIndex
from finetune.audio.waveforms import Recording
from finetune.commands.launch import quiet_exporter, set_training_switches, settle_folders
from finetune.decoding.compilation import compiled
from finetune.errors import UserError
from finetune.files import expand_home

NAMES = ("TMPDIR", "TEMP", "TMP", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME", "HF_HOME", "HF_DATASETS_CACHE", "HOME")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """One without any of these but a home of its own; what is set in it goes with the test."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_folders_that_can_be_written_stay(environment: pytest.MonkeyPatch, tmp_path: Path, logged: list[str]) -> None:
    for name in NAMES[:-1]:
        environment.setenv(name, str(tmp_path))
    before = dict(os.environ)
    settle_folders()
    assert dict(os.environ) == before and not logged
    for name in NAMES[:-1]:
        environment.delenv(name)
    settle_folders()
    assert not list(tmp_path.iterdir()) and not logged


@pytest.mark.parametrize("below", ["file/folder", "gone"])
def test_others_are_left_out(environment: pytest.MonkeyPatch, tmp_path: Path, below: str, logged: list[str]) -> None:
    (tmp_path / "file").touch()
    environment.setenv("TMPDIR", str(tmp_path / below))
    environment.setenv("HF_HOME", str(tmp_path / "file" / "huggingface"))
    settle_folders()
    assert (
        "TMPDIR" not in os.environ
        and logged[0] == f"note: nothing can be written to TMPDIR={tmp_path / below}: left out"
    )
    assert Path(os.environ["HF_HOME"]).is_dir() and str(tmp_path / "file") not in os.environ["HF_HOME"]
    assert len(logged) == 2
    environment.setenv("HF_HOME", str(tmp_path))
    environment.setenv("HF_DATASETS_CACHE", str(tmp_path / "file" / "datasets"))
    settle_folders()  # What is in HF_HOME is read.
    [line] = logged[2:]
    assert os.environ["HF_HOME"] == str(tmp_path) and f"HF_DATASETS_CACHE is {os.environ['HF_DATASETS_CACHE']}" in line


def test_without_a_home_there_is_one_for_a_while(environment: pytest.MonkeyPatch, logged: list[str]) -> None:
    def fail(number: int) -> None:
        raise KeyError(number)

    environment.delenv("HOME")
    environment.setattr(pwd, "getpwuid", fail)
    with pytest.raises(UserError, match="~/x: there is no home for its ~ to stand for"):
        expand_home("~/x")
    with HeaderIndex() as headers:  # As a library, without the command line.
        assert headers is not None
    settle_folders()
    [told] = logged
    assert told.startswith("note: there is no home") and Path.home() == Path(os.environ["HOME"])
    assert expand_home("~/x") == Path.home() / "x" and expand_home("x") == Path("x")


def add(a: int, b: int) -> int:
    return a + b


@pytest.mark.parametrize("damage", [lambda content: content[:10], lambda content: b"", lambda content: b"\0" * 99])
def test_compiled_code_that_was_damaged_or_can_not_be_kept_is_made_again(
    environment: pytest.MonkeyPatch, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    import numba

    environment.setattr(numba.config, "CACHE_DIR", str(tmp_path / "numba"))
    assert compiled(add)(1, 2) == 3
    files = sorted(file for file in (tmp_path / "numba").rglob("*") if file.is_file())
    assert {file.suffix for file in files} == {".nbi", ".nbc"}
    for file in files:
        file.write_bytes(damage(file.read_bytes()))
        assert compiled(add)(1, 2) == 3
        whole = compiled(add)
        assert whole(1, 2) == 3 and sum(whole.stats.cache_hits.values()) == 1  # It was kept again.
    for file in files:
        file.unlink()
        file.mkdir()
    assert compiled(add)(1, 2) == 3


def test_headers_are_read_anew_where_the_index_is_damaged(tmp_path: Path, corpus_folder: Path) -> None:
    recording, index = Recording(str(corpus_folder / "train" / "00.wav"), None), tmp_path / "headers.sqlite"
    with HeaderIndex(index) as headers:
        header = headers.read(recording)
    with sqlite3.connect(index) as connection:
        connection.execute("UPDATE headers SET samples = 'many'")
    with HeaderIndex(index) as headers:
        assert headers.read(recording) == header
    for content in (b"", b"SQLite format 3\0" + b"\xff" * 1000, index.read_bytes()[:2000]):
        index.write_bytes(content)
        with HeaderIndex(index) as headers:
            assert headers.read(recording) == header


@pytest.mark.parametrize(("gpu", "compiled", "device", "limit"), [(False, True, "cpu", 64), (True, False, None, 8)])
def test_switches_of_libraries_are_set_for_training(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, compiled: bool, device: str | None, limit: int
) -> None:
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    with torch._dynamo.config.patch(recompile_limit=8):
        set_training_switches(compiled)
        assert (os.environ.get("DS_ACCELERATOR"), torch._dynamo.config.recompile_limit) == (device, limit)


def test_an_export_leaves_out_what_libraries_warn_of_and_nothing_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", None, "finetune.run")]
    quiet_exporter()
    for logger in loggers:
        logger.warning("%s warns", logger.name)
        logger.error("%s fails", logger.name)
    assert caplog.messages == ["torch.onnx fails", "root fails", "finetune.run warns", "finetune.run fails"]
