"""A hub name, a folder or a manifest to one table: audio (undecoded), text, speaker."""

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.audio import Recording
from finetune.errors import UserError

# Names that public corpora give to the same column, the commonest first.
TEXT_COLUMNS = ("text", "transcription", "transcript", "sentence", "normalized_text")
AUDIO_COLUMNS = ("audio", "file_name", "path", "audio_filepath", "file")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_MANIFESTS = (".csv", ".tsv", ".jsonl")
# What `audiofolder` accepts as a split's folder or file.
_SPLITS = {
    "training": "train",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "testing": "test",
}


@dataclass(frozen=True)
class Source:
    """Where utterances come from; a column left None is found under its usual names."""

    root: str
    configuration: str | None = None
    revision: str | None = None
    audio_column: str | None = None
    text_column: str | None = None
    speaker_column: str | None = None


@dataclass(frozen=True)
class Table:
    """One split and the columns that hold each utterance's audio, transcript and speaker."""

    rows: Any
    audio: str
    text: str
    speaker: str | None

    def recording(self, row: int) -> Recording:
        """The audio of one row, unread."""
        cell = self.rows[row][self.audio]
        return Recording(path=cell, data=None) if isinstance(cell, str) else Recording.from_cell(cell)


def is_hub_name(name: str) -> bool:
    """Whether a name could be a repository on a hub: NAME or USER/NAME."""
    return _HUB_NAME.fullmatch(name) is not None


def load_splits(source: Source) -> dict[str, Any]:
    """Every split of a folder, a manifest or a data set on a hub, as undecoded `datasets.Dataset`s.

    Raises UserError when there is nothing at that place or it is no corpus.
    """
    root = Path(source.root).expanduser()
    if root.is_dir():
        return {
            split: _read_manifest(file, source.audio_column) for split, file in sorted(_find_manifests(root).items())
        }
    if root.is_file():
        return {"train": _read_manifest(root, source.audio_column)}
    if not is_hub_name(source.root):
        raise UserError(
            f"There is no data at {source.root}: expected a folder, a .csv, .tsv or .jsonl file, "
            "or the name of a data set on a hub."
        )
    import datasets

    try:
        loaded = datasets.load_dataset(source.root, source.configuration, revision=source.revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"{source.root} is neither a folder or file here nor a data set that can be loaded from the hub: "
            f"{_first_line(error)}"
        ) from error
    return dict(loaded)


def select_table(splits: dict[str, Any], split: str, source: Source) -> Table:
    """One split with its columns found; raises UserError naming what there is."""
    import datasets

    if split not in splits:
        raise UserError(f"{source.root} has no split '{split}'; it has {', '.join(sorted(splits))}.")
    rows = splits[split]
    if len(rows) == 0:
        raise UserError(f"The split '{split}' of {source.root} is empty.")
    audio = _find_column(rows, source.audio_column, AUDIO_COLUMNS, "audio", source)
    text = _find_column(rows, source.text_column, TEXT_COLUMNS, "text", source)
    speaker = source.speaker_column or next((c for c in SPEAKER_COLUMNS if c in rows.column_names), None)
    if speaker is not None:
        speaker = _find_column(rows, speaker, (), "speaker", source)
    if isinstance(rows.features[audio], datasets.Audio):
        rows = rows.cast_column(audio, datasets.Audio(decode=False))
    return Table(rows=rows, audio=audio, text=text, speaker=speaker)


def _find_manifests(root: Path) -> dict[str, Path]:
    """A folder's manifest for each split: train.csv …, train/metadata.csv … or one metadata.csv for all."""
    files = [file for file in sorted(root.glob("*")) if file.suffix in _MANIFESTS and file.is_file()]
    manifests = {name: file for file in files if (name := _split_name(file.stem)) in ("train", "validation", "test")}
    for file in sorted(root.glob("*/metadata.*")):
        if file.suffix in _MANIFESTS:
            manifests.setdefault(_split_name(file.parent.name), file)
    whole = next((file for file in files if file.stem == "metadata"), None)
    if whole and not manifests:
        manifests["train"] = whole
    if not manifests:
        raise UserError(
            f"The folder {root} holds no transcripts: expected a metadata.csv or metadata.jsonl with the columns "
            "file_name and text beside the audio, one such folder for each split, or train.csv and test.csv."
        )
    return manifests


def _split_name(name: str) -> str:
    return _SPLITS.get(name, name)


def _read_manifest(file: Path, audio_column: str | None) -> Any:
    # `load_dataset` would turn the transcript "NA" into nothing and "007" into 7, drop rows whose audio is
    # missing, and copy the table into a cache; a manifest's cells are the strings that stand in it.
    import datasets

    if file.suffix not in _MANIFESTS:
        raise UserError(f"{file} is no manifest: expected a file that ends in .csv, .tsv or .jsonl.")
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if file.suffix == ".jsonl":
                rows = [json.loads(line) for line in lines if line.strip()]
            else:
                rows = list(csv.DictReader(lines, delimiter="\t" if file.suffix == ".tsv" else ","))
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file} can't be read as {file.suffix[1:].upper()}: {_first_line(error)}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{file} can't be read: each line must be one JSON object.")
    names = list(dict.fromkeys(name for row in rows for name in row if isinstance(name, str)))
    columns = {name: [_as_text(row.get(name)) for row in rows] for name in names}
    audio = audio_column or next((name for name in AUDIO_COLUMNS if name in columns), None)
    if audio in columns:
        columns[audio] = [str(file.parent / cell) if cell else cell for cell in columns[audio]]
    return datasets.Dataset.from_dict(columns)


def _as_text(cell: object) -> str | None:
    return None if cell is None else str(cell)


def _find_column(rows: Any, wanted: str | None, usual: tuple[str, ...], role: str, source: Source) -> str:
    column = wanted or next((c for c in usual if c in rows.column_names), None)
    if column is None or column not in rows.column_names:
        raise UserError(_no_column(rows, column or " or ".join(usual), role, source))
    return column


def _no_column(rows: Any, column: str, role: str, source: Source) -> str:
    return (
        f"{source.root} has no column {column} for the {role}; it has {', '.join(rows.column_names)}: "
        f"name the right one with data.{role}_column=NAME, or --{role}-column NAME in `finetune evaluate`."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
