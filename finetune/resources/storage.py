"""Files on local disks, at URLs (s3://, gs://, https://) and of models on a hub."""

import io
import itertools
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from finetune.errors import UserError, format_error
from finetune.files import expand_home, write_json
from finetune.resources.addresses import public_address
from finetune.resources.limits import MAX_HELD_BYTES
from finetune.resources.model_json import read_object

# Enough for a header; fsspec's default block of 5 MB would download a whole utterance.
_BLOCK_BYTES = 64 * 1024

# The largest accepted number of transforms.
_MOST_TRANSFORMS = 100


class StorageError(OSError):
    """A remote file that can't be read, with the error of its storage in one line."""


def is_url(place: str) -> bool:
    """Whether a place is a URL, not a local path."""
    return "://" in place


def is_plain(place: str | Path) -> bool:
    """Whether a place is not a pipe, device or socket, which may block or be endless; a missing file is plain."""
    if is_url(str(place)):
        return True
    try:
        mode = Path(place).stat().st_mode
    except (OSError, ValueError):  # ValueError: a name with a null byte.
        return True
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def is_visible(file: Path, root: Path) -> bool:
    """Whether neither a file nor a folder of it below a root begins with a dot.

    Such are not a person's: `._a.wav` (macOS), `.ipynb_checkpoints`, `.DS_Store`, `.cache`.
    """
    return not any(part.startswith(".") for part in file.relative_to(root).parts)


def list_visible(root: Path, pattern: str = "*") -> list[Path]:
    """The files and folders below a root that match a pattern, sorted, without hidden ones."""
    return sorted(file for file in root.glob(pattern) if is_visible(file, root))


def find_place(place: str) -> Path:
    """A path, or for a URL a path of universal_pathlib; raises UserError if a package for the protocol is missing."""
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
    """Raise all exceptions for a URL as StorageError; those for local paths do not change."""
    try:
        yield
    except (UserError, StorageError):
        raise
    except Exception as error:
        if not is_url(place):
            raise
        # The message of fsspec for a missing file is its name only.
        missing = "no such file" if isinstance(error, FileNotFoundError) else ""
        reason = missing or " ".join(str(error).split()) or type(error).__name__
        raise StorageError(public_address(f"{place}: {reason}")) from error


@contextmanager
def open_file(place: str, block_bytes: int = _BLOCK_BYTES) -> Iterator[BinaryIO]:
    """Open a local or remote file for reading; of a remote file only the blocks that are read are downloaded."""
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
    """The folder of a remote folder or pattern, and the URLs of all files in it.

    None for a file. Web servers have neither folders nor patterns, only files.
    """
    if place.startswith(("http://", "https://")):
        return None
    with reporting(place):
        filesystem, path = _connect(place)
        if has_wildcards(path):
            root = "/".join(itertools.takewhile(lambda part: not has_wildcards(part), path.split("/")))
            found = [name for name in filesystem.glob(path) if filesystem.isfile(name)]
        elif filesystem.isdir(path):
            root, found = path.rstrip("/"), filesystem.find(path)
        else:
            return None
        return filesystem.unstrip_protocol(root), [filesystem.unstrip_protocol(name) for name in sorted(found)]


def has_wildcards(place: str) -> bool:
    """Whether a place is a shell pattern: `*`, `?`, `[a-z]`, and `**` for folders of any depth."""
    return any(sign in place for sign in "*?[")


def read_bytes(place: str, piece: tuple[int, int] | None = None) -> bytes:
    """The bytes of a file, or a `piece` of them: its offset and its length.

    Raises StorageError for more than MAX_HELD_BYTES in a piece, or in a file in an archive (`zip://a::b.zip`).
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
    """A file of a model in a folder, or downloaded from a hub; None if the model has no such file.

    Raises UserError if the hub can't be reached and earlier downloads do not tell whether the file exists.
    """
    if Path(model).is_dir():
        file = Path(model) / name
        return file if file.is_file() else None
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(str(model), name, revision=revision))
    except LocalEntryNotFoundError as error:  # A subclass of EntryNotFoundError, but the hub did not answer.
        asked_before = try_to_load_from_cache(str(model), name, revision=revision) is _CACHED_NO_EXIST
        # Every repository has this file, and only a download of all files includes it.
        whole = isinstance(try_to_load_from_cache(str(model), ".gitattributes", revision=revision), str)
        if asked_before or whole:
            return None
        raise UserError(
            f"{model} may or may not have {name}, and the hub can't be reached to check: "
            f"download the whole model when it can be reached (hf download {model})."
        ) from error
    except EntryNotFoundError:
        return None


def save_transforms(file: Path, transforms: Sequence[Any], version: int | None = None) -> None:
    """Write the transforms of a recipe, in order, into a file of a model, with the version of their definitions."""
    values = {} if version is None else {"version": version}
    write_json(file, {**values, "steps": list(transforms)})


def load_transforms(
    model: str | Path,
    name: str,
    build: Callable[[tuple[Any, ...]], object],
    read_version: Callable[[int, tuple[Any, ...]], tuple[Any, ...]] = lambda version, transforms: transforms,
) -> tuple[Any, ...] | None:
    """The transforms in a file of a model in a folder or on a hub; None without such a file.

    `read_version` converts the transforms of a version to current ones; a file without a version has version 1. Raises
    UserError for a damaged file, and for transforms that `build` refuses.
    """
    file = find_model_file(model, name)
    if file is None:
        return None
    values = read_object(file)
    version, listed = values.get("version", 1), values.get("steps")
    if type(version) is not int or not isinstance(listed, list) or len(listed) > _MOST_TRANSFORMS:
        found = f"{len(listed)} transforms" if isinstance(listed, list) else f"{listed!r}"[:100]
        raise UserError(
            f'{file} is damaged: expected {{"steps": [...]}} of up to {_MOST_TRANSFORMS}, and an integer as version, '
            f"found {found}, and the version {str(version)[:20]}."
        )
    try:
        transforms = read_version(version, tuple(listed))
        build(transforms)
    except UserError:
        raise
    except Exception as error:  # A TransformError, or an error from an argument of a wrong type.
        raise UserError(f"{file} has a transform that can't be used: {format_error(error)}.") from error
    return transforms


def _connect(place: str) -> tuple[Any, str]:
    import fsspec

    return fsspec.url_to_fs(place)
