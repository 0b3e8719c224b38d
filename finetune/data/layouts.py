"""How public corpora lie on a disk: a folder to rows of audio, text, speaker and whatever else it says.

Each reader returns None for a folder that is not laid out in its way, and else the rows of each split. A row's `audio`
is a path; `start` and `end` are seconds into it, where an utterance is a piece of a longer recording.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from finetune.data.manifests import CHANNEL, PROBLEM, Row
from finetune.errors import UserError

Splits = dict[str, list[Row]]

# What `audiofolder` accepts as a split's folder or file.
_SPLITS = {
    "training": "train",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "testing": "test",
}


def split_name(name: str) -> str:
    """A split's usual name for one of its other names: `dev` is `validation`."""
    return _SPLITS.get(name, name)


def read_layout(root: Path) -> Splits | None:
    """The rows of a corpus in one of the known layouts, or None; raises UserError for one that is damaged."""
    for read in _READERS:
        splits = read(root)
        if splits is not None:
            return splits
    return None


def read_kaldi(root: Path) -> Splits | None:
    """Kaldi: `wav.scp`, `text`, perhaps `segments` and `utt2spk`, in the folder or in one for each split."""
    if (root / "wav.scp").is_file():
        return {"train": list(_kaldi_rows(root))}
    folders = [file.parent for file in sorted(root.glob("*/wav.scp"))]
    return {split_name(folder.name): list(_kaldi_rows(folder)) for folder in folders} or None


def _kaldi_rows(folder: Path) -> Iterator[Row]:
    recording_lines = _keyed_lines(folder / "wav.scp")
    segment_lines = _keyed_lines(folder / "segments") if (folder / "segments").is_file() else None
    # Of several lines with one key the first counts.
    recordings = dict(reversed(recording_lines))
    texts = dict(reversed(_keyed_lines(folder / "text")))
    speakers = dict(reversed(_keyed_lines(folder / "utt2spk"))) if (folder / "utt2spk").is_file() else {}
    for recording, place in recordings.items():
        if place.endswith("|"):
            raise UserError(
                f"{folder / 'wav.scp'} makes the audio of {recording} by a command, which is never run here: "
                "expected the path of a file; write the command's output into one."
            )
    seen: set[str] = set()
    for utterance, place in recording_lines if segment_lines is None else segment_lines:
        row: Row = {"id": utterance, "text": texts.get(utterance, ""), "speaker": speakers.get(utterance)}
        if utterance in seen:
            row[PROBLEM] = f"duplicate id: {utterance}"
        seen.add(utterance)
        if segment_lines is None:
            row["audio"] = str(folder / place)
        else:
            recording, start, end, channel = [*place.split(), "", "", "", ""][:4]
            # A segment of no known recording, or without its times, is a row that can't be used, and is listed as one.
            file = recordings.get(recording)
            row |= {"audio": str(folder / file) if file else None, "start": start, "end": end}
            if channel:
                row[CHANNEL] = channel
        yield row


def _keyed_lines(file: Path) -> list[tuple[str, str]]:
    """The `KEY VALUE` lines of a file of Kaldi's."""
    if not file.is_file():
        raise UserError(
            f"There is no {file.name} in {file.parent}: expected Kaldi's wav.scp and text beside each other."
        )
    parted = (line.strip().partition(" ") for line in read_text(file).splitlines())
    return [(key, value.strip()) for key, _, value in parted if key]


def read_librispeech(root: Path) -> Splits | None:
    """LibriSpeech: SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside FLAC; all train-* together are `train`."""
    subsets = {folder.name: folder for folder in sorted(root.iterdir()) if folder.is_dir()}
    if not any(_transcripts(folder) for folder in subsets.values()):
        # The tree may also begin at a subset, or with the folder that the archives unpack to.
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
    return sorted(folder.glob("*/*/*.trans.txt"))


def _chapter_rows(file: Path) -> Iterator[Row]:
    for line in read_text(file).splitlines():
        utterance, _, text = line.strip().partition(" ")
        if utterance:
            audio = file.with_name(f"{utterance}.flac")
            yield {"id": utterance, "audio": str(audio), "text": text, "speaker": file.parent.parent.name}


def read_ljspeech(root: Path) -> Splits | None:
    """LJSpeech: `metadata.csv` of ID|TEXT|NORMALISED TEXT lines without a header, and wavs/ID.wav."""
    file = root / "metadata.csv"
    if not file.is_file() or not (root / "wavs").is_dir():
        return None
    lines = read_text(file).splitlines()
    if not lines or lines[0].count("|") not in (1, 2):
        return None
    rows = []
    for line in lines:
        if line.strip():
            name, *texts = line.split("|")
            rows.append({"id": name, "audio": str(root / "wavs" / f"{name}.wav"), "text": texts[-1] if texts else ""})
    return {"train": rows}


def read_common_voice(root: Path) -> Splits | None:
    """A Common Voice release: train.tsv, dev.tsv and test.tsv (path, sentence, client_id and more), and clips/."""
    if not (root / "clips").is_dir():
        return None
    splits: Splits = {}
    for name in ("train", "dev", "test", "validated", "other", "invalidated"):
        file = root / f"{name}.tsv"
        if file.is_file():
            splits[split_name(name)] = list(_clip_rows(file))
    return splits or None


def _clip_rows(file: Path) -> Iterator[Row]:
    header, *lines = read_text(file).split("\n")  # Sentences hold quotation marks that quote nothing.
    columns = header.rstrip("\r").split("\t")
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t")
        row: Row = dict(zip(columns, cells, strict=False))
        if "path" not in row or "sentence" not in row:
            raise UserError(
                f"{file}, line {number}: expected the columns path and sentence, found {', '.join(columns)}."
            )
        clip = row.pop("path")
        row["audio"] = str(file.parent / "clips" / (clip if Path(clip).suffix else f"{clip}.mp3")) if clip else None
        yield row | {"text": row.pop("sentence"), "speaker": row.pop("client_id", None)}


def read_text(file: Path) -> str:
    """A text file of a corpus; raises UserError where it is not UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} can't be read: byte {error.start} is not UTF-8; convert it, for example with iconv."
        ) from error


_READERS: tuple[Callable[[Path], Splits | None], ...] = (
    read_kaldi,
    read_ljspeech,
    read_common_voice,
    read_librispeech,
)
