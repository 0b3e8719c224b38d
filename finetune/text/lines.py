"""A text file to its characters and lines: the only place that knows encodings and line ends."""

import codecs
from pathlib import Path

from finetune.errors import UserError
from finetune.resources.limits import MAX_TEXT_BYTES, read_at_most
from finetune.resources.storage import is_plain, is_url

# The longer marks first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(file: Path, special: bool = False, of_rows: bool = False) -> str:
    """The characters of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, which is left out.

    A pipe or a device is only read if it may be `special`: what a person named is, what lies in a corpus is not. With
    `of_rows` it may hold nulls and halves of characters: one bad row is no reason to refuse the others. Raises
    UserError for another encoding, with the line and the byte that show it, and for more than MAX_TEXT_BYTES.
    """
    if not special and not is_plain(file):
        raise UserError(f"{file} can't be read: expected a file, no pipe or device.")
    try:
        return decode_text(_read(file), of_rows)
    except ValueError as error:
        raise UserError(
            f"{file} can't be read: {error}; expected UTF-8: convert it, where it is Latin-1 for example with "
            f"`iconv -f WINDOWS-1252 -t UTF-8 {file.name} > new{file.suffix}`."
        ) from error


def _read(file: Path) -> bytes:
    if is_url(str(file)):  # Asked for in one request.
        return file.read_bytes()
    with file.open("rb") as opened:
        return read_at_most(opened, MAX_TEXT_BYTES, str(file))


def decode_text(content: bytes, of_rows: bool = False) -> str:
    """A file's bytes as `read_text` gives them; raises ValueError that names the line and the byte."""
    encoding = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and b"\0" in content and not (of_rows and _has_lines(content)):
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise ValueError(f"the byte 0x00 in line {line} is no text, perhaps UTF-16 without its byte order mark")
    try:
        return content.decode(encoding, "surrogatepass" if of_rows else "strict")
    except UnicodeDecodeError as error:
        line, byte = error.object[: error.start].count(b"\n") + 1, error.object[error.start]
        raise ValueError(
            f"the byte 0x{byte:02X} in line {line} is not {encoding.removesuffix('-sig').upper()}"
        ) from error


def _has_lines(content: bytes) -> bool:
    """Whether lines end by a byte, and not by two as in UTF-16."""
    ends = content.count(b"\n")
    return ends > max(content.count(b"\n\0"), content.count(b"\0\n"))


def split_lines(text: str) -> list[str]:
    r"""The lines of a text, which end in \n, \r\n, \r\r\n, or, in a text without any \n, in \r, and nowhere else.

    \r\r\n is what Python's csv writes on Windows into a file that was opened without newline="".

    `str.splitlines` also splits inside a transcript, at U+2028, U+2029, U+0085, \x0b, \x0c and \x1c to \x1e.
    """
    lines = (text if "\n" in text else text.replace("\r", "\n")).split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.rstrip("\r") for line in lines]
