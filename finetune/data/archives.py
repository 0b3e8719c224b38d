"""WebDataset tars, read in place: an utterance is the files with one name, its audio is a range of the tar."""

import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from finetune.audio.waveforms import SUFFIXES
from finetune.data.layouts import Splits, split_name
from finetune.data.manifests import PROBLEM, Row
from finetune.data.rows import ArchivePiece
from finetune.errors import UserError
from finetune.resources.limits import MAX_LINE
from finetune.resources.storage import is_plain, list_visible, open_file
from finetune.text.lines import decode_text

# The largest extended header of a member (such as a long name), which tarfile reads at once.
_MAX_HEADER_BYTES = 2**20


def find_archives(root: Path) -> list[Path]:
    """A folder's tars, in the folder or one level below."""
    return list(filter(is_plain, [*list_visible(root, "*.tar"), *list_visible(root, "*/*.tar")]))


def read_archives(root: Path, files: Iterable[Path]) -> Splits:
    """The rows of a folder's tars by split; raises UserError for an unreadable tar."""
    splits: Splits = {}
    for file in files:
        splits.setdefault(split_of(file, root), []).extend(read_archive(file))
    return splits


def split_of(file: Path, root: Path) -> str:
    """The split of a shard: the beginning of its name, or its folder's name, or `train`."""
    named = split_name(file.name.split(".")[0].split("-")[0].split("_")[0])
    if named in ("train", "validation", "test"):
        return named
    return "train" if file.parent == root or file.parent.name == "data" else split_name(file.parent.name)


def read_archive(file: Path) -> list[Row]:
    """The utterances of one tar (https://github.com/webdataset/webdataset): KEY.wav (flac, …), KEY.txt, KEY.json.

    `audio` locates the audio's bytes: path, member, offset and size. Raises UserError unless it is an uncompressed tar.
    """
    rows: dict[str, Row] = {}
    try:
        # Random access ("r:", not "r|"): the content of members is skipped, not fetched.
        with open_file(str(file)) as opened:
            bounded = cast(IO[bytes], _Bounded(opened))
            with tarfile.open(fileobj=bounded, mode="r:") as archive:
                for member in archive:
                    if member.size < 0:  # tarfile would loop forever.
                        raise tarfile.ReadError(f"{member.name} has a size of {member.size} bytes")
                    if member.isfile():
                        _add(rows, file, archive, member)
                if lost := _find_damage(opened, archive.offset):
                    rows[""] = {"id": file.name, "audio": None, "text": None, PROBLEM: lost}
    except (OSError, UserError):
        raise
    except Exception as error:  # For a forged header tarfile raises other errors too.
        raise UserError(f"{file} can't be read: {error}; expected a complete, uncompressed tar.") from error
    return list(rows.values())


def _find_damage(opened: BinaryIO, place: int) -> str | None:
    """The damage where tarfile stopped: it also ends silently at a header that it cannot read."""
    opened.seek(place)
    if not opened.read(tarfile.BLOCKSIZE).strip(b"\0"):
        return None
    return f"damaged tar: the content after byte {place} can't be read"


def _add(rows: dict[str, Row], file: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    folder, _, name = member.name.rpartition("/")
    stem, _, extension = name.partition(".")
    if not stem:  # Such as .DS_Store.
        return
    key, extension = f"{folder}/{stem}", extension.lower()
    is_audio = f".{extension.rpartition('.')[2]}" in SUFFIXES
    problem = None
    if is_audio and "." in extension:
        key, problem = f"{folder}/{name}", f"dots in a name: an utterance's name ends at the first: {name}"
    elif is_audio and rows.get(key, {}).get("audio"):
        key, problem = f"{folder}/{name}", f"second recording of one name: {name}"
    # A name in another encoding has surrogates, which a table cannot contain.
    shown = [text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for text in (stem, member.name)]
    row = rows.setdefault(key, {"id": shown[0], "audio": None, "text": None})
    if member.issparse():
        problem = f"sparse file in a tar: {name}"
    if problem:
        row[PROBLEM] = problem
    if is_audio:
        place = {"path": str(file), "member": shown[1], "offset": member.offset_data, "size": member.size}
        row["audio"] = ArchivePiece(place)
    elif extension in ("txt", "json") and member.size > MAX_LINE:
        row[PROBLEM] = f"text too long: {member.size:,} bytes in {name}"
    elif extension in ("txt", "json"):
        content = archive.extractfile(member)
        assert content is not None
        _add_description(row, extension, content.read())


def _add_description(row: Row, extension: str, content: bytes) -> None:
    try:
        text = decode_text(content)
        described: Any = json.loads(text) if extension == "json" else {"text": text.strip()}
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one too.
        row[PROBLEM] = f"unreadable .{extension} in the tar: {error}"
        return
    if not isinstance(described, dict):
        return
    if "text" not in described and "transcript" in described:
        described["text"] = described.pop("transcript")
    if isinstance(described.get("text"), dict | list):
        row[PROBLEM] = f"no text: the text of its .{extension} is not a text"
    row.update({key: value for key, value in described.items() if key not in ("id", "audio", PROBLEM)})


class _Bounded:
    """A file that limits each read of tarfile: an extended header may claim any length."""

    def __init__(self, file: BinaryIO) -> None:
        self.tell, self.seek, self.seekable, self._file = file.tell, file.seek, file.seekable, file

    def read(self, count: int) -> bytes:
        if count > _MAX_HEADER_BYTES:
            raise ValueError(f"a header of {count:,} bytes")
        return self._file.read(count)
