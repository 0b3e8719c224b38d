"""The audio files that the tasks of Label Studio name, found in a folder by their names."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from finetune.audio.waveforms import AudioError
from finetune.errors import UserError

# Label Studio puts eight digits of a random number before the names of files that were uploaded.
_UPLOADED = re.compile(r"[0-9a-f]{8}-")


class FoundAudio:
    """Files by their names below a folder; links that lead out of it are not followed."""

    def __init__(self, root: Path | None) -> None:
        """List a folder's files; without a folder nothing is found. Raises UserError if there is no such folder."""
        if root is not None and not root.is_dir():
            raise UserError(f"There is no folder {root}: expected that of the audio for --audio-root.")
        self._root = root
        self._files: dict[str, list[Path]] = {}
        for folder, _, names in os.walk(root) if root is not None else ():
            for name in names:
                self._files.setdefault(name, []).append(Path(folder) / name)

    def find(self, place: str) -> str:
        """The path of the file that a task names; raises AudioError unless there is exactly one of its name."""
        name = read_name(place)
        if self._root is None:
            raise AudioError("its audio is not beside the export: say with --audio-root DIR where it is")
        found: list[Path] = []
        for wanted in dict.fromkeys((name, _UPLOADED.sub("", name, count=1) if _UPLOADED.match(name) else name)):
            inside = self._root.resolve()
            found = found or [file for file in self._files.get(wanted, ()) if file.resolve().is_relative_to(inside)]
        if len(found) > 1:
            raise AudioError(f"{len(found)} files named {name} below {self._root}: {', '.join(map(str, found[:3]))}")
        if not found:
            raise AudioError(f"no file named {name} below {self._root}")
        return str(found[0])


def read_name(place: str) -> str:
    """The file's name in /data/upload/…, /data/local-files/?d=…, a URL or a path; raises AudioError for none."""
    try:
        parts = urlsplit(place)
        path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    except ValueError as error:
        raise AudioError(f"no file's name: {place[:80]}") from error
    name = PurePosixPath(path).name
    if not name or name == "..":
        raise AudioError(f"no file's name: {place[:80]}")
    return name
