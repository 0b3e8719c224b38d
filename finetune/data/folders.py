"""A folder's tables to rows by split, each with the path of the audio that it names."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from finetune.audio.waveforms import CONTAINERS, SUFFIXES
from finetune.data.file_names import find_file, is_on_windows, spell, use_slashes
from finetune.data.layouts import Splits, is_split, name_splits, split_name
from finetune.data.manifests import AUDIO_COLUMNS, CLEAN, PROBLEM, TEXT_COLUMNS, Row, is_header, read_manifest
from finetune.data.manifests import SUFFIXES as TABLE_SUFFIXES
from finetune.data.segment_times import find_time_columns, place_in_time
from finetune.errors import UserError, describe_fault
from finetune.resources.storage import is_url, list_visible
from finetune.text.lines import read_text

# Folders beside a table in which audio is searched if its cells contain only file names.
AUDIO_FOLDERS = ("audio", "audios", "clips", "wav", "wavs", "recordings")
_AUDIO_SUFFIXES = SUFFIXES | CONTAINERS

Columns = tuple[str | None, str | None]
"""The names of the audio and text columns, if given."""


class AudioFiles:
    """The files that a table's cells name: as relative paths, in a folder for audio, or without the suffix."""

    def __init__(self, table: Path) -> None:
        self.table = table
        beside = [table.parent, *(table.parent / name for name in AUDIO_FOLDERS)]
        # For a table train.csv also in train/ and audio/train/. At a URL each row would need a request.
        places = [] if is_url(str(table)) else [place / below for place in beside for below in ("", table.stem)]
        self.folders = [str(place) for place in dict.fromkeys(places) if place.is_dir()]
        self._listed: dict[str, _Listing] = {}

    def find(self, name: str) -> list[str]:
        """The paths of all files that a cell can refer to; an exact path is the only one.

        Spaces around a name are of the table, unless a file has them, too.
        """
        if not self.folders or name.startswith("/"):
            return [find_file(self.table.parent, name)]
        return next(filter(None, map(self._find, [*spell(name), *spell(name.strip())])), [])

    def _find(self, name: str) -> list[str]:
        exact = str(self.table.parent / name)
        below, _, last = name.rpartition("/")
        folders = [f"{folder}/{below}".rstrip("/") for folder in self.folders]
        if last in self._list(folders[0]).names:
            return [exact]
        if found := [folder for folder in folders if last in self._list(folder).names]:
            return [f"{folder}/{last}" for folder in found]
        if _names_audio(last):
            return []
        return [f"{folder}/{file}" for folder in folders for file in self._list(folder).audio.get(last, ())]

    def is_named(self, cell: object) -> bool:
        """Whether a cell names audio: by its suffix, or because such a file exists."""
        if not isinstance(cell, str) or not cell:
            return False
        return _names_audio(cell) or (bool(self.folders) and not cell.startswith("/") and bool(self.find(cell)))

    def _list(self, folder: str) -> "_Listing":
        # Listed once: a check for each row's file takes as long as reading all tables.
        if folder not in self._listed:
            try:
                with os.scandir(folder) as entries:
                    names = sorted(entry.name for entry in entries if entry.is_file())
            except (OSError, ValueError):  # There is no such folder, or the cell is a transcript.
                names = []
            audio: dict[str, list[str]] = {}
            for name in filter(_names_audio, names):
                audio.setdefault(name[: name.rindex(".")], []).append(name)
            self._listed[folder] = _Listing(frozenset(names), audio)
        return self._listed[folder]


class _Listing(NamedTuple):
    """A folder's file names, and those of its audio files by their stem."""

    names: frozenset[str]
    audio: dict[str, list[str]]


def _names_audio(name: str) -> bool:
    return name[name.rfind(".") :].lower() in _AUDIO_SUFFIXES


def read_table(file: Path, columns: Columns = (None, None)) -> list[Row]:
    """The rows of a CSV, TSV or JSON file, each with the path or URL of its audio; raises UserError.

    A table without a header has the columns column1, column2 …; if it has two, the one without audio is `text`. If no
    column has a usual name, the only one whose cells name audio files is `audio`.
    """
    files = AudioFiles(file)

    def name_columns(cells: list[str]) -> list[str] | None:
        named = [_names_audio(cell) for cell in cells]
        if not any(named):
            if is_header(cells, columns):
                return None
            named = [files.is_named(cell) for cell in cells]
        if not any(named):
            return None
        names = [f"column{number}" for number in range(1, len(cells) + 1)]
        if len(cells) == 2 and named.count(True) == 1 and columns == (None, None):
            names[named.index(False)] = "text"
        return names

    rows = read_manifest(file, name_columns)
    audio = columns[0] or next((name for name in AUDIO_COLUMNS if any(name in row for row in rows)), None)
    if audio is None and (found := _find_audio_column(rows, files)):
        audio = "audio"
        for row in rows:
            row[audio] = row.get(found)
    text = columns[1] or next((name for name in TEXT_COLUMNS if any(name in row for row in rows)), "")
    times = find_time_columns(set().union(*rows))
    for row in rows:
        try:
            if isinstance(row.get(text), dict | list):
                shown = json.dumps(row[text], ensure_ascii=False)[:80]
                row.setdefault(PROBLEM, f"no text: its {text} is {shown}")
            place_in_time(row, times)
            if audio is not None:
                _place_audio(row, audio, files)
        except Exception as error:
            row.setdefault(PROBLEM, describe_fault(error))
    return rows


def _find_audio_column(rows: Sequence[Row], files: AudioFiles) -> str | None:
    """The column whose first cell names an audio file, if there is exactly one."""
    first = next((row for row in rows if PROBLEM not in row), {})
    found = [name for name, cell in first.items() if files.is_named(cell)]
    return found[0] if len(found) == 1 else None


def _place_audio(row: Row, column: str, files: AudioFiles) -> None:
    place = row.get(column)
    if isinstance(place, dict):  # An Audio column as `datasets` writes it.
        place = place.get("path")
    if not place or is_url(str(place)):
        row[column] = place and str(place)
        return
    if is_on_windows(str(place)):
        row.setdefault(PROBLEM, f"absolute path of Windows (expected one from the table's folder): {place}")
    found = files.find(str(place))
    if len(found) > 1:
        row.setdefault(PROBLEM, f"ambiguous audio: {place} may be {' or '.join(found)}")
    row[column] = found[0] if found else str(files.table.parent / use_slashes(str(place)))


def read_tables(root: Path, columns: Columns = (None, None)) -> Splits:
    """A folder's tables: train.csv …, train/metadata.csv … or one metadata.csv for all splits; {} if there are none.

    Raises UserError for a split with two tables, and for a metadata.csv beside tables of splits.
    """
    files = find_split_tables(root)
    whole = [file for file in files if _is_whole(file, root)]
    tables: dict[str, list[Path]] = {}
    for file in files:
        if file not in whole:
            tables.setdefault(file.parent.name if file.stem == "metadata" else file.stem, []).append(file)
    if not whole:
        return {split: read_table(_require_one(tables[name]), columns) for name, split in name_splits(tables).items()}
    table = _require_one(whole)
    if tables:
        raise UserError(
            f"{table} would be ignored, because {next(iter(tables.values()))[0]} is the table of a split: expected "
            f"one table, or one for each split; move one of them to another folder, or name it (data.root={table})."
        )
    return read_whole(table, columns)


def find_split_tables(root: Path) -> list[Path]:
    """A folder's tables: those with the name of a split, metadata.csv …, and those in folders, if they are splits.

    A single table in a folder that is no split belongs to the folder, which may be a corpus itself.
    """
    here = _find_tables(root)
    named = [file for file in here if is_split(file.stem)]
    whole = [file for file in here if _is_whole(file, root)]
    below = [file for file in list_visible(root, "*/metadata.*") if file.suffix in TABLE_SUFFIXES]
    if not named and not any(is_split(file.parent.name) for file in below) and len(below) < 2 and not whole:
        below = []
    if len(whole) + len(named) + len(below) > 1:
        whole = [file for file in whole if not _is_description(file)] or whole
        below = [file for file in below if not _is_description(file)] or below
    return [*named, *below, *whole]


def find_unread_tables(root: Path) -> list[Path]:
    """The tables of a folder whose names say of no split that it is theirs: extra.csv, and train/train.csv."""
    below = (file for file in list_visible(root, "*/*") if file.suffix in TABLE_SUFFIXES and is_split(file.stem))
    others = [*_find_tables(root), *(file for file in below if file.is_file())]
    read = {*find_split_tables(root)}
    return [file for file in others if file not in read and not file.stem.endswith(CLEAN) and not _is_description(file)]


def _is_whole(file: Path, root: Path) -> bool:
    return file.stem == "metadata" and file.parent == root


def _find_tables(root: Path) -> list[Path]:
    return [file for file in list_visible(root) if file.suffix in TABLE_SUFFIXES and file.is_file()]


def _is_description(file: Path) -> bool:
    """Whether a .json file is a single object that describes the corpus instead of rows."""
    if file.suffix != ".json":
        return False
    try:
        found = json.loads(read_text(file, of_rows=True))
    except (ValueError, RecursionError):  # An object on each line is not valid JSON as a whole.
        return False
    return isinstance(found, dict) and not found.keys() & {*AUDIO_COLUMNS, *TEXT_COLUMNS}


def _require_one(tables: Sequence[Path]) -> Path:
    if len(tables) > 1:
        tables = [file for file in tables if not _is_description(file)] or tables
    if len(tables) > 1:
        raise UserError(
            f"{' and '.join(map(str, tables))} are tables of one split: expected one; remove or rename the others."
        )
    return tables[0]


def read_whole(file: Path, columns: Columns = (None, None)) -> Splits:
    """The rows of one table for all splits: by its column `split`, or by the folders train/, test/ … of the audio.

    If one cell of that column is the usual name of a split, other values are splits too. Unreadable rows that have no
    such split belong to the first one. Raises UserError if only some of the others have a split.
    """
    rows = read_table(file, columns)
    audio = columns[0] or next((name for name in AUDIO_COLUMNS if any(name in row for row in rows)), "")
    sound = [row for row in rows if PROBLEM not in row]
    by_column = any(is_split(_read_split(row)) for row in sound)

    def find_split(row: Row) -> str:
        if by_column:
            return _read_split(row)
        return "" if is_split(file.stem) else _find_split(str(row.get(audio) or ""), file.parent)

    names = [find_split(row) for row in sound]
    if not any(names):
        return {"train": rows}
    if not all(names):
        other = sound[names.index("")]
        if by_column:
            raise UserError(
                f"{file} has no split for {names.count('')} of its rows, as for {other.get(audio)}: write one in each "
                "cell of the column split."
            )
        raise UserError(
            f"{file} names audio in folders of splits ({', '.join(sorted(set(names) - {''}))}) and {names.count('')} "
            f"outside of them, as {other.get(audio)}: say in a column named split which rows are train, validation "
            "and test."
        )
    splits: Splits = {split_name(name): [] for name in names}
    for row in rows:
        splits.get(split_name(find_split(row)), splits[split_name(names[0])]).append(row)
    return splits


def _read_split(row: Row) -> str:
    return str(row.get("split") or "").strip()


def _find_split(place: str, root: Path) -> str:
    """The first folder between the root and a file that has a split's name, or ""."""
    start = "" if str(root) == "." else f"{root}/"
    folders = place.removeprefix(start).split("/")[:-1] if place.startswith(start) else []
    return next((name for name in folders if is_split(name)), "") if ".." not in folders else ""


def describe_missing(root: Path) -> str:
    """The message for a folder without a corpus."""
    sentence = (
        f"The folder {root} has no transcripts: expected a metadata.csv or metadata.jsonl with the columns "
        "file_name and text beside the audio, one such folder for each split, or train.csv and test.csv."
    )
    table = next((file for file in _find_tables(root) if not _is_description(file)), None)
    return f"{sentence} A table with another name is given by its path (data.root={table})." if table else sentence
