"""A store of utterances and corrections that only grows, used by any number of processes at once."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import Connection, Row, func, insert, select, update

from finetune.errors import UserError
from finetune.feedback.audio_files import AudioFiles
from finetune.feedback.configuration import CONFIGURATION, check_name, log_step, read_configuration, require_words
from finetune.feedback.database import Database, check_url, sqlite_url
from finetune.feedback.priority import measure_priority
from finetune.feedback.records import (
    AuditEntry,
    Hypothesis,
    NewUtterance,
    Receipt,
    Review,
    SplitName,
    Status,
    Utterance,
    decide,
    normalize,
    now,
)
from finetune.feedback.rows import RowReader
from finetune.feedback.schema import (
    AUDIT,
    DATA_KEYS,
    HYPOTHESES,
    REVIEWS,
    SETTINGS,
    SNAPSHOT_UTTERANCES,
    UTTERANCES,
)
from finetune.feedback.sealing import KEY_VARIABLE, Seal, unwrap, wrap
from finetune.files import write_text

_PAGE = 500


class Store:
    """A store in a folder: `store.yaml` with the places of its database and audio, by default in the folder, too.

    All methods are safe in threads and processes; what they return has reached the disk. Texts, words and names of
    speakers are sealed with the key of the store, if it has one.
    """

    def __init__(self, folder: Path, master_key: bytes | None = None) -> None:
        """Open a store; raises UserError where there is none, and for a wrong or missing key."""
        self.folder = folder
        places = read_configuration(folder)
        self.database = Database(places.get("database") or sqlite_url(folder / "store.sqlite"))
        with self.database.read() as connection:
            settings = dict(connection.execute(select(SETTINGS.c.name, SETTINGS.c.value)).tuples().all())
            wrapped = dict(connection.execute(select(DATA_KEYS.c.id, DATA_KEYS.c.wrapped)).tuples().all())
        if wrapped and master_key is None:
            raise UserError(f"{folder} is encrypted: give its key with --key-file FILE or in {KEY_VARIABLE}.")
        if master_key is not None and not wrapped:
            raise UserError(f"{folder} is not encrypted, so no key is expected: leave it out.")
        self.seal = Seal({number: unwrap(master_key, each) for number, each in wrapped.items()} if master_key else {})
        self._rows = RowReader(self.seal)
        self.audio = AudioFiles(places.get("audio") or str(folder / "audio"), self.seal)
        self.reviewers_wanted = int(settings["reviewers_wanted"])
        self._shares = float(settings["test_share"]), float(settings["validation_share"])

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
                    key = {"wrapped": wrap(master_key, secrets.token_bytes(32)), "added_at": now()}
                    connection.execute(insert(DATA_KEYS), [key])
        opened.close()
        places = {"database": database, "audio": audio}
        write_text(folder / CONFIGURATION, yaml.safe_dump({name: each for name, each in places.items() if each}))
        return cls(folder, master_key)

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def add(self, new: NewUtterance, who: str, correction: str | None = None) -> Receipt:
        """Add an utterance, with a correction by `who` if there is one.

        The same audio is one utterance: what comes again is a hypothesis or a review of it. Raises UserError without
        consent and where nothing could be stored.
        """
        if not new.consent.strip():
            raise UserError("There is no consent to keep this utterance: nothing was stored.")
        check_name(who, "who adds it")
        check_name(new.domain, "the domain")
        if correction is not None:
            require_words(correction)
        digest = self.audio.put(new.audio)
        with self.database.write(alone=digest) as connection:
            found = connection.execute(select(UTTERANCES.c.id).where(UTTERANCES.c.digest == digest)).scalar()
            number = found or self._insert(connection, new, digest, who)
            if new.hypothesis is not None:
                self._insert_hypothesis(connection, number, new.hypothesis)
                self._update_priority(connection, number, new.signals)
            receipt = self._settle(connection, number, is_new=found is None)
            if correction is not None:
                review = Review(reviewer=who, action="edit", text=correction)
                receipt = self._insert_review(connection, number, review, is_new=found is None)
        if found is not None:  # Somebody may have forgotten the same audio after `put` found it.
            self.audio.put(new.audio)
        return receipt

    def add_hypothesis(self, number: int, hypothesis: Hypothesis) -> None:
        """Add what another model wrote; where it disagrees, the utterance comes earlier in the queue."""
        with self.database.write() as connection:
            self._require(connection, number)
            self._insert_hypothesis(connection, number, hypothesis)
            self._update_priority(connection, number, {})

    def review(self, number: int, review: Review) -> Receipt:
        """Add what a person says; raises UserError for an utterance that is not there, and a text without words."""
        check_name(review.reviewer, "the reviewer")
        with self.database.write() as connection:
            self._require(connection, number)
            return self._insert_review(connection, number, review, is_new=False)

    def log(self, who: str, action: str, subject: str, **details: object) -> None:
        """Add a step to the audit log."""
        with self.database.write() as connection:
            log_step(connection, who, action, subject, details)

    def get(self, number: int) -> Utterance:
        """An utterance with all that was said of it; raises UserError if there is none of that number."""
        with self.database.read() as connection:
            row = self._require(connection, number, forgotten=True)
            return self._rows.build(
                row, self._rows.hypotheses(connection, number), self._rows.reviews(connection, number)
            )

    def read_audio(self, number: int) -> bytes:
        """The bytes of an utterance's file; raises UserError where it is forgotten or lost."""
        with self.database.read() as connection:
            digest = self._require(connection, number).digest
        return self.audio.get(digest)

    def queue(
        self, limit: int = 20, reviewer: str | None = None, after: tuple[float, int] | None = None
    ) -> list[Utterance]:
        """The utterances that most deserve a person's time: conflicts, then open ones that a reviewer has not seen.

        Both are ordered by priority. `after` is (priority, id) of the last one of a page.
        """
        found: list[Utterance] = []
        for status in ("conflict", "open"):
            found += self._queue_of(status, limit - len(found), reviewer, after)
        return found

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

    def erase(self, numbers: Sequence[int], who: str) -> dict[str, list[tuple[int, str]]]:
        """Delete audio, texts, words, names and reviews of utterances; a row without content stays for each.

        Returns the (utterance, file) that snapshots have of them by the snapshot's name; `snapshots.forget` deletes
        these, too. Raises UserError for an unknown number before anything is deleted.
        """
        holes: dict[str, list[tuple[int, str]]] = {}
        with self.database.write() as connection:
            rows = [self._require(connection, number, forgotten=True) for number in numbers]
            for row in rows:
                for table in (HYPOTHESES, REVIEWS):
                    connection.execute(table.delete().where(table.c.utterance_id == row.id))
                gone: dict[str, Any] = dict.fromkeys(("digest", "speaker", "speaker_hash", "text", "licence"))
                gone |= {"status": "forgotten", "source": "", "consent": "", "reasons": "{}"}
                connection.execute(update(UTTERANCES).where(UTTERANCES.c.id == row.id).values(**gone))
                parts = SNAPSHOT_UTTERANCES.c
                for name, file in connection.execute(
                    select(parts.snapshot, parts.file).where(parts.utterance_id == row.id)
                ):
                    holes.setdefault(name, []).append((row.id, file))
            # While this transaction holds the lock of writers, nobody adds the same audio again.
            for row in rows:
                if row.digest is not None:
                    self.audio.delete(row.digest)
            log_step(
                connection, who, "forget", f"{len(rows)} utterances", {"ids": list(numbers), "snapshots": list(holes)}
            )
        self.database.purge()
        return holes

    def rotate_key(self, old: bytes, new: bytes, who: str) -> None:
        """Wrap the data keys with a new master key, and seal with a new data key from now on; raises UserError.

        A store that is open elsewhere has to be opened again with the new key.
        """
        if not self.seal.is_active:
            raise UserError(f"{self.folder} is not encrypted, so it has no key to change.")
        with self.database.write() as connection:
            rows = connection.execute(select(DATA_KEYS.c.id, DATA_KEYS.c.wrapped)).all()
            for row in rows:
                wrapped = wrap(new, unwrap(old, row.wrapped))
                connection.execute(update(DATA_KEYS).where(DATA_KEYS.c.id == row.id).values(wrapped=wrapped))
            connection.execute(insert(DATA_KEYS), [{"wrapped": wrap(new, secrets.token_bytes(32)), "added_at": now()}])
            log_step(connection, who, "rotate key", "the master key", {})

    # Inside a transaction

    def _insert(self, connection: Connection, new: NewUtterance, digest: str, who: str) -> int:
        priority, reasons = measure_priority((), new.signals)
        speaker = new.speaker or None
        values = {
            "digest": digest,
            "suffix": new.suffix,
            "seconds": new.seconds,
            "source": new.source,
            "domain": new.domain,
            "speaker": self.seal.seal_text(speaker, "speaker") if speaker else None,
            "speaker_hash": self.seal.hash_name(speaker) if speaker else None,
            "split": self._choose_split(f"speaker {speaker}" if speaker else f"audio {digest}"),
            "consent": new.consent,
            "licence": new.licence,
            "added_at": now(),
            "added_by": who,
            "reviewers_wanted": self.reviewers_wanted,
            "status": "open",
            "priority": priority,
            "reasons": json.dumps(reasons),
        }
        number = connection.execute(insert(UTTERANCES).values(**values)).inserted_primary_key
        assert number is not None
        return int(number[0])

    def _insert_hypothesis(self, connection: Connection, number: int, hypothesis: Hypothesis) -> None:
        columns = HYPOTHESES.c
        query = select(columns.id).where(columns.utterance_id == number, columns.model == hypothesis.model)
        if connection.execute(query).first() is not None:
            return
        values = {
            "utterance_id": number,
            "model": hypothesis.model,
            "text": self.seal.seal_text(hypothesis.text, "hypothesis"),
            "confidence": hypothesis.confidence,
            "words": self.seal.seal_text(json.dumps(hypothesis.words), "words"),
            "added_at": now(),
        }
        connection.execute(insert(HYPOTHESES).values(**values))

    def _insert_review(self, connection: Connection, number: int, review: Review, *, is_new: bool) -> Receipt:
        text = normalize(review.text or "")
        if review.action in ("accept", "edit"):
            require_words(text)
        before = self._rows.reviews(connection, number)
        last = next((each for each in reversed(before) if each.reviewer == review.reviewer), None)
        same = last is not None and last.action == review.action and normalize(last.text or "") == text
        if same:
            repeated = f"{review.reviewer} has said the same of utterance {number} before: nothing was added."
            return self._settle(connection, number, is_new=is_new, note=repeated)
        values = {
            "utterance_id": number,
            "reviewer": review.reviewer,
            "action": review.action,
            "text": self.seal.seal_text(text, "review") if text else None,
            "reason": self.seal.seal_text(review.reason, "reason") if review.reason else None,
            "added_at": now(),
        }
        connection.execute(insert(REVIEWS).values(**values))
        receipt = self._settle(connection, number, is_new=is_new)
        note: str | None = None
        if receipt.status == "conflict":
            note = f"Utterance {number} has different corrections: it waits in the review queue for a decision."
        elif last is not None and last.action != "skip":
            note = f"This replaces what {review.reviewer} said of utterance {number} before."
        return Receipt(id=number, is_new=is_new, status=receipt.status, note=note)

    def _settle(self, connection: Connection, number: int, *, is_new: bool, note: str | None = None) -> Receipt:
        """Write the status that follows from all reviews."""
        wanted = self._require(connection, number).reviewers_wanted
        status, text = decide(self._rows.reviews(connection, number), wanted)
        sealed = self.seal.seal_text(text, "text") if text else None
        connection.execute(update(UTTERANCES).where(UTTERANCES.c.id == number).values(status=status, text=sealed))
        return Receipt(id=number, is_new=is_new, status=status, note=note)

    def _update_priority(self, connection: Connection, number: int, signals: Mapping[str, float]) -> None:
        row = self._require(connection, number)
        kept = {**json.loads(row.reasons), **signals}
        priority, reasons = measure_priority(self._rows.hypotheses(connection, number), kept)
        values = {"priority": priority, "reasons": json.dumps(reasons)}
        connection.execute(update(UTTERANCES).where(UTTERANCES.c.id == number).values(**values))

    def _require(self, connection: Connection, number: int, *, forgotten: bool = False) -> Row[Any]:
        query = select(UTTERANCES).where(UTTERANCES.c.id == number)
        if connection.get_execution_options().get("writes"):
            query = query.with_for_update()  # PostgreSQL: one at a time for each utterance.
        row = connection.execute(query).first()
        if row is None:
            raise UserError(f"{self.folder} has no utterance {number}.")
        if row.status == "forgotten" and not forgotten:
            raise UserError(f"Utterance {number} was forgotten: its audio and texts are deleted.")
        return row

    def _queue_of(
        self, status: Status | str, limit: int, reviewer: str | None, after: tuple[float, int] | None
    ) -> list[Utterance]:
        columns = UTTERANCES.c
        query = select(UTTERANCES).where(columns.status == status)
        if after is not None:
            beyond = (columns.priority == after[0]) & (columns.id < after[1])
            query = query.where((columns.priority < after[0]) | beyond)
        if reviewer is not None and status == "open":  # A conflict ends when one of its reviewers changes the text.
            done = (REVIEWS.c.utterance_id == columns.id) & (REVIEWS.c.reviewer == reviewer)
            query = query.where(~select(REVIEWS.c.id).where(done).exists())
        query = query.order_by(columns.priority.desc(), columns.id.desc()).limit(limit)
        with self.database.read() as connection:
            return [
                self._rows.build(row, self._rows.hypotheses(connection, row.id), self._rows.reviews(connection, row.id))
                for row in connection.execute(query).all()
            ]

    def _choose_split(self, name: str) -> SplitName:
        """The split of a speaker, from its name alone: it never changes."""
        place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
        test, validation = self._shares
        return "test" if place < test else "validation" if place < test + validation else "train"
