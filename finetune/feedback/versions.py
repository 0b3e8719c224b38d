"""The versions of a store's model, and which one is the champion: folders, and a link that is switched at once.

`STORE/models/champion` is a link to the folder of a version, so `finetune serve`, `finetune transcribe` and plain
Transformers load it by this path. The audit log has each switch; the link decides what is true after a kill.
"""

from __future__ import annotations

import itertools
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import insert, select

from finetune.errors import UserError, format_error
from finetune.feedback.configuration import log_step, number_step
from finetune.feedback.records import now
from finetune.feedback.schema import MODELS
from finetune.feedback.store import Store
from finetune.files import hash_folder, new_folder

CHAMPION = "champion"
_SWITCHES = ("promote", "roll back")


@dataclass(frozen=True, kw_only=True)
class Version:
    """A model of a store: the version it was trained from, its training snapshot, and what its gate found.

    `gate` is {} for a model that came from elsewhere, and otherwise has `passed` and `reasons`.
    """

    name: str
    digest: str
    parent: str | None
    snapshot: str | None
    gate: dict[str, Any]
    added_at: str
    added_by: str


class Versions:
    """The versions of a store."""

    def __init__(self, store: Store) -> None:
        """Take a store."""
        self._store = store
        self.folder = store.folder / "models"

    def add(
        self,
        model: Path,
        who: str,
        name: str,
        *,
        parent: str | None = None,
        snapshot: str | None = None,
        gate: Mapping[str, Any] | None = None,
    ) -> Version:
        """Copy a model's folder into the store; raises UserError for a name that is there, and what is no model."""
        if name == CHAMPION or not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or len(name) > 64:
            raise UserError(f"The version's name is {name[:80]!r}; expected letters, digits, '.', '-' and '_'.")
        if not (model / "config.json").is_file():
            raise UserError(f"{model} is no model: it has no config.json.")
        with self._lock():
            if any(each.name == name for each in self.all()):
                raise UserError(f"The store has a version {name} already: choose another name.")
            try:
                with new_folder(self.folder / name) as partial:
                    shutil.copytree(model, partial, dirs_exist_ok=True)
            except OSError as error:
                raise UserError(f"The model can't be copied to {self.folder}: {format_error(error)}.") from error
            values = {
                "name": name,
                "digest": hash_folder(self.folder / name),
                "parent": parent,
                "snapshot": snapshot,
                "added_at": now(),
                "added_by": who,
            }
            with self._store.database.write() as connection:
                connection.execute(insert(MODELS).values(**values, gate=json.dumps(gate or {})))
                log_step(connection, who, "add version", name, {"parent": parent, "snapshot": snapshot})
        return self.get(name)

    def all(self) -> list[Version]:
        """All versions, the oldest first."""
        with self._store.database.read() as connection:
            rows = connection.execute(select(MODELS).order_by(number_step("add version", MODELS.c.name))).all()
        return [Version(**{**row._mapping, "gate": json.loads(row.gate)}) for row in rows]

    def next_name(self) -> str:
        """A name that no version has: version-001 and so on."""
        known = {version.name for version in self.all()}
        return next(name for number in itertools.count(1) if (name := f"version-{number:03d}") not in known)

    def get(self, name: str) -> Version:
        """A version, or the champion by `champion`; raises UserError for an unknown name."""
        wanted = self.champion if name == CHAMPION else name
        versions = self.all()
        for version in versions:
            if version.name == wanted:
                return version
        known = ", ".join(version.name for version in versions) or "none"
        what = "no champion yet: promote a version" if name == CHAMPION else f"no version {name}"
        raise UserError(f"The store has {what}; it has {known}.")

    def path(self, name: str) -> Path:
        """The folder of a version; raises UserError for an unknown name."""
        return self.folder / self.get(name).name

    @property
    def champion(self) -> str | None:
        """The name of the champion; None before the first one."""
        link = self.folder / CHAMPION
        return link.readlink().name if link.is_symlink() else None

    def promote(self, name: str, who: str, *, force: bool = False) -> str | None:
        """Make a version the champion, and return the name of the one before.

        Raises UserError for a version that its gate refused or that was compared with another champion, unless forced.
        """
        with self._lock():
            version, before = self.get(name), self.champion
            if version.name == before:
                raise UserError(f"{version.name} is the champion already.")
            if version.gate and not version.gate.get("passed") and not force:
                reasons = "; ".join(version.gate.get("reasons", ())) or "see its report"
                raise UserError(f"The gate refused {version.name}: {reasons}. --force promotes it all the same.")
            if version.gate and version.parent != before and not force:
                raise UserError(
                    f"{version.name} was compared with {version.parent}, but the champion is {before} now: improve "
                    "again, or use --force."
                )
            self._switch(version.name, before, who, "promote", forced=force)
            return before

    def rollback(self, who: str) -> str:
        """Make the champion before this one the champion again, and return its name; raises UserError without one."""
        with self._lock():
            history = self.history()
            if len(history) < 2:
                raise UserError("There was no champion before this one.")
            self._switch(history[-2], history[-1], who, "roll back")
            return history[-2]

    def find_waiting(self) -> str | None:
        """The newest version that passed its gate against today's champion and was never promoted; None without one."""
        promoted, champion = {entry.subject for entry in self._store.audit_log(("promote",))}, self.champion
        waiting = [
            each.name
            for each in self.all()
            if each.gate.get("passed") and each.parent == champion and each.name not in promoted
        ]
        return waiting[-1] if waiting else None

    def history(self) -> list[str]:
        """The champions up to this one; those that were rolled back are left out."""
        names: list[str] = []
        for entry in self._store.audit_log(_SWITCHES):
            if entry.action == "promote":
                names.append(entry.subject)
            else:
                names.pop()
        return names

    def _switch(self, name: str, before: str | None, who: str, action: str, **details: object) -> None:
        """Log a switch and do it; a kill in between leaves a link without an entry, which `_complete` adds."""
        with self._store.database.write() as connection:
            log_step(connection, who, action, name, {"from": before, **details})
            link = self.folder / f".{CHAMPION}.{secrets.token_hex(4)}.partial"
            try:
                link.symlink_to(name, target_is_directory=True)
                link.replace(self.folder / CHAMPION)
            except OSError as error:
                link.unlink(missing_ok=True)
                raise UserError(f"{self.folder} can't have links: {format_error(error)}.") from error

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            self._complete()
            yield

    def _complete(self) -> None:
        """Log a switch that was killed between the link and the end of its transaction."""
        champion, history = self.champion, self.history()
        if champion is not None and history[-1:] != [champion]:
            action = "roll back" if history[-2:-1] == [champion] else "promote"
            self._store.log("finetune", action, champion, completed=True)
        for link in self.folder.glob(f".{CHAMPION}.*.partial"):
            link.unlink(missing_ok=True)
