"""Layouts of public corpora: a folder to rows of audio, text, speaker and further columns, by split.

Each reader returns None for a folder with another layout. A row's `audio` is a path; `start` and `end` are seconds, if
the utterance is a segment of a longer recording.
"""

import difflib
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from finetune.audio.recordings import SUFFIXES
from finetune.data.file_names import find_file, use_slashes
from finetune.data.manifests import CHANNEL, PROBLEM, Row, is_header, read_manifest
from finetune.errors import UserError
from finetune.resources.storage import find_place, is_plain, list_visible, open_file
from finetune.text.lines import read_text, split_lines

_LOGGER = logging.getLogger(__name__)

Splits = dict[str, list[Row]]

# The first rows of a table, and characters of their texts, that are compared to find what it names.
_LOOKED_AT, _COMPARED = 100, 200
# Levels above a Kaldi folder in which audio is searched: ESPnet's dump/raw/org/train has four.
_HIGHEST = 4

# Names of splits in the folder builders of `datasets` (SPLIT_KEYWORDS in its data_files.py), in its order.
_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLITS = {name: split for split, names in _NAMES.items() for name in names}


def split_name(name: str) -> str:
    """The canonical name of a split: `dev` is `validation`, `eval` is `test`."""
    return _SPLITS.get(name.lower(), name)


def is_split(name: str) -> bool:
    """Whether a name is a usual name of a split: `dev` is, `dev93` is not."""
    return name.lower() in _SPLITS


def name_splits(names: Iterable[str]) -> dict[str, str]:
    """The split of each folder or table, by its name.

    If two have names of the same split (`dev` and `val`), the one that `datasets` lists first gets it, and the other
    keeps its own name.
    """
    order = list(_SPLITS)
    ranked = sorted(names, key=lambda name: (order.index(name.lower()) if is_split(name) else len(order), name))
    splits: dict[str, str] = {}
    for name in ranked:
        split = split_name(name)
        splits[name] = name if split in splits.values() else split
    return splits


class Layout(NamedTuple):
    """A corpus in a known layout: the layout's name, the rows by split, and the tables among its files."""

    name: str
    splits: Splits
    tables: frozenset[Path]


def read_layout(root: Path) -> Layout | None:
    """The rows of a corpus in a known layout, or None; raises UserError for a damaged one."""
    for name, read, tables in _READERS:
        if (splits := read(root)) is not None:
            return Layout(name, splits, frozenset(root / table for table in tables))
    return None


# The end of a segment that goes on to the recording's, as Kaldi's extract-segments reads it.
_TO_THE_END = re.compile(r"-1(\.0*)?")


def read_kaldi(root: Path) -> Splits | None:
    """Kaldi: `wav.scp`, `text`, optional `segments` and `utt2spk`, in the folder or in a folder for each split."""
    if (root / "wav.scp").is_file():
        return {"train": list(_kaldi_rows(root))}
    folders = {file.parent.name: file.parent for file in list_visible(root, "*/wav.scp")}
    return {split: list(_kaldi_rows(folders[name])) for name, split in name_splits(folders).items()} or None


def _kaldi_rows(folder: Path) -> Iterator[Row]:
    """A row for each utterance, and one with a `PROBLEM` for each line without utterance and each duplicate."""
    recording_lines = _keyed_lines(folder / "wav.scp")
    text_lines = _keyed_lines(folder / "text")
    segment_lines = _keyed_lines(folder / "segments") if (folder / "segments").is_file() else None
    # The first of several lines with one key is used.
    recordings = dict(reversed(recording_lines))
    texts = dict(reversed(text_lines))
    speakers = dict(reversed(_keyed_lines(folder / "utt2spk"))) if (folder / "utt2spk").is_file() else {}
    for recording, place in recordings.items():
        if place.endswith("|"):
            raise UserError(
                f"{folder / 'wav.scp'} creates the audio of {recording} with a command, and commands are not run: "
                "expected the path of a file; write the command's output to a file."
            )
    base = _find_base(folder, recordings.values())
    utterance_lines = recording_lines if segment_lines is None else segment_lines
    seen: set[str] = set()
    for utterance, place in utterance_lines:
        row: Row = {"id": utterance, "text": texts.get(utterance), "speaker": speakers.get(utterance)}
        if utterance in seen:
            row[PROBLEM] = f"duplicate id: {utterance}"
        seen.add(utterance)
        if segment_lines is None:
            row["audio"] = find_file(base, place)
        else:
            recording, start, end, channel = [*place.split(), "", "", "", ""][:4]
            # A segment without a known recording or without times is an unusable row, and is listed as such.
            file = recordings.get(recording)
            row |= {"audio": find_file(base, file) if file else None, "start": start}
            row["end"] = "" if _TO_THE_END.fullmatch(end) else end
            if channel and not channel.startswith("-"):  # -1 is all channels.
                row[CHANNEL] = channel
        yield row
    listing = "wav.scp" if segment_lines is None else "segments"
    for utterance, text in text_lines:
        if utterance not in seen:
            yield {"id": utterance, "text": text, PROBLEM: f"no audio: {utterance} of text is not in {listing}"}
    repeated = [("text", _find_repeated(text_lines))]
    if segment_lines is not None:
        repeated.append(("wav.scp", _find_repeated(recording_lines)))
    for name, keys in repeated:
        for key in keys:
            yield {"id": key, PROBLEM: f"duplicate id: {key} occurs earlier in {name}"}


def _find_base(folder: Path, recordings: Iterable[str]) -> Path:
    """The folder that paths in wav.scp are relative to: this one, or one above, in which Kaldi's scripts were run.

    It is the first in which one of the first recordings exists.
    """
    first = list(itertools.islice(recordings, _LOOKED_AT))
    for base in (folder, *list(folder.parents)[:_HIGHEST]):
        if any(os.path.exists(find_file(base, recording)) for recording in first):  # noqa: PTH110
            return base
    return folder


def _keyed_lines(file: Path) -> list[tuple[str, str]]:
    """The lines of a Kaldi file: a key and, after spaces or tabs, a value."""
    if not file.is_file():
        raise UserError(
            f"There is no {file.name} in {file.parent}: expected Kaldi's wav.scp and text in the same folder."
        )
    return [split_key(line) for line in split_lines(read_text(file, of_rows=True)) if line.strip(_BLANKS)]


_BLANKS = " \t\r"


def split_key(line: str) -> tuple[str, str]:
    """A line's first word and the rest; only spaces and tabs separate them, since other whitespace may be text."""
    key, *value = re.split(r"[ \t]+", line.strip(_BLANKS), maxsplit=1)
    return key, value[0] if value else ""


def _find_repeated(lines: Iterable[tuple[str, str]]) -> Iterator[str]:
    seen: set[str] = set()
    for key, _ in lines:
        if key in seen:
            yield key
        seen.add(key)


def read_librispeech(root: Path) -> Splits | None:
    """LibriSpeech: SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt with FLAC files; all train-* are `train`."""
    subsets = {folder.name: folder for folder in list_visible(root) if folder.is_dir()}
    if not any(_transcripts(folder) for folder in subsets.values()):
        # The folder may also be a subset, or contain the folder that the archives are unpacked to.
        if rows := _subset_rows(root):
            role = split_name(root.name.partition("-")[0])
            return {role if role in ("validation", "test") else "train": rows}
        if (root / "LibriSpeech").is_dir():
            return read_librispeech(root / "LibriSpeech")
        return None
    splits: Splits = {}
    for name, folder in subsets.items():
        rows = _subset_rows(folder)
        if not rows:
            continue
        role = split_name(name.partition("-")[0])
        splits[name] = rows
        if role != name and role in ("train", "validation", "test"):
            splits.setdefault(role, []).extend(rows)
    return splits


def _subset_rows(folder: Path) -> list[Row]:
    return [row | {"subset": folder.name} for file in _transcripts(folder) for row in _chapter_rows(file)]


def _transcripts(folder: Path) -> list[Path]:
    return list_visible(folder, "*/*/*.trans.txt")


def _chapter_rows(file: Path) -> Iterator[Row]:
    for utterance, text in _keyed_lines(file):
        # Not `with_name`, which raises for an invalid name.
        audio = f"{file.parent}/{utterance}.flac"
        yield {"id": utterance, "audio": audio, "text": text, "speaker": file.parent.parent.name}


# SPEAKER_BOOK_NUMBER, as in the names of its files.
_MLS_ID = re.compile(r"(\d+)_(\d+)_\d+")


def read_multilingual_librispeech(root: Path) -> Splits | None:
    """Multilingual LibriSpeech: SPLIT/transcripts.txt, and SPLIT/audio/SPEAKER/BOOK/SPEAKER_BOOK_NUMBER.flac or .opus.

    The folder may also be that of a split.
    """
    files = list_visible(root, "transcripts.txt") or list_visible(root, "*/transcripts.txt")
    if not any(map(_begins_as_mls, files)):
        return None
    splits = name_splits(file.parent.name for file in files)
    if files[0].parent == root and not is_split(root.name):
        splits = {root.name: "train"}
    return {splits[file.parent.name]: _mls_rows(file) for file in files}


def _begins_as_mls(file: Path) -> bool:
    if not is_plain(file):
        return False
    with open_file(str(file)) as opened:
        name, separator, _ = opened.readline(_COMPARED).decode("ascii", "replace").partition("\t")
    return bool(separator and _MLS_ID.fullmatch(name))


def _mls_rows(file: Path) -> list[Row]:
    """The rows of a split, with the suffix of the first audio file that there is."""
    rows: list[Row] = []
    for name, text in _keyed_lines(file):
        speaker, book = match.groups() if (match := _MLS_ID.fullmatch(name)) else ("", "")
        audio = f"{file.parent}/audio/{speaker}/{book}/{name}"
        rows.append({"id": name, "audio": audio, "text": text, "speaker": speaker})
        if match is None:
            rows[-1][PROBLEM] = f"no audio: {name} is not SPEAKER_BOOK_NUMBER"
    places = (f"{row['audio']}{suffix}" for row in rows[:_LOOKED_AT] for suffix in (".flac", ".opus"))
    suffix = next((Path(place).suffix for place in places if find_place(place).is_file()), ".flac")
    return [row | {"audio": f"{row['audio']}{suffix}"} for row in rows]


# The folder of VCTK's audio in version 0.92 and in older ones.
_VCTK_AUDIO = ("wav48_silence_trimmed", "wav48")
_MICROPHONE = re.compile(r"(.+?)(?:_(mic\d))?")


def read_vctk(root: Path) -> Splits | None:
    """VCTK: txt/SPEAKER/ID.txt with wav48_silence_trimmed/SPEAKER/ID_mic1.flac, in older versions wav48/SPEAKER/ID.wav.

    `train` has each utterance once, from the first microphone; those of another are a split with its name, `mic2`.
    """
    folders = [root / name for name in _VCTK_AUDIO if (root / name).is_dir()]
    if not folders or not (root / "txt").is_dir():
        return None
    if len(folders) > 1:
        raise UserError(f"{folders[0]} and {folders[1]} are two versions of VCTK: move one to another folder.")
    texts = {(file.parent.name, file.stem): file for file in list_visible(root / "txt", "*/*.txt")}
    microphones: dict[str, dict[tuple[str, str], list[Path]]] = {}
    for file in list_visible(folders[0], "*/*"):
        match = _MICROPHONE.fullmatch(file.stem)
        if match and file.suffix.lower() in SUFFIXES:
            microphones.setdefault(match[2] or "mic1", {}).setdefault((file.parent.name, match[1]), []).append(file)
    first, *others = sorted(microphones) or ["mic1"]
    if others:
        _LOGGER.warning(
            f"{root} has recordings of an utterance by several microphones: those of {first} are the split train, the "
            f"others {', '.join(others)}",
            extra={"once": True},
        )
    unheard: dict[tuple[str, str], list[Path]] = {key: [] for key in texts.keys() - microphones.get(first, {}).keys()}
    heard = {"train": microphones.get(first, {}) | unheard, **{name: microphones[name] for name in others}}
    read = {key: _read_text_of(file) for key, file in texts.items()}
    return {
        split: [_vctk_row(key, files[key], read.get(key, {})) for key in sorted(files)]
        for split, files in heard.items()
    }


def _read_text_of(file: Path) -> Row:
    try:
        return {"text": read_text(file).strip()}
    except UserError as error:
        return {PROBLEM: f"no text: {error}"}


def _vctk_row(key: tuple[str, str], files: Sequence[Path], text: Row) -> Row:
    speaker, name = key
    row = {"id": name, "audio": str(files[0]) if files else None, "text": None, "speaker": speaker} | text
    if len(files) != 1:
        row[PROBLEM] = f"ambiguous audio: {' or '.join(map(str, files))}" if files else f"no audio: of {speaker}/{name}"
    return row


def read_ljspeech(root: Path) -> Splits | None:
    """LJSpeech: `metadata.csv` with lines ID|TEXT|NORMALISED TEXT without a header, and wavs/ID.wav.

    An empty normalised text is the text.
    """
    file = root / "metadata.csv"
    if not file.is_file() or not (root / "wavs").is_dir():
        return None
    lines = split_lines(read_text(file, of_rows=True))
    if not lines or not _is_ljspeech(root, [line.split("|") for line in lines[:_LOOKED_AT]]):
        return None
    return {"train": [_ljspeech_row(root, number, line) for number, line in enumerate(lines, 1) if line.strip(" ")]}


def _is_ljspeech(root: Path, rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first rows have the cells of LJSpeech; others, such as FILE|TEXT|SPEAKER, are a table's."""
    first = rows[0]
    if len(first) not in (2, 3) or is_header(first):
        return False
    if "/" in use_slashes(first[0]) and not Path(_wav(root, first[0])).is_file():  # The path of a file, not an id.
        return False
    pairs = [cells[1:] for cells in rows if len(cells) == 3 and cells[2].strip()]
    return len(first) == 2 or 0 < len(pairs) <= 2 * sum(_are_similar(*pair) for pair in pairs)


def _are_similar(text: str, normalised: str) -> bool:
    """Whether a text may be another with numbers and abbreviations in words: it has a word or most letters of it."""
    text, normalised = text.casefold()[:_COMPARED], normalised.casefold()[:_COMPARED]
    if set(text.split()) & set(normalised.split()):
        return True
    return difflib.SequenceMatcher(None, text, normalised, autojunk=False).ratio() >= 0.6


def _wav(root: Path, name: str) -> str:
    return find_file(root / "wavs", f"{name.removesuffix('.wav')}.wav")


def _ljspeech_row(root: Path, number: int, line: str) -> Row:
    name, *texts = line.split("|")
    row: Row = {"id": name, "audio": _wav(root, name)}
    if len(texts) not in (1, 2):
        return row | {PROBLEM: f"ragged row: line {number} has {len(texts) + 1} cells; expected 2 or 3"}
    return row | {"text": texts[-1] if texts[-1].strip() else texts[0]}


_COMMON_VOICE = ("train", "dev", "test", "validated", "other", "invalidated")


def read_common_voice(root: Path) -> Splits | None:
    """A Common Voice release: train.tsv, dev.tsv and test.tsv (path, sentence, client_id and more), and clips/."""
    if not (root / "clips").is_dir():
        return None
    files = {split_name(name): root / f"{name}.tsv" for name in _COMMON_VOICE if (root / f"{name}.tsv").is_file()}
    splits = {split: read_manifest(file) for split, file in files.items()}
    if any({"path", "sentence"} - row.keys() for rows in splits.values() for row in rows if PROBLEM not in row):
        return None
    return {split: [_clip_row(root / "clips", row) for row in rows] for split, rows in splits.items()} or None


def _clip_row(clips: Path, row: Row) -> Row:
    clip = row.pop("path", None)
    audio = find_file(clips, clip if Path(clip).suffix else f"{clip}.mp3") if clip else None
    return row | {"audio": audio, "text": row.pop("sentence", None), "speaker": row.pop("client_id", None)}


_READERS: tuple[tuple[str, Callable[[Path], Splits | None], Sequence[str]], ...] = (
    ("Kaldi", read_kaldi, ()),
    ("LJSpeech", read_ljspeech, ("metadata.csv",)),
    ("Common Voice", read_common_voice, [f"{name}.tsv" for name in _COMMON_VOICE]),
    ("LibriSpeech", read_librispeech, ()),
    ("Multilingual LibriSpeech", read_multilingual_librispeech, ()),
    ("VCTK", read_vctk, ()),
)
