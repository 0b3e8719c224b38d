"""Resolve command-line inputs to recordings: files, folders, patterns, manifests, URLs, standard input."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from finetune.audio.waveforms import CONTAINERS, SUFFIXES, AudioError, Recording, fault_as_reason
from finetune.data.manifests import SUFFIXES as MANIFEST_SUFFIXES
from finetune.data.sources import load_audio
from finetune.errors import UserError
from finetune.files import expand_home
from finetune.resources.addresses import public_address
from finetune.resources.storage import StorageError, has_wildcards, is_plain, is_url, list_files

STANDARD_INPUT = "-"

# The suffixes of recordings in folders and patterns; a file that is named itself may have any name.
RECORDING_SUFFIXES = SUFFIXES | CONTAINERS | {".sph"}

_NO_FILE = "no file: a broken link, a pipe or a device"


@dataclass(frozen=True)
class Input:
    """A recording with the `name` that is shown; None stands for standard input, an AudioError for an unusable one.

    `relative` is its path without suffix below the folder, pattern or manifest that listed it, and stays below it.
    `folder` is its local folder, or None if it is not a local file. `alone` is set if the command line names it itself.
    """

    name: str
    recording: Recording | AudioError | None
    relative: Path
    folder: Path | None
    alone: bool = False


def find_inputs(places: Sequence[str], allow_outside: bool = False) -> list[Input]:
    """List the recordings at all places, in order.

    In folders, and for patterns without a suffix, files with the suffixes of audio are taken. The audio of a manifest
    must lie below its folder unless `allow_outside` is set. Raises UserError for a place without recordings.
    """
    return [each for place in places for each in _find(place, allow_outside)]


def _find(place: str, allow_outside: bool) -> Iterator[Input]:
    if not place:  # Path("") is the current folder.
        raise UserError("An input is empty, as of a shell's variable that isn't set: expected a recording or a folder.")
    path = Path(place) if os.path.lexists(place) else expand_home(place)  # A name may begin with ~.
    if place == STANDARD_INPUT:
        if sys.stdin is None or sys.stdin.isatty():
            raise UserError("Standard input is closed or a terminal: expected a recording that is piped in.")
        yield Input("standard input", None, Path("stdin"), None, alone=True)
    elif is_url(place):
        yield from _find_elsewhere(place)
    elif path.is_dir():
        files, closed = _walk(path)
        yield from closed
        if not closed or any(_is_recording(file.name) for file in files):
            yield from _take_files(place, files, path, lenient=False)
    elif path.suffix.lower() in MANIFEST_SUFFIXES and path.is_file():
        yield from _read_manifest(path, allow_outside)
    elif path.exists():
        yield replace(_take_file(path, path.parent), alone=True)
    elif has_wildcards(place):
        fixed = next(number for number, part in enumerate(path.parts) if has_wildcards(part))
        root, pattern = Path(*path.parts[:fixed]), "/".join(path.parts[fixed:])
        files = sorted(root.glob(f"{pattern}/*" if pattern.endswith("**") else pattern))
        yield from _take_files(place, files, root, lenient=_names_suffix(path.name))
    else:
        raise UserError(
            f"There is no {place}: expected a file, a folder, a pattern, a manifest, a URL, or - for a pipe."
        )


def _walk(root: Path) -> tuple[list[Path], list[Input]]:
    """List all files below a folder, links to folders followed, and the folders that cannot be read."""
    files: list[Path] = []
    closed: list[Input] = []

    def note(error: OSError) -> None:
        folder = Path(error.filename)
        reason = AudioError(f"a folder that can't be looked into: {error.strerror}")
        closed.append(Input(str(folder), reason, folder.relative_to(root), folder.parent))

    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, onerror=note, followlinks=True):
        found = Path(folder).stat()
        if (found.st_dev, found.st_ino) in seen:  # Seen before: a link to a folder below the same root, or to a parent.
            folders.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        files += [Path(folder) / name for name in names]
    return sorted(files), closed


def _names_suffix(name: str) -> bool:
    suffix = Path(name).suffix
    return bool(suffix) and not has_wildcards(suffix)


def _take_files(place: str, files: Sequence[Path], root: Path, lenient: bool) -> Iterator[Input]:
    """The files with the suffixes of audio, or all if `lenient`."""
    taken = [file for file in files if not file.is_dir() and (lenient or _is_recording(file.name))]
    if not taken:
        raise UserError(f"There is no audio in {place}: expected {', '.join(sorted(RECORDING_SUFFIXES))} files.")
    for file in taken:
        found = _take_file(file, root)
        if not file.is_file():  # Nobody named it: of a pipe that nothing comes through there would be no end.
            found = replace(found, recording=AudioError(_NO_FILE))
        yield found


def _is_recording(name: str) -> bool:
    # Hidden ones are what systems leave beside files, such as ._speech.wav.
    return Path(name).suffix.lower() in RECORDING_SUFFIXES and not name.startswith(".")


def _take_file(file: Path, root: Path) -> Input:
    return _place_input(Input(str(file), Recording(str(file), None), Path(), file.parent), os.path.relpath(file, root))


def _place_input(found: Input, place: str, piece: str = "") -> Input:
    """Set the relative path of a recording from `place`, a name that comes from a manifest, folder or URL.

    A name that leads out of the folder, or is not a valid file name, makes the recording unusable: its output would lie
    outside `--output`.
    """
    path = Path(place)
    name = path.stem if path.stem.strip(".") else path.name  # "..wav" has the stem "."
    leads_elsewhere = path.anchor or ".." in {*path.parts, *PureWindowsPath(place).parts}
    if leads_elsewhere or not name or not _can_be_name(place):
        reason = AudioError(
            f"a name that nothing can be written by: {place}; expected a file's, with no .. or null in it"
        )
        return replace(found, recording=reason)
    return replace(found, relative=path.with_name(name + piece))


def _can_be_name(place: str) -> bool:
    try:
        return b"\0" not in os.fsencode(place)
    except UnicodeEncodeError:  # A lone surrogate, which a JSON escape can contain.
        return False


def _find_elsewhere(place: str) -> Iterator[Input]:
    try:
        listed = list_files(place)
    except StorageError as error:
        raise UserError(f"What is to be transcribed can't be found. {error}") from error
    if listed is None:
        yield replace(_take_address(place, Recording(place, None)), alone=True)
        return
    root, files = listed
    lenient = _names_suffix(place.rsplit("/", 1)[-1])
    taken = [file for file in files if lenient or _is_recording(file.rsplit("/", 1)[-1])]
    if not taken:
        raise UserError(f"There is no audio in {place}: expected {', '.join(sorted(RECORDING_SUFFIXES))} files.")
    for file in taken:
        yield _place_input(Input(file, Recording(file, None), Path(), None), file.removeprefix(root).lstrip("/"))


def _take_address(place: str, recording: Recording, piece: str = "") -> Input:
    name = PurePosixPath(public_address(place).partition("://")[2].partition("?")[0]).name
    return _place_input(Input(place, recording, Path(), None), name if name.strip(".") else "audio", piece)


def _read_manifest(file: Path, allow_outside: bool) -> Iterator[Input]:
    """The recordings of a manifest; a segment of a longer one has its times (s) in its name."""
    table = load_audio(file, allow_outside)
    for row, values in enumerate(table.values()):
        name = f"{file}: {table.name(row, values)}"
        try:
            with fault_as_reason():
                recording = table.recording(row, values)
                if recording.path is None:
                    raise AudioError("no audio")
                if not is_plain(recording.path):
                    raise AudioError(_NO_FILE)
                piece = "" if recording.end is None and not recording.start else f"_{recording.start:.2f}"
                piece += "" if recording.end is None else f"-{recording.end:.2f}"
                found = replace(_find_recording(recording, file.parent, piece), name=name + piece)
        except AudioError as error:
            found = Input(name, error, Path(file.stem) / str(row), None)
        yield found


def _find_recording(recording: Recording, root: Path, piece: str) -> Input:
    """A recording of a manifest; outside the folder of the manifest its path is the file name alone."""
    path = recording.path or ""
    if is_url(path):
        return _take_address(path, recording, piece)
    inside = os.path.relpath(path, root)
    below = Path(path).name if ".." in Path(inside).parts else inside
    return _place_input(Input(path, recording, Path(), Path(path).parent), below, piece)
