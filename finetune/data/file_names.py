"""Names of files as corpora write them: with the backslashes of Windows, and in either Unicode normal form."""

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

_WINDOWS_ROOT = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def spell(name: str) -> Iterator[str]:
    r"""The names that a file with a name may have on this disk: the name, then wavs/ü.wav for wavs\ü.wav.

    macOS writes ü as u and a mark (NFD) in some archives, and most other programs as one character (NFC).
    """
    yield name
    if name.isascii() and "\\" not in name:
        return
    slashed = use_slashes(name)
    others = (slashed, unicodedata.normalize("NFC", slashed), unicodedata.normalize("NFD", slashed))
    yield from (each for each in dict.fromkeys(others) if each != name)


def use_slashes(name: str) -> str:
    """A name with slashes in the place of backslashes."""
    return name.replace("\\", "/")


def is_on_windows(name: str) -> bool:
    r"""Whether a name is an absolute path on Windows, C:\a.wav or \\server\a.wav, and this is another system."""
    return os.name != "nt" and _WINDOWS_ROOT.match(name) is not None


def find_file(folder: Path, name: str) -> str:
    """The path of a file that a corpus names, in the spelling that exists; if none does, with slashes."""
    if name.isascii() and "\\" not in name:  # Nearly all: a look for each row's file takes as long as reading all rows.
        return str(folder / name)
    paths = [str(folder / each) for each in spell(name)]
    return next((path for path in paths if os.path.exists(path)), str(folder / use_slashes(name)))  # noqa: PTH110
