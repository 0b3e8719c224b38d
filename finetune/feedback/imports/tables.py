"""Rows of tables, and folders of audio with texts beside, as entries."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.audio.waveforms import CONTAINERS, SUFFIXES, AudioError, Recording, fault_as_reason
from finetune.errors import UserError
from finetune.feedback.imports.entries import Entry, LeftOut, take_hypothesis, take_metadata, take_text
from finetune.resources.storage import is_url
from finetune.text.lines import read_text

AUDIO = ("audio", "file_name", "path", "audio_filepath", "file")
_TEXTS = ("correction", "text", "transcription", "transcript", "sentence")


def read_rows(
    rows: Sequence[Mapping[str, Any]], file: Path, problem: str, allow_outside: bool = False
) -> Iterator[Entry | LeftOut]:
    """The entries of a table's rows, whose cells of audio are paths; `problem` is the key of a row that can't be read.

    Audio outside the table's folder, also at a URL, is left out unless `allow_outside` is set. Raises UserError for a
    table without audio, and for a table of Label Studio that lacks what an export in JSON has.
    """
    names = {name for row in rows for name in row}
    if {"annotation_id", "annotator"} <= names:
        raise UserError(f"{file} is Label Studio's CSV or JSON-MIN, without its regions: export the project as JSON.")
    audio = next((name for name in AUDIO if name in names), None)
    if audio is None:
        found = ", ".join(sorted(names - {problem})[:10]) or "no columns"
        raise UserError(f"{file} has no column of audio ({found}); expected audio, file_name or path.")
    for number, row in enumerate(rows, 1):
        name = f"{file.name}, row {number}"
        try:
            with fault_as_reason():
                if problem in row:
                    raise AudioError(str(row[problem]))
                yield _build(name, row, audio, file.parent, "consent" in names, allow_outside)
        except AudioError as error:
            yield LeftOut(name, str(error))


def _build(
    name: str, row: Mapping[str, Any], audio: str, folder: Path, has_consent: bool, allow_outside: bool
) -> Entry:
    path = row.get(audio)
    if isinstance(path, Mapping):
        path = path.get("path")
    if not isinstance(path, str) or not path:
        raise AudioError("no audio")
    _require_inside(path, folder, allow_outside)
    hypothesis = take_hypothesis(take_text(row, "hypothesis"), row.get("confidence"), take_text(row, "model"))
    return Entry(
        name=name,
        recording=Recording(path, None, _take_seconds(row, "start") or 0.0, _take_seconds(row, "end")),
        text=take_text(row, *_TEXTS),
        hypothesis=hypothesis,
        **take_metadata(row, has_consent),
    )


def _take_seconds(row: Mapping[str, Any], key: str) -> float | None:
    text = take_text(row, key)
    try:
        return None if text is None else float(text)
    except ValueError as error:
        raise AudioError(f"its {key} is {text[:40] if text else text}; expected seconds") from error


def _require_inside(path: str, folder: Path, allow_outside: bool) -> None:
    if not allow_outside and (is_url(path) or not Path(path).resolve().is_relative_to(folder.resolve())):
        raise AudioError(f"outside the folder of its table (--allow-outside reads it): {path}")


def read_folder(folder: Path) -> Iterator[Entry | LeftOut]:
    """The entries of a folder's audio files with a text file of the same name beside each; raises UserError for none.

    Files without the other of the two are left out.
    """
    files = sorted(Path(root) / name for root, _, names in os.walk(folder) for name in names if name[0] != ".")
    audio = [file for file in files if file.suffix.lower() in SUFFIXES | CONTAINERS]
    if not audio:
        raise UserError(f"There is no audio in {folder}: expected audio with .txt files beside, or a metadata.csv.")
    texts = {file.with_suffix(""): file for file in files if file.suffix.lower() == ".txt"}
    for stem in sorted(texts.keys() - {file.with_suffix("") for file in audio}):
        yield LeftOut(str(texts[stem].relative_to(folder)), "no audio beside it")
    for file in audio:
        name = str(file.relative_to(folder))
        if file.with_suffix("") not in texts:
            yield LeftOut(name, "no text beside it")
            continue
        try:
            with fault_as_reason():
                _require_inside(str(file), folder, allow_outside=False)
                text = read_text(texts[file.with_suffix("")])
        except AudioError as error:
            yield LeftOut(name, str(error))
        else:
            yield Entry(name=name, recording=Recording(str(file), None), text=text)
