"""Files and folders that are whole or absent, whatever stops their writing: written beside, synced, renamed."""

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from finetune.errors import UserError

LOCK = ".lock"
_PRIVATE = (
    ".safetensors"  # Files that safetensors from 0.8 on writes for their owner alone, which a service may not be.
)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """An empty file beside `path` to write into; it takes `path`'s place at the end, and is deleted after an exception.

    Its name is random, so that two processes do not write into one file, and no link that was there before is
    followed; a link at `path` itself is replaced. A device or a pipe at `path` is written into. Raises OSError.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    short = path.name.encode(errors="ignore")[:200].decode(errors="ignore")  # File systems allow 255 bytes.
    partial = path.with_name(f".{short}.{secrets.token_hex(4)}.partial")
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = stat.S_IMODE(partial.stat().st_mode)
    try:
        yield partial
        if path.suffix == _PRIVATE:
            partial.chmod(mode)
        _sync(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as `new_file` does."""
    with new_file(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8 as `new_file` does, line ends as they are; half a character becomes its JSON escape."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, values: object) -> None:
    """Write an indented JSON file as `new_file` does."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def new_folder(path: Path, beside: Sequence[str] = ()) -> Iterator[Path]:
    """An empty folder beside `path` to write into; it takes `path`'s place at the end, and goes after an exception.

    See `replace_folder`, also for files that go `beside` it. What a killed process left of the same folder is deleted
    first: one process at a time writes it. Raises OSError.
    """
    with unplaced_folder(path) as partial:
        yield partial
        replace_folder(partial, path, beside)


@contextmanager
def unplaced_folder(path: Path) -> Iterator[Path]:
    """A folder as that of `new_folder`, which takes no place by itself: `replace_folder` is up to the caller."""
    partial = partial_folder(path)
    delete(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        with suppress(OSError):
            delete(partial)
        raise


def partial_folder(path: Path) -> Path:
    """Where `new_folder` writes what takes the place of `path`."""
    return path.with_name(f".{path.name}.partial")


def sync_folder(folder: Path) -> None:
    """Wait until all files of a folder are on the disk; raises OSError."""
    for file in folder.rglob("*"):
        _sync(file)
    _sync(folder)


def replace_folder(partial: Path, path: Path, beside: Sequence[str] = (), *, is_synced: bool = False) -> None:
    """Have a folder take the place of `path`; all its files reach the disk first, if they have not yet.

    Its files of the names `beside` take places beside `path`, where there is none of those that it lacks afterwards.
    What was in these places is set aside, `path` first, and deleted when `path` is there again. After an exception all
    is as before; after a kill `path` is the old one, the new one or absent, and then `restore_folder` brings back the
    old one. Raises OSError.
    """
    for file in partial.rglob(f"*{_PRIVATE}"):
        file.chmod(stat.S_IMODE(partial.stat().st_mode) & 0o666)
    if not is_synced:
        sync_folder(partial)
    places = [path, *map(path.with_name, beside)]
    new = [partial, *(partial / name for name in beside)]
    moved: list[tuple[Path, Path]] = []
    try:
        for place in places:
            delete(_aside(place))
            if os.path.lexists(place):
                moved.append((place, place.rename(_aside(place))))
        for place, taker in reversed(list(zip(places, new, strict=True))):
            if taker.exists():
                moved.append((taker, taker.rename(place)))
    except BaseException:
        for before, after in reversed(moved):
            after.rename(before)
        raise
    _sync(path.parent)
    for place in places:
        delete(_aside(place))


def restore_folder(path: Path, beside: Sequence[str] = ()) -> None:
    """Undo what `new_folder`, killed, did not finish: what was there before is there again. Raises OSError."""
    if os.path.lexists(path):
        return
    for place in [*map(path.with_name, beside), path]:
        if os.path.lexists(_aside(place)):
            delete(place)
            _aside(place).rename(place)
    delete(partial_folder(path))


def _aside(place: Path) -> Path:
    return place.with_name(f".{place.name}.old.partial")


def name_folder(path: Path) -> str:
    """The name of a folder, also where its path is `.` or ends in `..`."""
    return path.name if path.name not in ("", "..") else path.resolve().name


def expand_home(place: str) -> Path:
    """A path, with the home that a `~` at its beginning stands for; raises UserError where there is no such home."""
    try:
        return Path(place).expanduser()
    except RuntimeError as error:
        raise UserError(f"{place}: there is no home for its ~ to stand for: give the whole path.") from error


def link_file(file: Path, link: Path) -> None:
    """Give a file a second name; a copy where the file system has none. Raises OSError."""
    try:
        link.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, link)


def hash_folder(folder: Path) -> str:
    """A hash of the names and contents of all files below a folder, 16 hexadecimal digits; raises OSError."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(folder)} {content}\n".encode())
    return digest.hexdigest()[:16]


def delete(path: Path) -> None:
    """Delete a folder, a file or a link, not what a link points to; nothing where nothing is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep each other process that locks a folder out of it, and delete what killed ones left half-written in it.

    On a file system without locks there is none. Raises UserError where another process has it, and OSError.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, timeout=0)
    with ExitStack() as held:
        try:
            held.enter_context(lock)
            held.callback((folder / LOCK).unlink, missing_ok=True)
        except Timeout as error:
            raise UserError(
                f"Another process is writing to {folder}: wait for its end, or give another folder."
            ) from error
        except NotImplementedError:
            (folder / LOCK).unlink(missing_ok=True)
        for partial in list(folder.rglob(".*.partial")):
            delete(partial)
        yield


def _sync(path: Path) -> None:
    """Wait until a file's bytes or a folder's names are on the disk, so that a power cut leaves no empty file."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
