"""Snapshots: what a store's reviewers agreed on, as a folder that recipes read and that changes by holes only.

Training, validation and test follow from the speaker (or the audio) alone, so that no later snapshot moves a speaker of
the test set into training.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, delete, func, insert, select

from finetune.errors import UserError, format_error
from finetune.feedback.configuration import log_step, number_step
from finetune.feedback.records import Forgotten, Utterance, now
from finetune.feedback.schema import SNAPSHOT_UTTERANCES, SNAPSHOTS, UTTERANCES
from finetune.feedback.store import Store
from finetune.files import delete as delete_folder
from finetune.files import link_file, new_file, replace_folder, sync_folder, unplaced_folder, write_json

DESCRIPTION, TABLE = "snapshot.json", "metadata.csv"
COLUMNS = ("file_name", "transcription", "speaker", "domain")
# Utterances and their files, read back into the database in pages; not part of the snapshot.
_INDEX = ".index"
_COUNTED = ("splits", "domains", "licences", "consents", "holes")
_SPLITS = ("train", "validation", "test")
_FOLDER_FILES = 1000
_ROWS = 1000
_TRIALS = 3
# So many different licences and consents are counted by name; the others together.
_MOST_NAMES = 100


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A snapshot: utterances, seconds and speakers by split, utterances by domain, licence and consent.

    `content_hash` is the SHA-256 of the texts, speakers, domains and hashes of audio in it, before there were holes.
    """

    name: str
    path: str
    content_hash: str
    splits: dict[str, dict[str, float]]
    domains: dict[str, int]
    licences: dict[str, int]
    consents: dict[str, int]
    added_at: str
    added_by: str
    holes: Sequence[int] = ()


def export_snapshot(store: Store, folder: Path, who: str, name: str | None = None) -> Snapshot:
    """Write a snapshot of all corrected utterances into a new folder, and remember it by its name.

    Raises UserError for a folder or name that is there already, and where there is nothing to write.
    """
    name = name or folder.resolve().name
    if len(name) > 64 or not name.isprintable():
        raise UserError(f"The snapshot's name is {name[:80]!r}; expected 1 to 64 characters.")
    known = {each.name for each in list_snapshots(store)}
    if name in known:
        raise UserError(f"The store has a snapshot {name} already: choose another name, snapshots don't change.")
    if folder.exists() and not _is_unfinished(folder, known):
        raise UserError(f"{folder} exists already: expected a new folder.")
    for _ in range(_TRIALS):
        try:
            with unplaced_folder(folder) as partial, ExitStack() as held:
                writer = _Writer(store, partial, held)
                for utterance in store.iterate_corrected():
                    writer.add(utterance)
                held.close()  # The tables are complete.
                snapshot = writer.describe(name, str(folder.resolve()), who)
                sync_folder(partial)  # Before the transaction, which keeps other writers out.
                try:
                    _register(store, snapshot, partial, folder)
                except BaseException:
                    delete_folder(folder)  # What was there was unfinished, or nothing.
                    raise
                return snapshot
        except _Changed:
            continue
        except OSError as error:
            raise UserError(f"The snapshot can't be written to {folder}: {format_error(error)}.") from error
    raise UserError("Utterances were forgotten while the snapshot was written: try again.")


def list_snapshots(store: Store) -> list[Snapshot]:
    """All snapshots, the oldest first."""
    with store.database.read() as connection:
        order = number_step("export", "snapshot " + SNAPSHOTS.c.name)
        rows = connection.execute(select(SNAPSHOTS).order_by(order)).all()
    return [
        Snapshot(**{name: value for name, value in row._mapping.items() if name != "counts"}, **json.loads(row.counts))
        for row in rows
    ]


def count_new(store: Store, drifted: bool = False) -> int:
    """The corrected utterances that the newest snapshot lacks, or those of them that came while speech drifted."""
    known = list_snapshots(store)
    query = select(func.count()).select_from(UTTERANCES).where(UTTERANCES.c.status == "corrected")
    if drifted:
        query = query.where(UTTERANCES.c.reasons.contains('"drift"'))
    if known:
        parts = SNAPSHOT_UTTERANCES.c
        in_it = (parts.snapshot == known[-1].name) & (parts.utterance_id == UTTERANCES.c.id)
        query = query.where(~select(parts.utterance_id).where(in_it).exists())
    with store.database.read() as connection:
        return int(connection.execute(query).scalar_one())


def forget(store: Store, numbers: Sequence[int], who: str) -> Forgotten:
    """Delete utterances from the store and from its snapshots, which name the hole in snapshot.json.

    A snapshot whose folder is not there is named, and is tried again at the next call. Raises UserError.
    """
    remains = store.erase(numbers, who)
    changed: list[str] = []
    unreachable: list[str] = []
    for name, path, parts in _find_remains(store):
        try:
            _cut(Path(path), parts)
        except (OSError, ValueError, csv.Error):  # People may have moved or edited its files.
            unreachable.append(f"{name} ({path})")
            continue
        changed.append(name)
        with store.database.write() as connection:
            _add_holes(connection, name, [number for number, _ in parts])
            gone = [number for number, _ in parts]
            rows = SNAPSHOT_UTTERANCES.c
            connection.execute(delete(SNAPSHOT_UTTERANCES).where(rows.snapshot == name, rows.utterance_id.in_(gone)))
            log_step(connection, who, "make hole", f"snapshot {name}", {"ids": gone})
    if store.has_own_audio:
        store.check_audio(who)  # It deletes what killed processes left.
    return Forgotten(ids=tuple(numbers), snapshots=tuple(changed), unreachable=tuple(unreachable), remains=remains)


class _Changed(Exception):
    """The store changed while it was read."""


class _Writer:
    """Writes utterances to the tables and folders of a snapshot, and counts them."""

    def __init__(self, store: Store, folder: Path, held: ExitStack) -> None:
        self._store, self._folder, self._held = store, folder, held
        self._tables: dict[str, Any] = {}
        self._index = held.enter_context((folder / _INDEX).open("w", encoding="utf-8"))
        self._hash = hashlib.sha256()
        self._splits: dict[str, Counter[str]] = {split: Counter() for split in _SPLITS}
        self._seconds: Counter[str] = Counter()
        self._speakers: dict[str, set[str]] = {split: set() for split in _SPLITS}
        self._domains: Counter[str] = Counter()
        self._licences: Counter[str] = Counter()
        self._consents: Counter[str] = Counter()

    def add(self, utterance: Utterance) -> None:
        """Write an utterance."""
        split, digest = utterance.split, utterance.digest or ""
        name = f"audio/{utterance.id // _FOLDER_FILES:04d}/{utterance.id:08d}{utterance.suffix}"
        file = self._folder / split / name
        file.parent.mkdir(parents=True, exist_ok=True)
        place = self._store.audio.find_plain(digest)
        if place is not None and place.is_file():
            link_file(place, file)
        else:
            file.write_bytes(self._store.audio.get(digest))
        row = (name, utterance.text or "", utterance.speaker or "", utterance.domain)
        self._table(split).writerow(row)
        self._index.write(f"{utterance.id} {split}/{name}\n")
        self._hash.update(json.dumps([split, digest, *row[1:]]).encode())
        self._splits[split]["utterances"] += 1
        self._seconds[split] += utterance.seconds  # type: ignore[assignment]
        self._speakers[split].add(self._store.seal.hash_name(utterance.speaker or digest)[:16])
        self._domains[utterance.domain] += 1
        _count(self._licences, utterance.licence or "not stated")
        _count(self._consents, utterance.consent)

    def describe(self, name: str, path: str, who: str) -> Snapshot:
        """What was written; raises UserError if that was nothing."""
        total = sum(counts["utterances"] for counts in self._splits.values())
        if not total:
            raise UserError("No utterance of the store has a correction yet: there is nothing to export.")
        return Snapshot(
            name=name,
            path=path,
            content_hash=self._hash.hexdigest(),
            splits={
                split: {
                    "utterances": counts["utterances"],
                    "seconds": round(float(self._seconds[split]), 3),
                    "speakers": len(self._speakers[split]),
                }
                for split, counts in self._splits.items()
                if counts
            },
            domains=dict(self._domains),
            licences=dict(self._licences),
            consents=dict(self._consents),
            added_at=now(),
            added_by=who,
        )

    def _table(self, split: str) -> Any:
        if split not in self._tables:
            (self._folder / split).mkdir(exist_ok=True)
            file = (self._folder / split / TABLE).open("w", encoding="utf-8", newline="")
            self._tables[split] = csv.writer(self._held.enter_context(file))
            self._tables[split].writerow(COLUMNS)
        return self._tables[split]


def _register(store: Store, snapshot: Snapshot, partial: Path, folder: Path) -> None:
    """Remember a snapshot and give its folder its place.

    A kill in between leaves a folder that no store remembers, which the next export replaces. Raises _Changed where an
    utterance of it was forgotten in the meantime.
    """
    counts = {key: value for key, value in asdict(snapshot).items() if key in _COUNTED}
    with store.database.write() as connection:
        values = {name: getattr(snapshot, name) for name in ("name", "path", "content_hash", "added_at", "added_by")}
        connection.execute(insert(SNAPSHOTS).values(**values, counts=json.dumps(counts)))
        with (partial / _INDEX).open(encoding="utf-8") as file:
            for page in _pages(file):
                rows = [{"snapshot": snapshot.name, "utterance_id": int(number), "file": name} for number, name in page]
                connection.execute(insert(SNAPSHOT_UTTERANCES), rows)
        parts = SNAPSHOT_UTTERANCES.c
        lost = select(func.count()).where(
            parts.snapshot == snapshot.name, parts.utterance_id == UTTERANCES.c.id, UTTERANCES.c.status == "forgotten"
        )
        if connection.execute(lost).scalar_one():
            raise _Changed
        log_step(connection, snapshot.added_by, "export", f"snapshot {snapshot.name}", {"path": snapshot.path})
        (partial / _INDEX).unlink()
        write_json(partial / DESCRIPTION, {**asdict(snapshot), "holes": []})
        replace_folder(partial, folder, is_synced=True)


def _pages(file: IO[str]) -> Iterator[list[tuple[str, str]]]:
    page: list[tuple[str, str]] = []
    for line in file:
        number, _, name = line.rstrip("\n").partition(" ")
        page.append((number, name))
        if len(page) == _ROWS:
            yield page
            page = []
    if page:
        yield page


def _is_unfinished(folder: Path, known: set[str]) -> bool:
    """Whether a folder is a snapshot that no store remembers: its export was killed at its end."""
    try:
        values = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("path") == str(folder.resolve()) and values.get("name") not in known


def _find_remains(store: Store) -> list[tuple[str, str, list[tuple[int, str]]]]:
    """The forgotten utterances that snapshots still have: their name and path, and (utterance, file)."""
    parts = SNAPSHOT_UTTERANCES.c
    query = (
        select(SNAPSHOTS.c.name, SNAPSHOTS.c.path, parts.utterance_id, parts.file)
        .where(
            SNAPSHOTS.c.name == parts.snapshot,
            parts.utterance_id == UTTERANCES.c.id,
            UTTERANCES.c.status == "forgotten",
        )
        .order_by(SNAPSHOTS.c.name, parts.utterance_id)
    )
    found: dict[tuple[str, str], list[tuple[int, str]]] = {}
    with store.database.read() as connection:
        for name, path, number, file in connection.execute(query):
            found.setdefault((name, path), []).append((number, file))
    return [(name, path, files) for (name, path), files in found.items()]


def _cut(folder: Path, parts: Sequence[tuple[int, str]]) -> None:
    """Delete utterances from the folder of a snapshot, and name them there.

    Raises OSError, and for tables that can't be read ValueError or csv.Error.
    """
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    for split in _SPLITS:
        names = {file.partition("/")[2] for _, file in parts if file.startswith(f"{split}/")}
        table = folder / split / TABLE
        if not names:
            continue
        with (
            table.open(encoding="utf-8", newline="") as old,
            new_file(table) as partial,
            partial.open("w", encoding="utf-8", newline="") as new,
        ):
            csv.writer(new).writerows(row for row in csv.reader(old) if row and row[0] not in names)
        for name in names:
            (folder / split / name).unlink(missing_ok=True)
    holes = sorted({*description.get("holes", []), *(number for number, _ in parts)})
    write_json(folder / DESCRIPTION, {**description, "holes": holes})


def _add_holes(connection: Connection, name: str, numbers: Sequence[int]) -> None:
    row = connection.execute(select(SNAPSHOTS.c.counts).where(SNAPSHOTS.c.name == name)).scalar_one()
    counts = json.loads(row)
    counts["holes"] = sorted({*counts["holes"], *numbers})
    connection.execute(SNAPSHOTS.update().where(SNAPSHOTS.c.name == name).values(counts=json.dumps(counts)))


def _count(counter: Counter[str], name: str) -> None:
    counter[name if name in counter or len(counter) < _MOST_NAMES else "others"] += 1
