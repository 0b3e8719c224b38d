"""A cache of audio headers between runs; an entry is valid while the file's size and time are unchanged."""

import os
import sqlite3
from pathlib import Path

from finetune.audio.waveforms import Header, Recording, read_header

_SCHEMA = """CREATE TABLE IF NOT EXISTS headers
(path TEXT PRIMARY KEY, size INTEGER, time INTEGER, samples INTEGER, rate INTEGER, channels INTEGER) WITHOUT ROWID"""


class HeaderIndex:
    """The headers of local audio files, in an SQLite file of the user's cache; use it in a `with` statement.

    Where that file can't be used, every header is read from its audio file.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._connection: sqlite3.Connection | None = None
        self._empty = True
        self._new: dict[str, tuple[int, ...]] = {}

    def __enter__(self) -> "HeaderIndex":
        try:
            file = self._file or default_place()
            file.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(file)
            self._connection.execute(_SCHEMA)
            self._empty = self._connection.execute("SELECT 1 FROM headers LIMIT 1").fetchone() is None
        except (sqlite3.Error, OSError, RuntimeError):  # RuntimeError: there is no home folder.
            self._give_up()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._connection is not None:
                with self._connection:
                    rows = [(path, *values) for path, values in self._new.items()]
                    self._connection.executemany("INSERT OR REPLACE INTO headers VALUES (?, ?, ?, ?, ?, ?)", rows)
                self._connection.close()
        except sqlite3.Error:
            self._give_up()

    def read(self, recording: Recording) -> Header:
        """The header of a recording, as `read_header` returns it; raises AudioError as it does."""
        if recording.path is None or recording.data is not None or recording.piece is not None:
            return read_header(recording)
        file = Path(recording.path)
        try:
            status = file.stat()
        except (OSError, ValueError):  # A URL, a missing file or an invalid name: `read_header` handles them.
            return read_header(recording)
        path, state = str(file.absolute()), (status.st_size, status.st_mtime_ns)
        known = self._find(path)
        if known is None or known[:2] != state or not all(isinstance(value, int) for value in known):
            header = read_header(recording)
            known = self._new[path] = (*state, header.samples, header.sampling_rate, header.channels)
        return Header(*known[2:])

    def _find(self, path: str) -> tuple[int, ...] | None:
        if path in self._new or self._empty or self._connection is None:
            return self._new.get(path)
        query = "SELECT size, time, samples, rate, channels FROM headers WHERE path = ?"
        try:
            return self._connection.execute(query, (path,)).fetchone()
        except sqlite3.Error:
            self._give_up()
            return None

    def _give_up(self) -> None:
        """Continue without the index, which only saves time: it is damaged, locked or on a full disk."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def default_place() -> Path:
    """The default path of the index: `finetune/headers.sqlite` under XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune" / "headers.sqlite"
