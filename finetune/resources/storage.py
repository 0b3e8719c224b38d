"""Files here, at URLs elsewhere (s3://, gs://, https://) and of models on a hub."""

import io
import itertools
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from finetune.errors import UserError, say_error
from finetune.files import expand_home, write_json
from finetune.resources.addresses import public_address
from finetune.resources.limits import MAX_HELD_BYTES
from finetune.resources.model_json import read_object

# A header's length; fsspec's own block of 5 MB would fetch a whole utterance for it.
_BLOCK_BYTES = 64 * 1024

# More steps than anybody has a reason for.
_MOST_STEPS = 100


class StorageError(OSError):
    """A file elsewhere that can't be read: in one line what its storage says, of whatever kind its errors are."""


def is_url(place: str) -> bool:
    """Whether a place is a URL, not a path here."""
    return "://" in place


def is_plain(place: str | Path) -> bool:
    """Whether a place is no pipe, device or socket here, which can block for ever or have no end; nothing is none."""
    if is_url(str(place)):
        return True
    try:
        mode = Path(place).stat().st_mode
    except (OSError, ValueError):  # ValueError: a name with a null byte.
        return True
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def find_place(place: str) -> Path:
    """A path, or for a URL what behaves like one (universal_pathlib); raises UserError where its package is missing."""
    if not is_url(place):
        return expand_home(place)
    from upath import UPath

    try:
        found = UPath(place)
        _ = found.fs
    except (ImportError, ValueError) as error:
        raise UserError(public_address(f"{place} can't be reached: {error}")) from error
    return cast(Path, found)


@contextmanager
def reporting(place: str) -> Iterator[None]:
    """Raise what goes wrong at a URL as a StorageError, whatever its client raises; leave the rest as it is."""
    try:
        yield
    except (UserError, StorageError):
        raise
    except Exception as error:
        if not is_url(place):
            raise
        # Of a file that isn't there fsspec says its name alone.
        missing = "no such file" if isinstance(error, FileNotFoundError) else ""
        reason = missing or " ".join(str(error).split()) or type(error).__name__
        raise StorageError(public_address(f"{place}: {reason}")) from error


@contextmanager
def open_file(place: str, block_bytes: int = _BLOCK_BYTES) -> Iterator[BinaryIO]:
    """Open a file here or elsewhere for reading; elsewhere only the blocks that are read are fetched."""
    if not is_url(place):
        with Path(place).open("rb") as file:
            yield file
        return
    with reporting(place):
        filesystem, path = _connect(place)
        file = filesystem.open(path, "rb", block_size=block_bytes)
    with file:
        yield file


def list_files(place: str) -> tuple[str, list[str]] | None:
    """The URLs of all files in a folder elsewhere, or that a pattern there matches, and the folder that all are in.

    None for a file. Web servers have neither folders nor patterns: what they serve is a file.
    """
    if place.startswith(("http://", "https://")):
        return None
    with reporting(place):
        filesystem, path = _connect(place)
        if has_wildcards(path):
            parts = path.split("/")
            root = "/".join(itertools.takewhile(lambda part: not has_wildcards(part), parts))
            found = [name for name in filesystem.glob(path) if filesystem.isfile(name)]
        elif filesystem.isdir(path):
            root, found = path.rstrip("/"), filesystem.find(path)
        else:
            return None
        return filesystem.unstrip_protocol(root), [filesystem.unstrip_protocol(name) for name in sorted(found)]


def has_wildcards(place: str) -> bool:
    """Whether a place is a pattern as shells have them: `*`, `?`, `[a-z]`, and `**` for folders of any depth."""
    return any(sign in place for sign in "*?[")


def read_bytes(place: str, piece: tuple[int, int] | None = None) -> bytes:
    """A file's bytes, or of those a piece: its first byte's place and how many.

    Raises StorageError for more than MAX_HELD_BYTES in a piece, or in a file inside of an archive (`zip://a::b.zip`).
    """
    if piece is not None and not 0 <= piece[1] <= MAX_HELD_BYTES:
        raise StorageError(f"{piece[1]:,} bytes in a tar; expected up to {MAX_HELD_BYTES:,}")
    if is_url(place):
        part = {} if piece is None else {"start": piece[0], "end": piece[0] + piece[1]}
        with reporting(place):
            filesystem, path = _connect(place)
            if "::" not in place:
                return bytes(filesystem.cat_file(path, **part))
            with filesystem.open(path, "rb") as file:
                content = bytes(file.read(MAX_HELD_BYTES + 1))
        if len(content) > MAX_HELD_BYTES:
            raise StorageError(f"{place}: unpacks to more than {MAX_HELD_BYTES:,} bytes")
        return content
    with Path(place).open("rb") as file:
        if piece is None:
            return file.read()
        file.seek(piece[0], io.SEEK_SET)
        return file.read(piece[1])


def find_model_file(model: str | Path, name: str, revision: str | None = None) -> Path | None:
    """A file of a model in a folder or on a hub, from where it is fetched; None for a model that has none.

    Raises UserError when the hub can't be reached, and what was fetched before does not say whether it has the file.
    """
    if Path(model).is_dir():
        file = Path(model) / name
        return file if file.is_file() else None
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(str(model), name, revision=revision))
    except LocalEntryNotFoundError as error:  # An EntryNotFoundError, though the hub said nothing.
        asked_before = try_to_load_from_cache(str(model), name, revision=revision) is _CACHED_NO_EXIST
        # Every repository has this file, and only who fetches a whole one asks for it.
        whole = isinstance(try_to_load_from_cache(str(model), ".gitattributes", revision=revision), str)
        if asked_before or whole:
            return None
        raise UserError(
            f"{model} may or may not have {name}, and the hub can't be reached to see: "
            f"fetch the whole model where it can (hf download {model})."
        ) from error
    except EntryNotFoundError:
        return None


def save_steps(file: Path, steps: Sequence[Any], version: int | None = None) -> None:
    """Write the named steps of a recipe, in their order, into a model's directory, with their meaning's version."""
    write_json(file, {"steps": list(steps)} if version is None else {"version": version, "steps": list(steps)})


def load_steps(
    model: str | Path,
    name: str,
    build: Callable[[tuple[Any, ...]], object],
    read_version: Callable[[int, tuple[Any, ...]], tuple[Any, ...]] = lambda version, steps: steps,
) -> tuple[Any, ...] | None:
    """The steps that a model in a folder or on a hub has in a file of this name, or None without one.

    `read_version` gives the steps that those of a version are today; a file without one is of version 1.
    Raises UserError for a damaged file, and for steps that `build` refuses.
    """
    file = find_model_file(model, name)
    if file is None:
        return None
    values = read_object(file)
    version, listed = values.get("version", 1), values.get("steps")
    if type(version) is not int or not isinstance(listed, list) or len(listed) > _MOST_STEPS:
        found = f"{len(listed)} steps" if isinstance(listed, list) else f"{listed!r}"[:100]
        raise UserError(
            f'{file} is damaged: expected {{"steps": [...]}} of up to {_MOST_STEPS}, and a whole number as version, '
            f"found {found}, and the version {str(version)[:20]}."
        )
    try:
        steps = read_version(version, tuple(listed))
        build(steps)
    except UserError:
        raise
    except Exception as error:  # A StepError, or what an argument of another kind leads to.
        raise UserError(f"{file} has a step that can't be used: {say_error(error)}.") from error
    return steps


def _connect(place: str) -> tuple[Any, str]:
    import fsspec

    filesystem, path = fsspec.url_to_fs(place)
    return filesystem, path
