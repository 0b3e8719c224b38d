"""Reading text files: the only module that handles encodings and line ends."""

import codecs
from pathlib import Path

from finetune.errors import UserError
from finetune.resources.limits import MAX_TEXT_BYTES, read_at_most
from finetune.resources.storage import is_plain, is_url

# The longer byte order marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(file: Path, special: bool = False, of_rows: bool = False) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, without the mark.

    With `special` the file may be a pipe or a device: for files that a person named, not for those of a corpus. With
    `of_rows` it may have null bytes and incomplete characters, so that one bad row does not refuse the others. Raises
    UserError for another encoding, with the line and the byte that show it, and for more than MAX_TEXT_BYTES.
    """
    if not special and not is_plain(file):
        raise UserError(f"{file} can't be read: expected a file, not a pipe or device.")
    try:
        return decode_text(_read(file), of_rows)
    except ValueError as error:
        raise UserError(
            f"{file} can't be read: {error}; expected UTF-8: convert it, where it is Latin-1 for example with "
            f"`iconv -f WINDOWS-1252 -t UTF-8 {file.name} > new{file.suffix}`."
        ) from error


def _read(file: Path) -> bytes:
    if is_url(str(file)):  # One request.
        return file.read_bytes()
    with file.open("rb") as opened:
        return read_at_most(opened, MAX_TEXT_BYTES, str(file))


def decode_text(content: bytes, of_rows: bool = False) -> str:
    """Decode a file's bytes as `read_text` does; raises ValueError with the line and the byte."""
    encoding = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and b"\0" in content and not (of_rows and _has_lines(content)):
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise ValueError(f"the byte 0x00 in line {line} is not text, perhaps UTF-16 without a byte order mark")
    try:
        return content.decode(encoding, "surrogatepass" if of_rows else "strict")
    except UnicodeDecodeError as error:
        line, byte = error.object[: error.start].count(b"\n") + 1, error.object[error.start]
        raise ValueError(
            f"the byte 0x{byte:02X} in line {line} is not {encoding.removesuffix('-sig').upper()}"
        ) from error


def _has_lines(content: bytes) -> bool:
    """Whether lines end with one byte, and not with two as in UTF-16."""
    ends = content.count(b"\n")
    return ends > max(content.count(b"\n\0"), content.count(b"\0\n"))


def split_lines(text: str) -> list[str]:
    r"""The lines of a text, which end in \n, \r\n or \r\r\n only, or in \r in a text without \n.

    Python's csv module writes \r\r\n on Windows into a file that was opened without newline="".

    `str.splitlines` would also split within a transcript, at U+2028, U+2029, U+0085, \x0b, \x0c and \x1c to \x1e.
    """
    lines = (text if "\n" in text else text.replace("\r", "\n")).split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.rstrip("\r") for line in lines]
