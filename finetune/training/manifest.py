"""Digests of the files of a checkpoint: training does not resume from files that have changed."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import xxhash

from finetune.errors import UserError
from finetune.files import write_json

FILE = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """Digests of the files of a checkpoint by name, and of files `beside` it by path from its parent folder."""

    files: dict[str, str]
    beside: dict[str, str]


def measure_digest(file: Path) -> str:
    """XXH3 of a file, 128 bits in hexadecimal: detects accidental changes, not forgeries. Raises OSError."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, xxhash.xxh3_128).hexdigest()


def write_manifest(checkpoint: Path, beside: Mapping[str, str]) -> None:
    """Write the digests of all files of a checkpoint, with those of files `beside` it that it needs."""
    files = {file.name: measure_digest(file) for file in sorted(checkpoint.iterdir())}
    write_json(checkpoint / FILE, {"format": FORMAT, "files": files, "beside": dict(beside)})


def read_manifest(checkpoint: Path) -> Manifest | None:
    """The manifest of a checkpoint; None for a checkpoint of a version that wrote none.

    Raises ValueError for a manifest that cannot be read, and UserError for one of a later format.
    """
    file = checkpoint / FILE
    if not os.path.lexists(file):
        return None
    if not file.is_file():
        raise ValueError(f"{FILE} is no file")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        found, manifest = int(values["format"]), Manifest(dict(values["files"]), dict(values["beside"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{FILE} can't be read") from error
    if found > FORMAT:
        raise UserError(
            f"{file} is of format {found}, and this version of finetune knows formats up to {FORMAT}: use the version "
            "that wrote it."
        )
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in (*manifest.files, *manifest.beside)):
        raise ValueError(f"{FILE} names what no checkpoint has")
    return manifest


def find_damage(checkpoint: Path, manifest: Manifest) -> str | None:
    """Which file of a checkpoint differs from its manifest, and how; None if no file does."""
    listed = {checkpoint / name: digest for name, digest in manifest.files.items()}
    listed |= {checkpoint.parent / name: digest for name, digest in manifest.beside.items()}
    for file, digest in listed.items():
        if not file.is_file():
            return f"{file.name} is missing"
        try:
            found = measure_digest(file)
        except OSError as error:
            return f"{file.name} can't be read ({error.strerror or error})"
        if found != digest:
            return f"{file.name} has changed since it was written"
    return None
