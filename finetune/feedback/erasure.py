"""Deleting what is forgotten from the disk, after the database says so: audio files, and texts in the log of SQLite.

A process that is killed in between leaves a note in the database, by which the next one goes on.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from finetune.errors import UserError
from finetune.feedback.audio_files import DIGITS, AudioFiles
from finetune.feedback.configuration import log_step
from finetune.feedback.database import Database
from finetune.feedback.records import Remains, now
from finetune.feedback.schema import AUDIT, HYPOTHESES, REMOVALS, REVIEWS, SETTINGS, UTTERANCES

# So long it waits for readers of what is deleted.
_PURGE_SECONDS = 10.0
CONSENT = "consent"
"""The audit log's action for another consent."""
_ORPHAN_SECONDS = 3600
# The setting that says that SQLite's log may have texts that are forgotten; its value names the last call.
_LOG_PENDING = "log pending"


def erase_row(connection: Connection, number: int, digest: str | None) -> None:
    """Delete all of an utterance from the database, except that it was there; note that its audio is to be deleted."""
    for table in (HYPOTHESES, REVIEWS):
        connection.execute(delete(table).where(table.c.utterance_id == number))
    gone: dict[str, Any] = dict.fromkeys(("digest", "speaker", "speaker_hash", "text", "licence"))
    gone |= {"status": "forgotten", "source": "", "consent": "", "reasons": "{}"}
    connection.execute(update(UTTERANCES).where(UTTERANCES.c.id == number).values(**gone))
    consents = (AUDIT.c.action == CONSENT) & (AUDIT.c.subject == name_utterance(number))
    connection.execute(update(AUDIT).where(consents).values(details=json.dumps({"forgotten": True})))
    if digest is not None and connection.execute(select(REMOVALS).where(REMOVALS.c.digest == digest)).first() is None:
        connection.execute(insert(REMOVALS).values(digest=digest, added_at=now()))


def note_log(connection: Connection) -> None:
    """Note in a transaction that deletes texts that SQLite's log has them still."""
    if connection.dialect.name == "sqlite":
        connection.execute(delete(SETTINGS).where(SETTINGS.c.name == _LOG_PENDING))
        connection.execute(insert(SETTINGS).values(name=_LOG_PENDING, value=secrets.token_hex(8)))


def name_utterance(number: int) -> str:
    """An utterance as a subject of the audit log."""
    return f"utterance {number}"


def is_unfinished(database: Database) -> bool:
    """Whether something that is forgotten was not deleted yet."""
    with database.read() as connection:
        pending = connection.execute(select(SETTINGS.c.value).where(SETTINGS.c.name == _LOG_PENDING)).first()
        return pending is not None or connection.execute(select(REMOVALS.c.digest).limit(1)).first() is not None


def complete_erasure(
    database: Database, audio: AudioFiles, who: str, *, waits: bool = True, is_late: bool = True
) -> Remains:
    """Delete from the disk what the database no longer has, and return what could not be deleted.

    It waits for readers of SQLite, if asked for, but not for ever. The audit log has what could not be deleted, and
    when `is_late`, that it was deleted after all. Raises UserError where the database fails.
    """
    with database.read() as connection:
        digests = connection.execute(select(REMOVALS.c.digest)).scalars().all()
        query = select(SETTINGS.c.value).where(SETTINGS.c.name == _LOG_PENDING)
        pending: str | None = connection.execute(query).scalar()
    left = sum(not _delete_audio(database, audio, digest) for digest in digests)
    is_in_log = pending is not None and not database.purge(_PURGE_SECONDS if waits else 0)
    remains = Remains(audio_files=left, is_in_log=is_in_log)
    deleted = len(digests) - left
    with database.write() as connection:
        if pending is not None and not is_in_log:  # Unless another process deleted more since.
            connection.execute(delete(SETTINGS).where(SETTINGS.c.name == _LOG_PENDING, SETTINGS.c.value == pending))
        if remains != Remains() and not is_late:
            details = {"audio files": left, "log of SQLite": is_in_log}
            log_step(connection, who, "not deleted yet", "what is forgotten", details)
        if is_late and (deleted or (pending is not None and not is_in_log)):
            details = {"audio files": deleted, "log of SQLite": pending is not None and not is_in_log}
            log_step(connection, who, "deleted later", "what is forgotten", details)
    return remains


def _delete_audio(database: Database, audio: AudioFiles, digest: str, *, is_noted: bool = True) -> bool:
    """Delete a file unless an utterance has it; returns whether that could be done.

    Who adds the same audio at the same time waits, and writes the file again: see `Store.add`.
    """
    with database.write(alone=digest) as connection:
        if connection.execute(select(UTTERANCES.c.id).where(UTTERANCES.c.digest == digest)).first() is None:
            try:
                audio.delete(digest)
            except UserError:
                return False
        if is_noted:
            connection.execute(delete(REMOVALS).where(REMOVALS.c.digest == digest))
    return True


@dataclass(frozen=True, kw_only=True)
class AudioCheck:
    """The digests of audio that no utterance has (`orphans`, at least an hour old), and of audio that is lost.

    `unfinished` files are those whose writing was killed; they are deleted.
    """

    orphans: Sequence[str]
    lost: Sequence[str]
    unfinished: int


def check_audio(database: Database, audio: AudioFiles) -> AudioCheck:
    """Compare the audio files with the utterances; raises UserError."""
    orphans: list[str] = []
    lost: list[str] = []
    limit = time.time() - _ORPHAN_SECONDS
    for prefix, found in audio.iterate():
        with database.read() as connection:
            first, last = prefix.ljust(DIGITS, "0"), prefix.ljust(DIGITS, "f")
            query = select(UTTERANCES.c.digest).where(UTTERANCES.c.digest.between(first, last))
            known = {digest for digest in connection.execute(query).scalars() if digest is not None}
        orphans += [digest for digest in sorted(found - known) if audio.is_older(digest, limit)]
        lost += [digest for digest in sorted(known - found) if not audio.exists(digest)]
    return AudioCheck(orphans=orphans, lost=lost, unfinished=audio.delete_unfinished(limit))


def delete_orphans(database: Database, audio: AudioFiles, orphans: Collection[str], who: str) -> int:
    """Delete audio that no utterance has, and return the number of files; raises UserError."""
    deleted = sum(_delete_audio(database, audio, digest, is_noted=False) for digest in orphans)
    if deleted:
        with database.write() as connection:
            log_step(connection, who, "delete orphans", f"{deleted} audio files", {})
    return deleted
