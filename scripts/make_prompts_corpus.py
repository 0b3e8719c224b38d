"""Make a corpus of real speech from the telephone prompts that Debian has for Asterisk: en, fr or ru, one voice each.

    apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-g722
    python scripts/make_prompts_corpus.py en OUTPUT_DIR [--rate 16000] [--sounds DIR --texts FILE]

The result is a Hugging Face `audiofolder`: train/, validation/ and test/ (about 70, 10 and 20 % of the texts), each
with FLAC files and a metadata.csv of file_name, text and speaker; left_out.csv with each prompt that is not used and
the reason; and README.md with the credits that the licence demands. The split of a prompt depends on its text alone, as
normalised for training, so a text that was recorded several times is in one split. The texts are what is said (see
prompt_texts.py). `--rate 16000` reads the wideband recordings (G.722, packages -g722), and `--rate 8000` those in
telephone quality (WAV, packages -wav). With version 1.6.1 of the packages, in 4 seconds:

| language | prompts | used | left out | train, validation, test | minutes |
|---|---|---|---|---|---|
| en | 569 | 548 | 21 | 388, 47, 113 | 22.8 |
| fr | 568 | 503 | 65, of which 37 have no text | 363, 45, 95 | 22.7 |
| ru | 576 | 546 | 30 | 381, 56, 109 | 22.0 |
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import soundfile
from prompt_texts import (
    LANGUAGES,
    NO_AUDIO,
    NO_TEXT,
    OTHER_TEXT,
    SILENCE,
    LeftOut,
    Prompts,
    parse_texts,
    write_transcript,
)

from finetune.errors import UserError, format_error
from finetune.files import new_folder
from finetune.text.transcripts import DEFAULT_TRANSFORMS, normalize

SOUNDS = Path("/usr/share/asterisk/sounds")
TEXTS = Path("/usr/share/doc")
SUFFIXES = {16000: ".g722", 8000: ".wav"}
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}

# Nobody says more; the text then has sentences that the recording lacks.
MAX_CHARACTERS_PER_SECOND = 25
# A quieter recording, of 16-bit samples, is silence.
MIN_PEAK = 100

Samples = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Utterance:
    """One line of a metadata.csv; `seconds` is for the totals only."""

    split: str
    file_name: str
    text: str
    seconds: float


@dataclass(frozen=True)
class Corpus:
    """What was made: the utterances, and the reason for each prompt that was left out."""

    utterances: tuple[Utterance, ...]
    left_out: dict[str, str]


def read_texts(file: Path, language: str, rate: int) -> dict[str, str]:
    """Return the text of each prompt; raises UserError where the file is missing or has none."""
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        texts = parse_texts(content.decode("utf-8").splitlines())
    except FileNotFoundError:
        raise UserError(f"There is no file of texts {file}; {_name_packages(language, rate)}") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as a text file in UTF-8: {format_error(error)}") from None
    if not texts:
        raise UserError(f"{file} has no line like `name: text`; expected the texts of Asterisk's prompts")
    return texts


def find_recordings(folder: Path, language: str, rate: int) -> dict[str, Path]:
    """Return the recording of each prompt; raises UserError where there is none."""
    suffix = SUFFIXES[rate]
    files = {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob(f"*{suffix}"))}
    if not files:
        raise UserError(f"There are no {suffix} files in {folder}; {_name_packages(language, rate)}")
    return files


def read_recording(file: Path, rate: int) -> Samples:
    """Return the samples of a recording; raises LeftOut where it cannot be used."""
    try:
        if file.suffix == ".wav":
            samples, found = soundfile.read(file, dtype="int16")
        else:
            with av.open(str(file), format="g722") as container:
                frames = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
                samples, found = np.concatenate(frames) if frames else np.zeros(0, np.int16), 16000
    except (av.FFmpegError, soundfile.LibsndfileError, IndexError) as error:
        raise LeftOut(f"the recording cannot be decoded: {format_error(error)}") from None
    if found != rate or samples.ndim != 1:
        raise LeftOut(f"expected a recording with one channel at {rate} Hz, found {samples.ndim} at {found} Hz")
    if not len(samples) or int(np.max(np.abs(samples.astype(np.int32)))) < MIN_PEAK:
        raise LeftOut(SILENCE)
    return samples


def choose_split(text: str) -> str:
    """Return the split of a text: the same for texts that are equal after normalisation, in any version."""
    digest = hashlib.sha256(normalize(text, DEFAULT_TRANSFORMS).encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    for split, share in SHARES.items():
        if place < share:
            return split
        place -= share
    return split


def make_corpus(language: str, output: Path, rate: int, sounds: Path, texts: Path) -> Corpus:
    """Write the corpus of a language; raises UserError where its sources are missing or `output` is there."""
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output} exists already; remove it or choose another folder")
    written = read_texts(texts, language, rate)
    recordings = find_recordings(sounds, language, rate)
    utterances: list[Utterance] = []
    left_out: dict[str, str] = {}
    with new_folder(output) as folder:
        for name in sorted(written.keys() | recordings.keys()):
            try:
                utterances.append(_write_utterance(folder, language, name, written.get(name), recordings, rate))
            except LeftOut as reason:
                left_out[name] = str(reason)
        if not utterances:
            raise UserError(f"No recording in {sounds} has a text in {texts} that can be used; expected names in both")
        _write_tables(folder, LANGUAGES[language].speaker, utterances, left_out, written)
        (folder / "README.md").write_text(_write_credits(language, LANGUAGES[language], rate), encoding="utf-8")
    return Corpus(tuple(utterances), left_out)


def _write_utterance(
    folder: Path, language: str, name: str, written: str | None, recordings: dict[str, Path], rate: int
) -> Utterance:
    if name not in recordings:
        raise LeftOut(NO_AUDIO)
    text = write_transcript(language, name, written or "")
    if not normalize(text, DEFAULT_TRANSFORMS):
        raise LeftOut(NO_TEXT)
    samples = read_recording(recordings[name], rate)
    seconds = len(samples) / rate
    if len(text) > MAX_CHARACTERS_PER_SECOND * seconds:
        raise LeftOut(f"{OTHER_TEXT}: {len(text)} characters in {seconds:.1f} s")
    split = choose_split(text)
    file = folder / split / f"{name}.flac"
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, samples, rate, subtype="PCM_16")
    return Utterance(split, f"{name}.flac", text, seconds)


def _write_tables(
    folder: Path, speaker: str, utterances: list[Utterance], left_out: dict[str, str], written: dict[str, str]
) -> None:
    tables: dict[Path, list[tuple[str, str, str]]] = {
        folder / split / "metadata.csv": [
            ("file_name", "text", "speaker"),
            *((each.file_name, each.text, speaker) for each in utterances if each.split == split),
        ]
        for split in SHARES
        if (folder / split).is_dir()
    }
    tables[folder / "left_out.csv"] = [
        ("prompt", "reason", "text"),
        *((name, reason, written.get(name, "")) for name, reason in left_out.items()),
    ]
    for place, rows in tables.items():
        with place.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


def _write_credits(language: str, prompts: Prompts, rate: int) -> str:
    package = f"asterisk-core-sounds-{language}"
    return f"""# Asterisk's telephone prompts ({language}) as a speech corpus

{prompts.credit}.
Licence: {prompts.licence}, {prompts.licence_url}

Source: http://downloads.asterisk.org/pub/telephony/asterisk/, in Debian's packages {package} (texts) and
{package}-{SUFFIXES[rate][1:]} (recordings).
Changes: the recordings were decoded to FLAC at {rate} Hz and divided into splits, and the texts were rewritten as what
is said. The corpus has the same licence as its source.
"""


def _name_packages(language: str, rate: int) -> str:
    package = f"asterisk-core-sounds-{language}"
    return f"`apt-get install {package} {package}-{SUFFIXES[rate][1:]}` gives them on Debian and Ubuntu"


def summarize(corpus: Corpus) -> list[str]:
    """Return the lines to print: all prompts are used or left out, each split, and how often each reason occurs."""
    used, out = len(corpus.utterances), len(corpus.left_out)
    lines = [f"{used + out} prompts = {used} used + {out} left out (left_out.csv)"]
    for split in SHARES:
        chosen = [each for each in corpus.utterances if each.split == split]
        minutes = sum(each.seconds for each in chosen) / 60
        texts = len({normalize(each.text, DEFAULT_TRANSFORMS) for each in chosen})
        lines.append(f"  {split}: {len(chosen)} utterances, {texts} different texts, {minutes:.1f} minutes")
    reasons = Counter(reason.partition(":")[0] for reason in corpus.left_out.values())
    return [*lines, *(f"  left out: {count} {reason}" for reason, count in reasons.most_common())]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("language", choices=sorted(LANGUAGES))
    parser.add_argument("output", type=Path)
    parser.add_argument("--rate", type=int, choices=sorted(SUFFIXES), default=16000)
    parser.add_argument("--sounds", type=Path, help="folder of recordings, instead of that of the package")
    parser.add_argument("--texts", type=Path, help="file of lines `name: text`, instead of that of the package")
    given = parser.parse_args(arguments)
    package = f"asterisk-core-sounds-{given.language}"
    sounds = given.sounds or SOUNDS / LANGUAGES[given.language].folder
    texts = given.texts or TEXTS / package / f"core-sounds-{given.language}.txt.gz"
    try:
        corpus = make_corpus(given.language, given.output, given.rate, sounds, texts)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(summarize(corpus)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
