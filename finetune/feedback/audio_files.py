"""The audio of a store: files named by the hash of their content, in a folder or at a URL, sealed where asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path

from finetune.errors import UserError, format_error
from finetune.feedback.sealing import Seal
from finetune.files import delete, write_bytes
from finetune.resources.storage import StorageError, find_place, is_url, reporting


class AudioFiles:
    """Files by the SHA-256 of their content."""

    def __init__(self, place: str, seal: Seal) -> None:
        """Keep files in a folder or at a URL; raises UserError if a package for its protocol is missing."""
        self._place, self._seal = place, seal
        self._folder = find_place(place)

    def put(self, content: bytes) -> str:
        """Store a file and return its digest; when this returns, the file has reached the disk. Raises UserError."""
        digest = hashlib.sha256(content).hexdigest()
        file = self._file(digest)
        try:
            with reporting(self._place):
                if not file.exists():
                    file.parent.mkdir(parents=True, exist_ok=True)
                    sealed = self._seal.seal_bytes(content, digest)
                    # An object of a bucket is whole or absent anyway.
                    file.write_bytes(sealed) if is_url(self._place) else write_bytes(file, sealed)
        except (OSError, StorageError) as error:
            raise UserError(f"The audio can't be stored in {self._place}: {format_error(error)}.") from error
        return digest

    def get(self, digest: str) -> bytes:
        """Read a file; raises UserError if it is not there, or can't be decrypted."""
        try:
            with reporting(self._place):
                return self._seal.open_bytes(self._file(digest).read_bytes(), digest)
        except FileNotFoundError as error:
            raise UserError(f"{self._place} has lost the audio {digest[:12]}: restore it from a backup.") from error
        except (OSError, StorageError) as error:
            raise UserError(
                f"The audio {digest[:12]} can't be read from {self._place}: {format_error(error)}."
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

    def _file(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest
