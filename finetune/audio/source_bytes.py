"""The bytes of a recording from any source, as a seekable file for decoders."""

import io
import stat
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, cast

from finetune.audio.recordings import AudioError, Recording
from finetune.resources.limits import MAX_PIPED_BYTES
from finetune.resources.storage import StorageError, is_url, open_file, reporting

# The block size for URLs: apart from a few reads at both ends, a recording is read sequentially.
_FETCHED_BYTES = 1024 * 1024


class WatchedFile:
    """A binary file, or a piece of it, for soundfile; an error while reading is kept in `error`.

    libsndfile reads by callbacks, which can't raise: their errors, and Ctrl-C, would be printed and lost.
    """

    def __init__(self, file: BinaryIO, first: int = 0, size: int | None = None) -> None:
        self._file, self._first, self._place = file, first, 0
        self.size = file.seek(0, io.SEEK_END) - first if size is None else size
        self.error: BaseException | None = None

    def tell(self) -> int:
        """The position in bytes."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position, which may be after the end; it stays where it is instead of before the beginning."""
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}[whence]
        self._place = place if place >= 0 else self._place
        return self._place

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Read into a buffer and return the number of bytes; 0 after an error."""
        view = memoryview(buffer).cast("B")
        count = min(len(view), self.size - self._place)
        if self.error is not None or count <= 0:
            return 0
        try:
            self._file.seek(self._first + self._place)
            read = self._file.read(count)
        except BaseException as error:
            self.error = error
            return 0
        view[: len(read)] = read
        self._place += len(read)
        return len(read)

    def read(self, count: int) -> bytes:
        """Read up to `count` bytes; soundfile requires this method but calls `readinto`."""
        read = bytearray(count)
        return bytes(read[: self.readinto(read)])

    def raise_error(self) -> None:
        """Raise the error that occurred while reading, if any."""
        if self.error is not None:
            raise self.error


def open_bytes(audio: BinaryIO | Recording, opened: ExitStack) -> WatchedFile:
    """The bytes of a recording, or of an open file from its beginning; what has to be closed is added to `opened`.

    A source that can't seek is copied to a temporary file first. Raises AudioError where there is no audio.
    """
    if not isinstance(audio, Recording):
        return _watch(audio, "the input", opened)
    if audio.data is not None:
        return WatchedFile(io.BytesIO(audio.data))
    if audio.path is None:
        raise AudioError("no audio")
    if not is_url(audio.path) and not _can_be_read(Path(audio.path)):
        raise AudioError(f"no such file: {audio.path}")
    file = opened.enter_context(open_file(audio.path, _FETCHED_BYTES))
    if audio.piece is not None:
        return WatchedFile(file, *audio.piece)
    if is_url(audio.path) and not _gives_pieces(file):
        file = opened.enter_context(open_file(audio.path, 0))
    return _watch(file, audio.path, opened)


def _gives_pieces(file: BinaryIO) -> bool:
    """Whether a remote file can be read in pieces: some web servers only send whole files."""
    try:
        file.seek(-1, io.SEEK_END)
        return len(file.read(1)) == 1
    except Exception:  # Each client has its own exceptions. Other faults are reported when the whole file is read.
        return False


def _can_be_read(path: Path) -> bool:
    """Whether this is a file, or a pipe or device such as a shell's `<(…)` and /dev/stdin."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # ValueError: a name with a null byte.
        return False
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def _watch(file: BinaryIO, name: str, opened: ExitStack) -> WatchedFile:
    if isinstance(file, io.TextIOBase):
        raise AudioError("opened as text; expected a file opened with mode 'rb'")
    try:
        return WatchedFile(file)
    except (OSError, ValueError, AttributeError):  # io.UnsupportedOperation is an OSError and a ValueError.
        kept = cast(BinaryIO, opened.enter_context(tempfile.TemporaryFile()))  # noqa: SIM115
    try:
        with reporting(name):
            _keep(file, kept)
        return WatchedFile(kept)
    except OSError as error:
        reason = error.strerror or str(error)
        raise AudioError(f"{name} can't be kept in {tempfile.gettempdir()} to be read: {reason}") from error


def _keep(file: BinaryIO, kept: BinaryIO) -> None:
    """Copy a file that may be endless; raises StorageError where it is longer than MAX_PIPED_BYTES."""
    count = 0
    while part := file.read(_FETCHED_BYTES):
        count += len(part)
        if count > MAX_PIPED_BYTES:
            raise StorageError(f"it has more than {MAX_PIPED_BYTES:,} bytes; save it as a file and use that")
        kept.write(part)
