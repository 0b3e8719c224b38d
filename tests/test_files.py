"""What is written is whole or absent, and goes nowhere else."""

import itertools
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import finetune
from finetune.files import lock_folder, name_folder, new_file, new_folder, restore_folder, write_json, write_text


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


def test_weights_can_be_read_by_whoever_can_read_other_files(tmp_path: Path) -> None:
    """A service may be another user than who trained: safetensors writes files for their owner alone."""
    tensors = {"a": np.zeros(3, np.float32)}
    with new_file(tmp_path / "one.safetensors") as partial:
        save_file(tensors, partial)
    with new_folder(tmp_path / "model") as partial:
        save_file(tensors, partial / "two.safetensors")
        (partial / "inner").mkdir()
        save_file(tensors, partial / "inner" / "three.safetensors")
    os.umask(mask := os.umask(0))
    found = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.rglob("*.safetensors")}
    assert found == dict.fromkeys(("one.safetensors", "two.safetensors", "three.safetensors"), 0o666 & ~mask)


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


def test_a_folder_has_a_name_however_its_path_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "latest").symlink_to("run")
    monkeypatch.chdir(tmp_path / "run")
    for path in (".", "./", "model/..", "../run/", "../run/.", str(tmp_path / "run" / "model" / "..")):
        assert name_folder(Path(path)) == "run"
    assert name_folder(Path("../latest")) == "latest"


def test_no_other_module_renames() -> None:
    package = Path(finetune.__file__).parent
    found = [
        f"{file.relative_to(package)}: {line.strip()}"
        for file in package.rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if file.name != "files.py" and re.search(r"\.rename\(|os\.replace\(", line)
    ]
    assert not found


class Failing:
    """Renames, but not at the time of a number, and after a kill never again."""

    def __init__(self, rename: Callable[[Path, Path], Path], number: int, killed: bool) -> None:
        self.rename, self.number, self.killed, self.count = rename, number, killed, 0

    def __call__(self, file: Path, target: Path) -> Path:
        self.count += 1
        if self.count - 1 == self.number or (self.killed and self.count > self.number):
            raise OSError("stopped")
        return self.rename(file, target)


@pytest.mark.parametrize("killed", [False, True])
def test_a_folder_and_what_goes_beside_it_are_replaced_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """By an exception at each rename; a kill is one after which nothing is renamed back."""
    rename = Path.rename

    def write(text: str) -> None:
        with new_folder(tmp_path / "folder", ["a", "b"]) as partial:
            for name in ("c", "a", "b") if text == "old" else ("c", "a"):
                (partial / name).write_text(text)

    def read() -> dict[str, str]:
        files = [file for file in tmp_path.rglob("*") if file.is_file()]
        return {file.relative_to(tmp_path).as_posix(): file.read_text() for file in files}

    old, new = {"folder/c": "old", "a": "old", "b": "old"}, {"folder/c": "new", "a": "new"}
    for number in itertools.count():
        write("old")
        assert read() == old

        fail = Failing(rename, number, killed)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", lambda self, target, fail=fail: fail(self, target))
            written = False
            with suppress(OSError):  # The point that was made to fail.
                write("new")
                written = True
        if written:
            break
        restore_folder(tmp_path / "folder", ["a", "b"])
        assert read() == old
    assert read() == new and number == 5


def test_what_killed_processes_left_goes_when_a_folder_is_locked(tmp_path: Path) -> None:
    for name in (".a.txt.01ab.partial", "sub/.b.partial", "sub/.c.old.partial"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "half").touch()
    (tmp_path / "sub" / "kept.partial").touch()
    with lock_folder(tmp_path):
        assert sorted(file.name for file in tmp_path.rglob("*")) == [".lock", "kept.partial", "sub"]
