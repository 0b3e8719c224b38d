"""Load a data set from a hub, a folder or a manifest as tables of undecoded audio, text and speaker."""

import bisect
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.audio.waveforms import AudioError, Recording
from finetune.data.archives import read_archive
from finetune.data.corpus_folder import load_corpus, read_clean
from finetune.data.folders import Columns, describe_missing, read_table, read_whole
from finetune.data.manifests import AUDIO_COLUMNS, CHANNEL, PROBLEM, SPEAKER_COLUMNS, TEXT_COLUMNS
from finetune.data.own_files import lies_in, own_places, require_encoded, undecoded
from finetune.data.parquet_files import find_parquet, load_parquet
from finetune.data.rows import build_dataset
from finetune.data.untranscribed import read_recordings
from finetune.errors import UserError, format_error
from finetune.resources.addresses import public_address
from finetune.resources.limits import MAX_UTTERANCE_SECONDS
from finetune.resources.repositories import is_hub_name
from finetune.resources.storage import StorageError, find_place, list_visible, reporting

# Levels of folders that are searched for a corpus: Common Voice's archives unpack to two.
_DEEPEST = 2

_COMMIT = re.compile("[0-9a-f]{40}")

# What a run does without a split.
_WITHOUT = {"validation": "to hold out a part of the training split", "test": "to train without a test"}


@dataclass(frozen=True)
class Source:
    """A data set; a column that is None is found by its usual names.

    Audio is read only from inside the corpus (its folder, the manifest's folder, the repository), unless
    `allow_outside` is set. `max_seconds` limits utterances in evaluation; in training the recipe does.
    An epoch has every training utterance `weight` times on average; with a `streaming` source, whose size is unknown,
    `weight` is a share of the rows. `columns` are further columns that are kept with each utterance. Without
    `transcribed` no transcript is read, and a folder of audio files is a data set, too. `number` is its place among
    several sources, the first is 0. `speaker_prefix` stands before its speakers' names (see `prefix_speakers`).
    """

    root: str
    configuration: str | None = None
    revision: str | None = None
    audio_column: str | None = None
    text_column: str | None = None
    speaker_column: str | None = None
    allow_outside: bool = False
    weight: float = 1.0
    streaming: bool = False
    columns: tuple[str, ...] = ()
    max_seconds: float = MAX_UTTERANCE_SECONDS
    transcribed: bool = True
    number: int = 0
    speaker_prefix: str = ""

    @property
    def name(self) -> str:
        """The root without credentials, for messages and files."""
        return public_address(self.root)


@dataclass(frozen=True)
class Table:
    """One split of one source, and the columns with each utterance's audio, transcript, speaker and times.

    `text` is None where transcripts are not read. `inside` are the folders and URLs that audio must be in, or None.
    `places` are the rows' numbers in their split unless they are 0, 1, 2 ….
    """

    source: Source
    rows: Any
    audio: str
    text: str | None
    speaker: str | None
    start: str | None = None
    end: str | None = None
    inside: tuple[str, ...] | None = None
    places: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def texts(self) -> list[str | None]:
        """Each row's transcript; None is a missing one, "" an empty one, and each where transcripts are not read."""
        if self.text is None:
            return [""] * len(self)
        return [None if text is None else str(text) for text in self.rows[self.text][:]]

    def speakers(self) -> list[str | None]:
        """Each row's speaker with the source's prefix, None if unknown: an empty cell is no name that rows share."""
        if self.speaker is None:
            return [None] * len(self)
        cells, prefix = self.rows[self.speaker][:], self.source.speaker_prefix
        return [None if cell is None or not str(cell).strip() else f"{prefix}{cell}" for cell in cells]

    def table_of(self, row: int) -> "Table":
        """The table of a row: this one."""
        return self

    def origin(self, row: int) -> tuple[Source, int]:
        """The source of a row, and its number in the source's split."""
        return self.source, row if self.places is None else self.places[row]

    def values(self) -> Iterator[dict[str, Any]]:
        """All rows' cells in order, which is faster than reading single rows."""
        return iter(self.rows)

    def recording(self, row: int, values: dict[str, Any] | None = None) -> Recording:
        """The audio of one row, not read yet; `values` are its cells, if they are known.

        Raises AudioError if it is outside the corpus or its times cannot be used.
        """
        values = self.rows[row] if values is None else values
        if values.get(PROBLEM):
            raise AudioError(values[PROBLEM])
        recording = Recording.from_cell(values[self.audio])
        path = recording.path if recording.data is None else None
        if self.inside is not None and path and not lies_in(path, self.inside):
            raise AudioError(f"outside the corpus (data.allow_outside=true or --allow-outside reads it): {path}")
        recording = replace(recording, channel=_read_channel(values.get(CHANNEL)))
        if self.start is None or self.end is None:
            return recording
        start, end = _read_time(values[self.start], "start"), _read_time(values[self.end], "end")
        return replace(recording, start=start or 0.0, end=end)

    def name(self, row: int, values: dict[str, Any] | None = None) -> str:
        """The name of the utterance's file, or the number of its row."""
        cell = (self.rows[row] if values is None else values)[self.audio]
        path = cell.get("member") or cell.get("path") if isinstance(cell, dict) else cell
        return Path(public_address(path)).name if isinstance(path, str) and path else f"row {row}"


class JoinedTables:
    """The same split of several sources as one table."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self.tables = tuple(tables)
        self._ends = list(itertools.accumulate(len(table) for table in self.tables))

    def __len__(self) -> int:
        return self._ends[-1]

    def texts(self) -> list[str | None]:
        """Each row's transcript."""
        return [text for table in self.tables for text in table.texts()]

    def speakers(self) -> list[str | None]:
        """Each row's speaker."""
        return [speaker for table in self.tables for speaker in table.speakers()]

    def table_of(self, row: int) -> Table:
        """The table of a row."""
        return self._find(row)[0]

    def origin(self, row: int) -> tuple[Source, int]:
        """The source of a row, and its number in the source's split."""
        table, local = self._find(row)
        return table.origin(local)

    def values(self) -> Iterator[dict[str, Any]]:
        """All rows' cells in order."""
        return itertools.chain.from_iterable(table.values() for table in self.tables)

    def recording(self, row: int, values: dict[str, Any] | None = None) -> Recording:
        """The audio of one row, not read yet; raises AudioError."""
        table, local = self._find(row)
        return table.recording(local, values)

    def name(self, row: int, values: dict[str, Any] | None = None) -> str:
        """The name of the utterance's file, or the number of its row."""
        table, local = self._find(row)
        return table.name(local, values)

    def _find(self, row: int) -> tuple[Table, int]:
        place = bisect.bisect_right(self._ends, row)
        return self.tables[place], row - (self._ends[place - 1] if place else 0)


def prefix_speakers(roots: Sequence[str]) -> list[str]:
    """A prefix of the speakers' names for the root of each source: the end of its path that no other root has.

    Speakers of two corpora are different even if their names are equal, and those of one are the same in its splits.
    Local tables in one folder are of one corpus. A single corpus has no prefix.
    """
    roots = [str(place.parent) if (place := find_place(root)).is_file() else root for root in roots]
    parts = {root: Path(public_address(root)).parts for root in roots}
    if len(parts) == 1:
        return [""] * len(roots)
    for length in range(1, max(map(len, parts.values())) + 1):
        prefixes = {root: "/".join(path[-length:]) for root, path in parts.items()}
        if len(set(prefixes.values())) == len(prefixes):
            break
    else:  # They differ in what a public address leaves out.
        prefixes = {root: f"{path[-1]} {number}" for number, (root, path) in enumerate(parts.items(), 1)}
    return [f"{prefixes[root]}/" for root in roots]


def load_splits(source: Source) -> dict[str, Any]:
    """All splits of a folder, a manifest or a data set on a hub, as undecoded `datasets.Dataset`s.

    The splits of a streaming source are `datasets.IterableDataset`s. Raises UserError if there is no corpus.
    """
    root = find_place(source.root)
    try:
        with reporting(source.root):
            if root.is_dir():
                return _load_folder(root, source)
            if root.is_file():
                return _load_file(root, source)
    except StorageError as error:
        raise UserError(f"The data can't be read. {error}") from error
    if not is_hub_name(source.root):
        raise UserError(
            f"There is no data at {source.name}: expected a folder, a .csv, .tsv, .jsonl, .parquet or .tar file, "
            "or the name of a data set on a hub."
        )
    import datasets

    try:
        # `load_dataset` refuses a repository whose README names files in other places.
        loaded = datasets.load_dataset(
            source.root, source.configuration, revision=source.revision, streaming=source.streaming
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"{source.name} is neither a folder or file here nor a data set that can be loaded from the hub: "
            f"{public_address(format_error(error))}"
        ) from error
    if not source.streaming:
        _require_commit(loaded, source)
    return dict(loaded)


def _require_commit(loaded: Any, source: Source) -> None:
    """Raise UserError if `datasets`, unable to reach the hub, used another commit from its cache."""
    files = [file["filename"] for rows in loaded.values() for file in rows.cache_files]
    cached = {part for file in files for part in Path(file).parts if _COMMIT.fullmatch(part)}
    if source.revision and _COMMIT.fullmatch(source.revision) and cached - {source.revision}:
        raise UserError(
            f"The hub can't be reached, and the cache has another commit of {source.name} than {source.revision}: "
            "try again with a network."
        )


def select_table(splits: dict[str, Any], split: str, source: Source) -> Table:
    """One split with its columns; raises UserError with the available splits or columns."""
    if split not in splits:
        raise UserError(
            f"{source.name} has no split '{split}'; it has {', '.join(sorted(splits))}: name one (data.train_split, "
            "data.validation_split, data.test_split, or --split)."
        )
    rows = undecoded(splits[split])
    if len(rows) == 0:
        raise UserError(_describe_empty(split, sorted(splits.keys() - {split}), source))
    if rows.column_names == [PROBLEM]:
        raise UserError(f"No row of the split '{split}' of {source.name} can be used: {rows[0][PROBLEM]}.")
    audio = _find_column(rows, source.audio_column, AUDIO_COLUMNS, "audio", source)
    require_encoded(rows, audio, source.name)
    text = _find_column(rows, source.text_column, TEXT_COLUMNS, "text", source) if source.transcribed else None
    speaker = source.speaker_column or _find_usual(rows.column_names, SPEAKER_COLUMNS)
    if speaker is not None:
        speaker = _find_column(rows, speaker, (), "speaker", source)
    for column in source.columns:
        if column not in rows.column_names:
            raise UserError(
                f"{source.name} has no column {column} (data.columns or --columns); "
                f"it has {', '.join(rows.column_names)}."
            )
    return _build_table(source, rows, audio, text, speaker)


def load_audio(file: Path, allow_outside: bool = False) -> Table:
    """A manifest's audio, with or without transcripts: the text column is the audio column.

    Raises UserError if there is no audio column or no row.
    """
    source = Source(str(file), allow_outside=allow_outside)
    rows = build_dataset(read_table(file))
    if len(rows) == 0:
        raise UserError(f"{file} is empty: expected a recording in each row.")
    audio = _find_column(rows, None, AUDIO_COLUMNS, "audio", source)
    return _build_table(source, rows, audio, audio, None)


def _build_table(source: Source, rows: Any, audio: str, text: str | None, speaker: str | None) -> Table:
    inside = None if source.allow_outside else own_places(source.root)
    start, end = ("start", "end") if {"start", "end"} <= set(rows.column_names) else (None, None)
    return Table(source, rows, audio=audio, text=text, speaker=speaker, start=start, end=end, inside=inside)


def _describe_empty(split: str, others: Sequence[str], source: Source) -> str:
    named = f" ({', '.join(others)})" if others else ""
    away = f", or, {_WITHOUT[split]}, move its empty table to another folder" if split in _WITHOUT else ""
    return (
        f"The split '{split}' of {source.name} is empty: name another{named} with data.train_split, "
        f"data.validation_split, data.test_split or --split{away}."
    )


def _columns(source: Source) -> Columns:
    return source.audio_column, source.text_column


def _load_folder(root: Path, source: Source) -> dict[str, Any]:
    if source.streaming:
        return load_parquet(_require_parquet(find_parquet(root), source), streaming=True)
    folders, columns = [root], _columns(source)
    for _ in range(_DEEPEST + 1):
        found = {folder: splits for folder in folders if (splits := load_corpus(folder, columns))}
        if len(found) > 1:
            raise UserError(
                f"{root} contains several corpora: {', '.join(map(str, found))}; name one of them, such as "
                f"data.root={next(iter(found))}, or list them as data.sources."
            )
        if found:
            folder, splits = next(iter(found.items()))
            return splits | read_clean(folder, columns) | (read_clean(root, columns) if folder != root else {})
        folders = [below for folder in folders for below in list_visible(folder) if below.is_dir()]
    if not source.transcribed and (recordings := read_recordings(root)):
        return {split: build_dataset(rows) for split, rows in recordings.items()}
    if clean := read_clean(root, columns):
        return clean
    raise UserError(describe_missing(root))


def _require_parquet(files: dict[str, list[Path]], source: Source) -> dict[str, list[Path]]:
    if files:
        return files
    raise UserError(
        f"{source.name} can't be streamed: expected a data set on a hub, or Parquet files; remove data.streaming, "
        "since other files are read in place and never copied."
    )


def _load_file(file: Path, source: Source) -> dict[str, Any]:
    if source.streaming:
        found = {"train": [file]} if file.suffix == ".parquet" else {}
        return load_parquet(_require_parquet(found, source), streaming=True)
    if file.suffix == ".tar":
        return {"train": build_dataset(read_archive(file))}
    if file.suffix == ".parquet":
        return load_parquet({"train": [file]})
    if file.suffix == ".arrow":
        raise UserError(f"{file} is a part of a data set: name its folder, {file.parent}, or the one above it.")
    splits = read_whole(file, _columns(source))
    return {split: build_dataset(rows) for split, rows in splits.items()} | read_clean(file, _columns(source))


def _read_channel(cell: object) -> int | None:
    if cell is None or cell == "":
        return None
    if not str(cell).isdecimal():
        raise AudioError(f"no such channel: {cell} (expected a number; the first is 0)")
    return int(str(cell))


def _read_time(cell: object, role: str) -> float | None:
    if cell is None or cell == "":
        return None
    try:
        seconds = float(str(cell))
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise AudioError(f"impossible segment: its {role} is '{cell}', not a number of seconds")
    return seconds


def _find_usual(columns: Sequence[str], usual: Sequence[str]) -> str | None:
    """The column with the first of the usual names, in lower case or, where there is none, in another."""
    found = {column.lower(): column for column in columns} | {column: column for column in columns}
    return next((found[name] for name in usual if name in found), None)


def _find_column(rows: Any, wanted: str | None, usual: tuple[str, ...], role: str, source: Source) -> str:
    column = wanted or _find_usual(rows.column_names, usual)
    if column is None or column not in rows.column_names:
        raise UserError(
            f"{source.name} has no column {column or ' or '.join(usual)} for the {role}; "
            f"it has {', '.join(rows.column_names)}: "
            f"name the right one with data.{role}_column=NAME, or --{role}-column NAME in `finetune evaluate`."
        )
    return column
