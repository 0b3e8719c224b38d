"""What is written is whole or absent, and goes nowhere else."""

import os
import re
from pathlib import Path

import pytest

import finetune
from finetune.files import new_file, new_folder, write_json, write_text


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old\r\n")
    assert file.read_bytes() == b"old\r\n"
    os.umask(mask := os.umask(0))
    assert file.stat().st_mode & 0o777 == 0o666 & ~mask
    with pytest.raises(KeyboardInterrupt), new_file(file) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]
    assert file.read_bytes() == b"old\r\n"
    with new_file(file) as first, new_file(file) as second:  # Two processes at once.
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first"
    write_json(file, {"half a character": "\ud800"})
    assert file.read_text() == '{\n  "half a character": "\\ud800"\n}\n'
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_links_are_replaced_and_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("mine")
    for name in ("a.txt", "a.txt.partial", ".a.txt.partial"):
        (tmp_path / name).symlink_to(secret / "file")
    write_text(tmp_path / "a.txt", "new")
    assert not (tmp_path / "a.txt").is_symlink()
    for name in ("folder", ".folder.partial"):
        (tmp_path / name).symlink_to(secret)
    with new_folder(tmp_path / "folder") as partial:
        (partial / "file").write_text("new")
    assert (tmp_path / "folder" / "file").read_text() == (tmp_path / "a.txt").read_text() == "new"
    assert [file.read_text() for file in secret.iterdir()] == ["mine"]


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_a_folder_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    folder = tmp_path / "sub" / "folder"
    for name in ("old", "new"):
        with new_folder(folder) as partial:
            (partial / name).write_text(name)
        assert [file.name for file in folder.iterdir()] == [name]
        with pytest.raises(OSError, match="full"), new_folder(folder) as partial:
            (partial / "half").write_text("half")
            raise OSError("full")
        assert [file.name for file in folder.iterdir()] == [name]
    assert list(folder.parent.iterdir()) == [folder]


def test_no_other_module_renames() -> None:
    package = Path(finetune.__file__).parent
    found = [
        f"{file.relative_to(package)}: {line.strip()}"
        for file in package.rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if file.name != "files.py" and re.search(r"\.rename\(|os\.replace\(", line)
    ]
    assert not found
