"""The audio of a store: files named by the hash of their content, in a folder or at a URL, sealed where asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import UserError, format_error
from finetune.feedback.sealing import Seal
from finetune.files import delete, write_bytes
from finetune.resources.addresses import public_address
from finetune.resources.storage import StorageError, find_place, is_url, reporting

DIGITS = 64
"""The length of a digest."""
_PREFIXES = tuple(f"{number:02x}" for number in range(256))


class AudioFiles:
    """Files by the SHA-256 of their content."""

    def __init__(self, place: str, seal: Seal) -> None:
        """Keep files in a folder or at a URL; raises UserError if a package for its protocol is missing."""
        self._place, self._shown, self._seal = place, public_address(place), seal
        self._folder = find_place(place)

    def put(self, digest: str, content: bytes) -> None:
        """Store a file unless it is there; when this returns, the file has reached the disk. Raises UserError."""
        file = self._file(digest)
        try:
            with reporting(self._place):
                if not file.exists():
                    file.parent.mkdir(parents=True, exist_ok=True)
                    sealed = self._seal.seal_bytes(content, digest)
                    # An object of a bucket is whole or absent anyway.
                    file.write_bytes(sealed) if is_url(self._place) else write_bytes(file, sealed)
        except (OSError, StorageError) as error:
            raise UserError(f"The audio can't be stored in {self._shown}: {format_error(error)}.") from error

    def get(self, digest: str) -> bytes:
        """Read a file; raises UserError if it is not there, or can't be decrypted."""
        try:
            with reporting(self._place):
                return self._seal.open_bytes(self._file(digest).read_bytes(), digest)
        except FileNotFoundError as error:
            raise UserError(f"{self._shown} has lost the audio {digest[:12]}: restore it from a backup.") from error
        except (OSError, StorageError) as error:
            raise UserError(
                f"The audio {digest[:12]} can't be read from {self._shown}: {format_error(error)}."
            ) from error

    def find_plain(self, digest: str) -> Path | None:
        """The local file of an audio that is not encrypted; None where there is none."""
        return None if self._seal.is_active or is_url(self._place) else self._file(digest)

    def delete(self, digest: str) -> None:
        """Delete a file, if it is there; raises UserError."""
        file = self._file(digest)
        try:
            with reporting(self._place):
                delete(file) if not is_url(self._place) else file.unlink(missing_ok=True)
        except (OSError, StorageError) as error:
            raise UserError(f"The audio {digest[:12]} can't be deleted: {format_error(error)}.") from error

    def exists(self, digest: str) -> bool:
        """Whether a file is there; raises UserError."""
        with self._listing():
            return self._file(digest).exists()

    def iterate(self) -> Iterator[tuple[str, set[str]]]:
        """All files: their digests by the two digits that these begin with. Raises UserError."""
        for prefix in _PREFIXES:
            yield prefix, {file.name for file in self._list(prefix) if len(file.name) == DIGITS}

    def is_older(self, digest: str, time: float) -> bool:
        """Whether a file was last written before a time (seconds of the epoch); False where nobody knows that."""
        with self._listing():
            return self._is_older(self._file(digest), time)

    def delete_unfinished(self, time: float) -> int:
        """Delete files whose writing was killed before a time, and return their number; raises UserError."""
        if is_url(self._place):
            return 0
        found = [file for prefix in _PREFIXES for file in self._list(prefix) if file.name.endswith(".partial")]
        with self._listing():
            old = [file for file in found if self._is_older(file, time)]
            for file in old:
                delete(file)
        return len(old)

    def _list(self, prefix: str) -> list[Path]:
        with self._listing():
            folder = self._folder / prefix
            return list(folder.iterdir()) if folder.is_dir() else []

    def _is_older(self, file: Path, time: float) -> bool:
        try:
            if is_url(self._place):
                modified: float = file.fs.modified(file.path).timestamp()  # type: ignore[attr-defined]
            else:
                modified = file.stat().st_mtime
        except (FileNotFoundError, NotImplementedError):
            return False
        return modified < time

    @contextmanager
    def _listing(self) -> Iterator[None]:
        try:
            with reporting(self._place):
                yield
        except (OSError, StorageError) as error:
            raise UserError(f"The audio in {self._shown} can't be listed: {format_error(error)}.") from error

    def _file(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest


def hash_audio(content: bytes) -> str:
    """The name of a file: the SHA-256 of its content."""
    return hashlib.sha256(content).hexdigest()
