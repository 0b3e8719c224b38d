"""Recordings with their texts: one pair, folders with equal names, a table, or the long rows of a corpus."""

import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from finetune.audio.waveforms import AudioError, Recording, fault_as_reason, read_seconds
from finetune.commands.arguments import read_text_file
from finetune.commands.inputs import Input, find_inputs
from finetune.data.manifests import SUFFIXES as TABLE_SUFFIXES
from finetune.data.own_files import lies_in, own_places
from finetune.data.sources import Source, Table, load_splits, select_table
from finetune.errors import UserError
from finetune.files import expand_home
from finetune.resources.addresses import public_address
from finetune.resources.storage import is_url
from finetune.text.lines import read_text

_LOGGER = logging.getLogger(__name__)
_TEXT_SUFFIX = ".txt"
# Of the 255 that file systems allow; names of other files are longer by a split, a hash and a suffix.
_NAME_BYTES = 200


@dataclass(frozen=True)
class Pair:
    """A recording and its text, read when they are needed; `name` is that of its folder, `source` what is shown.

    `read_recording` raises AudioError, and `read_text` AudioError or UserError.
    """

    name: str
    source: str
    speaker: str
    read_recording: Callable[[], Recording]
    read_text: Callable[[], str]
    split: str = "train"


def find_pairs(audio: str, text: str | None, speaker: str | None, allow_outside: bool) -> list[Pair]:
    """The pairs of a table, of two folders, of one folder, or of a recording and a text file.

    Without a speaker each recording's name stands in its place. Raises UserError if there are none.
    """
    place = expand_home(audio)
    if text is None and place.suffix.lower() in TABLE_SUFFIXES:
        return _name_apart(_read_source(Source(audio, allow_outside=allow_outside), speaker, None))
    inputs = find_inputs([audio])
    if place.is_dir():
        return _name_apart(_pair_folders(inputs, expand_home(text or audio), speaker))
    if text is None:
        raise UserError(f"{audio} has no text: expected a text file after it, a table of audio and text, or a folder.")
    if len(inputs) != 1:
        raise UserError(f"{audio} has {len(inputs)} recordings: expected one, which {text} is of, or a folder.")
    return [_pair(inputs[0], lambda: read_text_file(text), speaker)]


def find_untranscribed(audio: str, speaker: str | None, allow_outside: bool) -> list[Pair]:
    """The recordings at a place or the rows of a table, each with an empty text; raises UserError if there are none."""
    if expand_home(audio).suffix.lower() in TABLE_SUFFIXES:
        return _name_apart(_read_source(Source(audio, allow_outside=allow_outside, transcribed=False), speaker, None))
    return _name_apart(_pair(each, lambda: "", speaker) for each in find_inputs([audio], allow_outside))


def find_long_rows(corpus: str, longer_than: float, speaker: str | None, allow_outside: bool) -> list[Pair]:
    """The rows of all splits of a corpus that are longer than so many seconds, and those that can't be read.

    Raises UserError if there is no corpus.
    """
    return _name_apart(_read_source(Source(corpus, allow_outside=allow_outside), speaker, longer_than))


def _name_apart(pairs: Iterator[Pair]) -> list[Pair]:
    """The pairs, each with a name that no other has on any file system."""
    named: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        if (other := named.setdefault((pair.split, pair.name.lower()), pair)) is not pair:
            raise UserError(
                f"{other.source} and {pair.source} would both be written to {pair.split}/{pair.name}: rename one."
            )
    return list(named.values())


def _pair_folders(inputs: list[Input], texts: Path, speaker: str | None) -> Iterator[Pair]:
    """Each recording with the text of its relative path without suffix, and each text without a recording."""
    if not texts.is_dir():
        raise UserError(f"{texts} is no folder: expected one with a {_TEXT_SUFFIX} file for each recording.")
    files = {file.relative_to(texts).with_suffix(""): file for file in sorted(texts.rglob(f"*{_TEXT_SUFFIX}"))}
    for each in inputs:
        file = files.pop(each.relative, None)
        missing = f"no text: {texts / each.relative}{_TEXT_SUFFIX}"
        yield _pair(each, _fail(missing) if file is None else _reader(file), speaker)
    for relative, file in files.items():
        name = _clean(relative.as_posix())
        yield Pair(name, str(file), speaker or name, _fail(f"no audio: of {file}"), _reader(file))


def _pair(found: Input, read: Callable[[], str], speaker: str | None) -> Pair:
    if found.recording is None:
        raise UserError("A recording can't come from standard input here, as it is read several times: name a file.")
    recording = found.recording

    def open_recording() -> Recording:
        if isinstance(recording, AudioError):
            raise recording
        return recording

    name = _clean(found.relative.as_posix())
    return Pair(name, public_address(found.name), speaker or name, open_recording, read)


def _read_source(source: Source, speaker: str | None, longer_than: float | None) -> Iterator[Pair]:
    splits = load_splits(source)
    left = 0
    for split in splits:
        table = select_table(splits, split, source)
        cells = zip(table.texts(), table.speakers(), strict=True)
        for row, (text, own) in enumerate(cells):
            if longer_than is not None and not _is_longer(table, row, longer_than):
                left += 1
                continue
            name = f"{_clean(Path(table.name(row)).stem)}-{row}"
            shown = f"{split} row {row}: {table.name(row)}"
            yield Pair(name, shown, own or speaker or name, _open_row(table, row), _row_reader(source, text), split)
    if left:
        _LOGGER.info(f"{left} rows of up to {longer_than:g} s stay as they are in {source.name}")


def _is_longer(table: Table, row: int, seconds: float) -> bool:
    """Whether a row is longer, or can't be read: it is then named with the reason."""
    try:
        with fault_as_reason():
            return read_seconds(table.recording(row)) > seconds
    except AudioError:
        return True


def _open_row(table: Table, row: int) -> Callable[[], Recording]:
    return lambda: table.recording(row)


def _row_reader(source: Source, text: str | None) -> Callable[[], str]:
    """The text of a row: what its cell says, or the text file beside the table that its cell names."""

    def read() -> str:
        if text is None:
            raise AudioError("no text")
        if is_url(source.root) or not text.strip().lower().endswith(_TEXT_SUFFIX) or "\n" in text:
            return text
        file = expand_home(source.root).parent / text.strip()
        inside = None if source.allow_outside else own_places(source.root)
        if inside is not None and not lies_in(str(file), inside):
            raise AudioError(f"outside the corpus (--allow-outside reads it): {file}")
        return _reader(file)()

    return read


def _reader(file: Path) -> Callable[[], str]:
    def read() -> str:
        try:
            return read_text(file)
        except OSError as error:
            raise AudioError(f"no text: {file}: {error.strerror}") from error

    return read


def _fail(reason: str) -> Callable[[], NoReturn]:
    def fail() -> NoReturn:
        raise AudioError(reason)

    return fail


def _clean(name: str) -> str:
    """A name that every file system takes; one that is changed or cut gets a part of its hash."""
    short = re.sub(r"[^\w.\-]+", "_", name)[:100].encode()[:_NAME_BYTES].decode(errors="ignore")
    cleaned = short.strip(". ") or "recording"
    return cleaned if cleaned == name else f"{cleaned}-{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:6]}"
