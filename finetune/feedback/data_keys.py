"""The data keys in the database of a store, opened with its master key, also those that came while a process runs."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, func, insert, select, update

from finetune.errors import UserError
from finetune.feedback.configuration import log_step
from finetune.feedback.database import Database
from finetune.feedback.records import now
from finetune.feedback.schema import DATA_KEYS
from finetune.feedback.sealing import KEY_VARIABLE, Seal, StaleKey, unwrap, wrap

ReadKey = Callable[[], bytes | None]
"""Reads the master key again from where it came, which may have another one now; raises UserError."""


class DataKeys:
    """The data keys of a store; `seal` has those that are known."""

    def __init__(self, database: Database, folder: Path, master: bytes | None, read_key: ReadKey | None) -> None:
        """Open the keys; raises UserError for a wrong or missing master key."""
        self._database, self._folder, self._master, self._read_key = database, folder, master, read_key
        wrapped = self._read()
        if wrapped and master is None:
            raise UserError(f"{folder} is encrypted: give its key with --key-file FILE or in {KEY_VARIABLE}.")
        if master is not None and not wrapped:
            raise UserError(f"{folder} is not encrypted, so no key is expected: leave it out.")
        keys = {number: unwrap(master, each) for number, each in wrapped.items()} if master else {}
        self.seal = Seal(keys, self._open_again)

    def refresh(self) -> None:
        """Seal with the newest key from now on; raises StaleKey where the master key is another one by now."""
        if not self.seal.is_active:
            return
        with self._database.read() as connection:
            newest = connection.execute(select(func.max(DATA_KEYS.c.id))).scalar_one()
        if newest != self.seal.newest:
            self.seal.take(self._open_again())

    def rotate(self, old: bytes, new: bytes, who: str) -> None:
        """Wrap the keys with a new master key, and add one that seals from now on; raises UserError."""
        if not self.seal.is_active:
            raise UserError(f"{self._folder} is not encrypted, so it has no key to change.")
        with self._database.write(alone="data keys") as connection:
            rows = connection.execute(select(DATA_KEYS.c.id, DATA_KEYS.c.wrapped)).all()
            for row in rows:
                wrapped = wrap(new, unwrap(old, row.wrapped))
                connection.execute(update(DATA_KEYS).where(DATA_KEYS.c.id == row.id).values(wrapped=wrapped))
            insert_key(connection, new)
            log_step(connection, who, "rotate key", "the master key", {})
        self._master = new
        self.refresh()

    def _open_again(self) -> dict[int, bytes]:
        """The keys, opened with the master key that is known or else with the one that is where it came from."""
        wrapped = self._read()
        for read in (lambda: self._master, self._read_key):
            try:
                master = None if read is None else read()
                if master is not None:
                    keys = {number: unwrap(master, each) for number, each in wrapped.items()}
                    self._master = master
                    return keys
            except UserError:  # No key there, or one that does not open the store.
                continue
        raise StaleKey(
            f"The key of {self._folder} was changed, and this process has the old one: put the new key into its key "
            f"file, which is read again, or start it again with the new key in {KEY_VARIABLE}."
        )

    def _read(self) -> dict[int, bytes]:
        with self._database.read() as connection:
            return dict(connection.execute(select(DATA_KEYS.c.id, DATA_KEYS.c.wrapped)).tuples().all())


def insert_key(connection: Connection, master: bytes) -> None:
    """Add a random data key."""
    key = {"wrapped": wrap(master, secrets.token_bytes(32)), "added_at": now()}
    connection.execute(insert(DATA_KEYS), [key])
