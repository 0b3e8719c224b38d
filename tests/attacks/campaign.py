"""Each write, fsync, rename and deletion of a command made to fail, or to be the last thing its process does.

`python campaign.py SPECIFICATION` runs commands of `finetune` in forks of one process, which has imported what they
need. The specification is JSON: `folder` (to work in), `kinds` of faults, and `commands` (each with its `name`, its
`arguments`, `after`: the command whose result it works on, and `most`: points of each kind to try; null is all).

A command's points are counted in a run without faults. Then each is tried in a fresh copy of the folder: a fault, and
the same command again, after which the folder must be what the run without faults made of it. Files that differ
between two such runs (they hold times) must only be there. What goes wrong is printed as JSON.
"""

import builtins
import errno
import importlib
import io
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

FAIL, KILL = "fails", "kills"
# Of a run, these say how long it took, and by which commit.
_TIMED = {
    "README.md",
    "training.json",
    "metrics.jsonl",
    "progress.json",
    "manifest.json",
    "curves.png",
    "recipe.yaml",
    "index.html",
}


class Faults:
    """Counts what is done to files below a folder; the point of a number fails, or kills, half-way where it can."""

    def __init__(self, folder: Path, number: int | None = None, kind: str = FAIL) -> None:
        self.folder, self.number, self.kind = folder, number, kind
        self.points: list[str] = []

    def reach(self, what: str, place: Any, half: Callable[[], object] | None = None) -> None:
        """Note a point, and raise OSError or end the process where it is the one."""
        try:
            found = _name(place) if isinstance(place, int) else Path(os.fsdecode(place)).absolute()
        except (OSError, TypeError):
            return
        if not found.is_relative_to(self.folder):
            return
        self.points.append(f"{what} {found.relative_to(self.folder)}")
        if len(self.points) - 1 != self.number:
            return
        if half is not None:
            half()
        if self.kind == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(found))

    def install(self) -> None:
        """Put the counting around the functions of Python and of the libraries that write past it."""
        self._wrap_files()
        for name in ("replace", "rename", "link", "mkdir", "unlink", "rmdir"):
            self._wrap(os, name)
        self._wrap(os, "fsync")
        write, sendfile = os.write, os.sendfile

        def counting_write(descriptor: int, data: Any) -> int:
            self.reach("write", descriptor, lambda: write(descriptor, bytes(data)[: len(data) // 2]))
            return write(descriptor, data)

        def counting_sendfile(out: int, *others: Any) -> int:
            self.reach("sendfile", out)
            return sendfile(out, *others)

        os.write, os.sendfile = counting_write, counting_sendfile
        import safetensors.numpy
        import safetensors.torch
        import torch

        self._wrap_native(torch, "save", 1)
        self._wrap_native(safetensors.torch, "serialize_file", 1)
        self._wrap_native(safetensors.numpy, "serialize_file", 1)

    def _wrap(self, module: Any, name: str) -> None:
        function = getattr(module, name)

        def counting(place: Any, *others: Any, **options: Any) -> Any:
            self.reach(name, self._find(place, options))
            return function(place, *others, **options)

        setattr(module, name, counting)

    def _find(self, place: Any, options: dict[str, Any]) -> Any:
        folder = options.get("dir_fd")
        return place if folder is None else _name(folder) / os.fsdecode(place)

    def _wrap_native(self, module: Any, name: str, argument: int) -> None:
        """Of a function that writes a file past Python: half of what it writes is there when it fails."""
        function = getattr(module, name)

        def counting(*arguments: Any, **options: Any) -> Any:
            def half() -> None:
                function(*arguments, **options)
                os.truncate(arguments[argument], Path(arguments[argument]).stat().st_size // 2)

            if isinstance(arguments[argument], str | os.PathLike):
                self.reach(name, arguments[argument], half)
            return function(*arguments, **options)

        setattr(module, name, counting)

    def _wrap_files(self) -> None:
        faults, opened = self, io.open
        open_descriptor = os.open

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                part = bytes(data)
                faults.reach("write", self.fileno(), lambda: super(Raw, self).write(part[: len(part) // 2]))
                return super().write(part)

        def counting_open(
            file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
            newline: Any = None, closefd: bool = True, opener: Any = None,
        ) -> Any:  # fmt: skip
            if not set(mode) & set("wax+"):
                return opened(file, mode, buffering, encoding, errors, newline, closefd, opener)
            if not isinstance(file, int):
                faults.reach("open", file)
            raw = Raw(file, mode.replace("b", "").replace("t", ""), closefd, opener)
            if buffering == 0:
                return raw
            buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
            if "b" in mode:
                return buffered
            return io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)

        def counting_descriptor(path: Any, flags: int, *others: Any, **options: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                faults.reach("os.open", faults._find(path, options))
            return open_descriptor(path, flags, *others, **options)

        builtins.open = io.open = counting_open
        os.open = counting_descriptor


def _name(descriptor: int) -> Path:
    """The file that a descriptor is of."""
    return Path(f"/proc/self/fd/{descriptor}").readlink()


class Campaign:
    """The commands of a specification, one after another."""

    def __init__(self, folder: Path, kinds: Sequence[str]) -> None:
        self.folder, self.kinds = folder, kinds
        # Always at the same place, for recipes and runs hold paths.
        self.work, self.kept = folder / "work", folder / "kept"
        self.wrong: list[str] = []
        self.tried: dict[str, int] = {}

    def run(self, name: str, arguments: Sequence[str], after: str | None, most: int | None) -> None:
        """Try the points of one command; what it makes of the folder is there for others under its name."""
        before = self.kept / after if after else self.folder / "before"
        trees = []
        for number in range(2):
            self._lay(before)
            code, said, points = self._finetune(self._fill(arguments, f"whole{number}"))
            if code != 0:
                self.wrong.append(f"{name}, without faults: {code}: {said[-2000:]}")
                return
            trees.append(self._read())
        same = {file for file, content in trees[0].items() if trees[1].get(file) == content}
        stable = {file for file in same if Path(file).name not in _TIMED}
        shutil.rmtree(self.kept / name, ignore_errors=True)
        shutil.copytree(self.work, self.kept / name, symlinks=True)
        start = _read_tree(before)
        for kind in self.kinds if most != 0 else ():
            numbers = range(len(points))
            if most is not None and len(points) > most:
                numbers = range(len(points) // (2 * most), len(points), len(points) // most)
            for number in numbers:
                self._lay(before)
                problem = self._try(self._fill(arguments, f"{kind}{number}"), kind, number, start, trees[0], stable)
                self.tried[name] = self.tried.get(name, 0) + 1
                if problem:
                    self.wrong.append(f"{name}, {points[number]} {kind} (point {number}): {problem}")
                    print(self.wrong[-1], file=sys.stderr, flush=True)

    def _try(
        self, arguments: Sequence[str], kind: str, number: int, start: dict[str, bytes], whole: dict[str, bytes],
        stable: set[str],
    ) -> str | None:  # fmt: skip
        code, said, _ = self._finetune(arguments, number, kind)
        if "Traceback" in said or (kind == FAIL and code not in (0, 2)) or (kind == KILL and code not in (0, -9)):
            return f"ended with {code}: {said[-3000:]}"
        left = self._read()
        half = [
            file
            for file, content in left.items()
            if file in stable and arguments[0] != "train" and content not in (start.get(file), whole[file])
        ]
        if half:
            return f"half-written: {half}"
        again, told, _ = self._finetune(arguments)
        if "Traceback" in told or (again != 0 and not _is_same(left, whole, stable)):
            return f"again it ended with {again}: {told[-3000:]}\n(before: {code}: {said[-1000:]})"
        found = self._read()
        if not _is_same(found, whole, stable):
            missing, added = whole.keys() - found.keys(), found.keys() - whole.keys()
            other = [file for file in stable if file in found and found[file] != whole[file]]
            return f"again it made another result: missing {missing}, added {added}, other {other}"
        return None

    def _finetune(self, arguments: Sequence[str], number: int | None = None, kind: str = FAIL) -> tuple[int, str, Any]:
        """The exit code of a command in a fork, what it said, and the points that it passed."""
        said, counted = self.folder / "said", self.folder / "counted"
        for file in (said, counted):
            file.unlink(missing_ok=True)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            code = 70
            try:
                output = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
                os.dup2(output, 1)
                os.dup2(output, 2)
                os.chdir(self.work)
                from finetune.cli import main

                faults = Faults(self.work, number, kind)
                faults.install()
                code = main(list(arguments))
                with io.open(counted, "w") as file:  # noqa: UP020 (the one that is wrapped, outside of the folder)
                    json.dump({"points": faults.points, "modules": list(sys.modules)}, file)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        found = json.loads(counted.read_text()) if code == 0 and counted.exists() else {"points": [], "modules": []}
        if number is None:
            for module in found["modules"]:  # Which the next fork has at once.
                with suppress(Exception):
                    importlib.import_module(module)
        return code, said.read_text(errors="replace"), found["points"]

    def _fill(self, arguments: Sequence[str], point: str) -> list[str]:
        return [argument.format(work=self.work, point=point) for argument in arguments]

    def _lay(self, before: Path) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(before, self.work, symlinks=True)

    def _read(self) -> dict[str, bytes]:
        return _read_tree(self.work)


def _read_tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder but caches, temporary files, and what a fault left under a name of its own."""
    found = {}
    for file in folder.rglob("*"):
        parts = file.relative_to(folder).parts
        ours = parts[0] not in ("cache", "tmp") and parts[-1] != ".lock"
        if ours and file.is_file() and not any(part.endswith(".partial") for part in parts):
            found[str(file.relative_to(folder))] = file.read_bytes()
    return found


def _is_same(found: dict[str, bytes], whole: dict[str, bytes], stable: set[str]) -> bool:
    return found.keys() == whole.keys() and all(found[file] == whole[file] for file in stable)


def main() -> None:
    """Read the specification, import what the commands need, and print what was tried and what went wrong."""
    specification = json.loads(Path(sys.argv[1]).read_text())
    import torch

    torch.set_num_threads(1)

    campaign = Campaign(Path(specification["folder"]), specification["kinds"])
    for command in specification["commands"]:
        campaign.run(command["name"], command["arguments"], command["after"], command["most"])
        print(f"{command['name']}: {campaign.tried.get(command['name'], 0)} points tried", file=sys.stderr, flush=True)
    print(json.dumps({"tried": campaign.tried, "wrong": campaign.wrong}))


if __name__ == "__main__":
    main()
