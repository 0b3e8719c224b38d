"""A store of utterances and corrections that only grows, used by any number of processes at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy import func, insert, select

from finetune.errors import UserError
from finetune.feedback.audio_files import AudioFiles, hash_audio
from finetune.feedback.configuration import (
    CONFIGURATION,
    check_name,
    check_shares,
    log_step,
    read_configuration,
    require_words,
    write_configuration,
)
from finetune.feedback.data_keys import DataKeys, ReadKey, insert_key
from finetune.feedback.database import Database, check_url, sqlite_url
from finetune.feedback.erasure import (
    AudioCheck,
    check_audio,
    complete_erasure,
    delete_orphans,
    erase_row,
    is_unfinished,
    note_log,
)
from finetune.feedback.records import (
    AuditEntry,
    Hypothesis,
    NewUtterance,
    QueuePlace,
    Receipt,
    Remains,
    Review,
    Utterance,
)
from finetune.feedback.review_queue import read_page
from finetune.feedback.row_writer import RowWriter
from finetune.feedback.rows import RowReader, require_row
from finetune.feedback.schema import AUDIT, SETTINGS, SNAPSHOT_UTTERANCES, UTTERANCES
from finetune.files import expand_home
from finetune.resources.storage import is_url

_PAGE = 500


class Store:
    """A store in a folder: `store.yaml` with the places of its database and audio, by default in the folder, too.

    All methods are safe in threads and processes; what they return has reached the disk. Texts, words and names of
    speakers are sealed with the key of the store, if it has one.
    """

    def __init__(self, folder: Path, master_key: bytes | None = None, read_key: ReadKey | None = None) -> None:
        """Open a store; raises UserError where there is none, and for a wrong or missing key.

        `read_key` reads the key again once another process has changed it. What an earlier process did not finish
        deleting is deleted.
        """
        self.folder = folder
        places = read_configuration(folder)
        self.database = Database(places.get("database") or sqlite_url(folder / "store.sqlite"))
        with self.database.read() as connection:
            settings = dict(connection.execute(select(SETTINGS.c.name, SETTINGS.c.value)).tuples().all())
        self._keys = DataKeys(self.database, folder, master_key, read_key)
        self.seal = self._keys.seal
        self._rows = RowReader(self.seal)
        self.audio = AudioFiles(places.get("audio") or str(folder / "audio"), self.seal)
        self.has_own_audio = "audio" not in places
        self.reviewers_wanted = int(settings["reviewers_wanted"])
        shares = float(settings["test_share"]), float(settings["validation_share"])
        self._writer = RowWriter(self.seal, self.reviewers_wanted, *shares)
        self.complete_erasure("finetune", waits=False)

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        database: str | None = None,
        audio: str | None = None,
        master_key: bytes | None = None,
        reviewers_wanted: int = 1,
        test_share: float = 0.1,
        validation_share: float = 0.1,
    ) -> Store:
        """Make a new store; the shares are those of the speakers (utterances without one) of test and validation.

        They can't change later: otherwise a speaker of the test set could become one of training. With a URL of a
        PostgreSQL database that holds a store already, the folder is a second way to that store. Raises UserError.
        """
        check_shares(test_share, validation_share)
        if reviewers_wanted < 1:
            raise UserError(f"The reviewers of each utterance are {reviewers_wanted}; expected 1 or more.")
        if database is not None:
            check_url(database)
        if (folder / CONFIGURATION).exists():
            raise UserError(f"{folder} is a store already.")
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} has other files: expected a new or an empty folder.")
        opened = Database(database) if database else None  # A server that can't be reached leaves no folder.
        folder.mkdir(parents=True, exist_ok=True)
        opened = opened or Database(sqlite_url(folder / "store.sqlite"))
        values = {
            "test_share": str(test_share),
            "validation_share": str(validation_share),
            "reviewers_wanted": str(reviewers_wanted),
        }
        with opened.write() as connection:
            if connection.execute(select(func.count()).select_from(SETTINGS)).scalar_one() == 0:
                connection.execute(insert(SETTINGS), [{"name": name, "value": text} for name, text in values.items()])
                if master_key is not None:
                    insert_key(connection, master_key)
        opened.close()
        local = audio is not None and not is_url(audio)
        # Another command may be called in another folder.
        places = {"database": database, "audio": str(expand_home(str(audio)).absolute()) if local else audio}
        write_configuration(folder, {name: each for name, each in places.items() if each})
        return cls(folder, master_key)

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def add(self, new: NewUtterance, who: str, correction: str | None = None) -> Receipt:
        """Add an utterance, with a correction by `who` if there is one.

        The same audio is one utterance: what comes again is a hypothesis or a review of it, and the consent that counts
        from now on. Raises UserError without consent and where nothing could be stored.
        """
        if not new.consent.strip():
            raise UserError("There is no consent to keep this utterance: nothing was stored.")
        check_name(who, "who adds it")
        check_name(new.domain, "the domain")
        if correction is not None:
            require_words(correction)
        self._keys.refresh()
        digest = hash_audio(new.audio)
        self.audio.put(digest, new.audio)
        with self.database.write(alone=digest) as connection:
            # The same audio may have been deleted after `put` found it; from here on nobody deletes it.
            self.audio.put(digest, new.audio)
            found = connection.execute(select(UTTERANCES.c.id).where(UTTERANCES.c.digest == digest)).scalar()
            number = found or self._writer.insert(connection, new, digest, who)
            renewed = found is not None and self._writer.renew_consent(connection, number, new.consent, who)
            if new.hypothesis is not None:
                self._writer.insert_hypothesis(connection, number, new.hypothesis)
                self._writer.update_priority(connection, number, new.signals)
            receipt = self._writer.settle(connection, number, is_new=found is None)
            if correction is not None:
                review = Review(reviewer=who, action="edit", text=correction)
                receipt = self._writer.insert_review(connection, number, review, is_new=found is None)
        if renewed and receipt.note is None:
            receipt = replace(receipt, note=f"Utterance {number} has another consent now: the last one counts.")
        return receipt

    def renew_consent(self, number: int, consent: str, who: str) -> bool:
        """Replace the consent of an utterance, and return whether it was another one; the audit log has both.

        Raises UserError for an utterance that is not there, and without consent.
        """
        if not consent.strip():
            raise UserError("There is no consent: an utterance is deleted by `forget`.")
        with self.database.write() as connection:
            return self._writer.renew_consent(connection, number, consent, who)

    def add_hypothesis(self, number: int, hypothesis: Hypothesis) -> None:
        """Add what another model wrote; where it disagrees, the utterance comes earlier in the queue."""
        self._keys.refresh()
        with self.database.write() as connection:
            require_row(connection, number)
            self._writer.insert_hypothesis(connection, number, hypothesis)
            self._writer.update_priority(connection, number, {})

    def review(self, number: int, review: Review) -> Receipt:
        """Add what a person says; raises UserError for an utterance that is not there, and a text without words."""
        check_name(review.reviewer, "the reviewer")
        self._keys.refresh()
        with self.database.write() as connection:
            require_row(connection, number)
            return self._writer.insert_review(connection, number, review, is_new=False)

    def log(self, who: str, action: str, subject: str, **details: object) -> None:
        """Add a step to the audit log."""
        with self.database.write() as connection:
            log_step(connection, who, action, subject, details)

    def get(self, number: int) -> Utterance:
        """An utterance with all that was said of it; raises UserError if there is none of that number."""
        with self.database.read() as connection:
            row = require_row(connection, number, forgotten=True)
            return self._rows.build(
                row, self._rows.hypotheses(connection, number), self._rows.reviews(connection, number)
            )

    def read_audio(self, number: int) -> bytes:
        """The bytes of an utterance's file; raises UserError where it is forgotten or lost."""
        with self.database.read() as connection:
            digest = require_row(connection, number).digest
        return self.audio.get(digest)

    def queue(self, limit: int = 20, reviewer: str | None = None, after: QueuePlace | None = None) -> list[Utterance]:
        """The utterances that most deserve a person's time: conflicts, then open ones that a reviewer has not seen.

        Both are ordered by priority. `after` is the place of the last one of a page.
        """
        with self.database.read() as connection:
            return [
                self._rows.build(row, self._rows.hypotheses(connection, row.id), self._rows.reviews(connection, row.id))
                for row in read_page(connection, limit, reviewer, after)
            ]

    def iterate_corrected(self) -> Iterator[Utterance]:
        """All utterances with an agreed text by their number, a page at a time: memory does not grow with the store."""
        last = 0
        while True:
            with self.database.read() as connection:
                query = select(UTTERANCES).where(UTTERANCES.c.status == "corrected", UTTERANCES.c.id > last)
                rows = connection.execute(query.order_by(UTTERANCES.c.id).limit(_PAGE)).all()
            for row in rows:
                yield self._rows.build(row, (), ())
            if len(rows) < _PAGE:
                return
            last = rows[-1].id

    def count(self) -> dict[str, dict[str, float]]:
        """Utterances and seconds by status, and by `domain: …` of corrected ones."""
        counts: dict[str, dict[str, float]] = {}
        with self.database.read() as connection:
            for column, prefix in ((UTTERANCES.c.status, ""), (UTTERANCES.c.domain, "domain: ")):
                query = select(column, func.count(), func.sum(UTTERANCES.c.seconds)).group_by(column)
                if prefix:
                    query = query.where(UTTERANCES.c.status == "corrected")
                for name, number, seconds in connection.execute(query):
                    counts[f"{prefix}{name}"] = {"utterances": number, "seconds": seconds or 0.0}
        return counts

    def audit_log(self, actions: Sequence[str] | None = None) -> list[AuditEntry]:
        """All steps of the audit log, or those of some actions, the oldest first."""
        query = select(AUDIT).order_by(AUDIT.c.id)
        with self.database.read() as connection:
            rows = connection.execute(query.where(AUDIT.c.action.in_(actions)) if actions else query).all()
        return [
            AuditEntry(at=row.at, who=row.who, action=row.action, subject=row.subject, details=json.loads(row.details))
            for row in rows
        ]

    def find_speaker(self, speaker: str) -> list[int]:
        """The numbers of a speaker's utterances."""
        with self.database.read() as connection:
            query = select(UTTERANCES.c.id).where(UTTERANCES.c.speaker_hash == self.seal.hash_name(speaker))
            return list(connection.execute(query.order_by(UTTERANCES.c.id)).scalars())

    def erase(self, numbers: Sequence[int], who: str) -> Remains:
        """Delete audio, texts, words, names and reviews of utterances; a row without content stays for each.

        Returns what could not be deleted yet, which the next call, or the next process that opens the store, deletes;
        `snapshots.forget` also deletes what snapshots have of them. Raises UserError for an unknown number before
        anything is deleted.
        """
        late = self.complete_erasure(who, waits=not numbers)
        with self.database.write() as connection:
            rows = [require_row(connection, number, forgotten=True) for number in numbers]
            holes: set[str] = set()
            for row in rows:
                erase_row(connection, row.id, row.digest)
                query = select(SNAPSHOT_UTTERANCES.c.snapshot).where(SNAPSHOT_UTTERANCES.c.utterance_id == row.id)
                holes.update(connection.execute(query).scalars())
            if rows:
                note_log(connection)
            details = {"ids": list(numbers), "snapshots": sorted(holes)}
            log_step(connection, who, "forget", f"{len(rows)} utterances", details)
        return complete_erasure(self.database, self.audio, who, is_late=False) if rows else late

    def complete_erasure(self, who: str, waits: bool = True) -> Remains:
        """Delete what could not be deleted before, and return what still can't be; raises UserError.

        It waits for readers of SQLite, if asked for, but not for ever.
        """
        unfinished = is_unfinished(self.database)
        return complete_erasure(self.database, self.audio, who, waits=waits) if unfinished else Remains()

    def check_audio(self, who: str, delete_others: bool = False) -> tuple[AudioCheck, int]:
        """Compare the audio with the utterances, and delete what no utterance has since an hour or longer.

        In a place that was given at `create`, which may have the audio of other stores, that is only done with
        `delete_others`. Returns what was found, and the number of files that were deleted. Raises UserError.
        """
        found = check_audio(self.database, self.audio)
        is_mine = self.has_own_audio or delete_others
        return found, delete_orphans(self.database, self.audio, found.orphans, who) if is_mine else 0

    def rotate_key(self, old: bytes, new: bytes, who: str) -> None:
        """Wrap the data keys with a new master key, and seal with a new data key from now on; raises UserError.

        A store that is open elsewhere takes the new data key at its next writing, and needs the new master key by then:
        see `read_key`. Without it what was sealed before can still be read there.
        """
        self._keys.rotate(old, new, who)
