r"""Language models as ARPA files, which all n-gram tools read and write.

The format is described in SRILM's manual page ngram-format(5); where it is ambiguous, files are read as KenLM reads
them.
"""

import codecs
import gzip
import logging
import re
import zlib
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from finetune.decoding.arpa_parser import EXPECTED, LN_10, MAX_LINE_BYTES, TOO_LONG, WordTable, fill_slots, parse_block
from finetune.decoding.ngram import END, START, UNKNOWN, Level, NGramModel
from finetune.errors import UserError
from finetune.files import new_file

_LOGGER = logging.getLogger(__name__)

_BLOCK_BYTES = 1 << 23
_ROWS_AT_ONCE = 1 << 17

# The decimal logarithm that tools write for the probability 0: SRILM's ngram-format(5).
_NEVER_LOG10 = -99.0

# CMU's toolkit writes 30 lines before the data.
_MAX_PREFACE_LINES = 1000

# KenLM's probability of an unknown word in a model without <unk>, as a decimal logarithm (lm/config.cc).
_UNKNOWN_LOG10 = -100.0


class _Lines:
    """A file in blocks of whole lines, with the number of the next line."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file, self._rest = path, file, b""
        self.block, self.position, self.number = b"", 0, 1

    def refill(self) -> bool:
        """Get the next block once all lines of this one are read; False at the file's end."""
        while self.position == len(self.block):
            chunk = self._file.read(_BLOCK_BYTES)
            whole, newline, self._rest = (self._rest + chunk).rpartition(b"\n")
            self.block, self.position = whole + newline, 0
            # A last line without its newline, or a line that is already too long, which the parser refuses.
            if self._rest and not newline and (not chunk or len(self._rest) > MAX_LINE_BYTES):
                self.block, self._rest = self._rest + b"\n", b""
            if not chunk and not self.block:
                return False
        return True

    def peek(self) -> bytes | None:
        """The next line that is not blank, without the spaces around it; None at the file's end."""
        while self.refill():
            end = self.block.index(b"\n", self.position)
            if end - self.position > MAX_LINE_BYTES:
                raise self.problem(EXPECTED[TOO_LONG])
            if line := self.block[self.position : end].strip():
                return line
            self.skip()
        return None

    def skip(self) -> None:
        """Skip the line that `peek` returned."""
        self.position = self.block.index(b"\n", self.position) + 1
        self.number += 1

    def note(self, sentence: str) -> None:
        """Log a warning about something that is not read as it is written."""
        _LOGGER.warning(f"{self._path}: {sentence}", extra={"once": True})

    def problem(self, expected: str) -> UserError:
        """The error about the next line, or about the file's end."""
        text = self.block[self.position : self.position + 401].partition(b"\n")[0].decode("utf-8", "replace").strip()
        found = repr(text[:80] + "…" * (len(text) > 80)) if self.block else "the file's end"
        return self.problem_at(self.number, f"found {found}; expected {expected}")

    def problem_at(self, number: int, sentence: str) -> UserError:
        """The error about a line."""
        return UserError(
            f"{self._path}, line {number}: {sentence}. "
            "The file is not an ARPA file, or it is truncated or damaged: copy it or build it again."
        )


def read_arpa(path: Path) -> NGramModel:
    """Read a language model from an ARPA file, plain or compressed by gzip.

    `<UNK>` is read as `<unk>`; without either an unknown word gets the probability that KenLM gives it, 1e-100. If
    `<s>` or `</s>` occurs twice, as in files to which a recipe has added one, the first counts, as in KenLM's hash
    tables. This, text before `\data\`, blank lines within a section and `-inf` for `<s>` are read with a warning.
    Memory grows with what has been read, whatever the counts in the header. Raises UserError for a file that is
    truncated or damaged and, as KenLM does, for an n-gram whose first words are not an n-gram themselves.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            return _read(_Lines(path, gzip.GzipFile(fileobj=file) if packed else file))  # type: ignore[arg-type]
    except (OSError, EOFError, zlib.error) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error).rstrip(".")
        raise UserError(f"{path} can't be read: {reason}. Expected an ARPA file: copy it or build it again.") from error


def _read(lines: _Lines) -> NGramModel:
    counts = _read_counts(lines)
    names, words, first = _read_words(lines, counts)
    levels, keys = [first], list[NDArray[np.int64]]()
    for order in range(2, len(counts) + 1):
        section, ids, log_prob, backoff, _ = _read_section(lines, order, counts, words)
        prefix = ids[:, 0].astype(np.int64)
        for shorter, column in zip(keys, ids[:, 1:-1].T, strict=True):
            prefix = _locate(shorter, prefix * len(names) + column, lines, names, ids, section)
        key = prefix * len(names) + ids[:, -1]
        rows = np.argsort(key)
        key = key[rows]
        if (twice := np.flatnonzero(key[1:] == key[:-1])).size:
            row = int(max(rows[twice[0] : twice[0] + 2]))
            raise lines.problem_at(section + row, f"the {order}-gram {_spell(names, ids[row])!r} occurs twice")
        keys.append(key)
        parent = (key // len(names)).astype(np.int32)
        levels.append(Level(parent, (key % len(names)).astype(np.int32), log_prob[rows], backoff[rows]))
    if lines.peek() != b"\\end\\":
        raise lines.problem("\\end\\")
    return NGramModel.assemble(names, levels)


def _read_counts(lines: _Lines) -> list[int]:
    """The counts of the header: the number of n-grams of each order."""
    _skip_preface(lines)
    counts: list[int] = []
    while (line := lines.peek()) is not None and not line.startswith(b"\\"):
        found = re.fullmatch(rb"ngram\s+(\d{1,9})\s*=\s*(\d{1,18})", line)
        if not found or int(found[1]) != len(counts) + 1:
            raise lines.problem(f"ngram {len(counts) + 1}=COUNT with a count from 0 up, or the 1-grams")
        counts.append(int(found[2]))
        lines.skip()
    if not counts:
        raise lines.problem("ngram 1=COUNT")
    return counts


def _skip_preface(lines: _Lines) -> None:
    r"""Skip `\data\` and what is before it, text of the tool that wrote the file."""
    first = lines.peek()
    problem = lines.problem(r"\data\, with which an ARPA file begins")
    for skipped in range(_MAX_PREFACE_LINES):
        line = lines.peek()
        if line is None:
            break
        lines.skip()
        if line.removeprefix(codecs.BOM_UTF8) == b"\\data\\":
            if skipped and first:
                lines.note(
                    rf"skipped the text before \data\, which begins with {first[:40].decode('utf-8', 'replace')!r}"
                )
            return
    raise problem


def _read_words(lines: _Lines, counts: list[int]) -> tuple[list[str], WordTable, Level]:
    """The section of the 1-grams; `<unk>` becomes the first word."""
    nothing = WordTable(np.empty(0, np.uint8), np.zeros(1, np.int64), np.empty(0, np.int32))
    section, _, log_prob, backoff, spelled = _read_section(lines, 1, counts, nothing)
    try:
        names = spelled.decode("utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        row = spelled[: error.start].count(b"\n")
        bad = spelled.split(b"\n")[row]
        raise lines.problem_at(section + row, f"found the word {bad!r}; expected UTF-8") from error
    unknown = next((names.index(name) for name in (UNKNOWN, "<UNK>") if name in names), None)
    if unknown is None:
        names, unknown = [*names, UNKNOWN], len(names)
        log_prob = np.append(log_prob, np.float32(_UNKNOWN_LOG10 * LN_10))
        backoff = np.append(backoff, np.float32(0))
    order = np.array([unknown, *range(unknown), *range(unknown + 1, len(names))])
    names = [names[row] for row in order]
    for name in (START, END):
        if name not in names:
            raise lines.problem_at(section, f"found 1-grams without {name}; expected it, as every sentence has it")
        if names.count(name) > 1:
            lines.note(f"{name} is among the 1-grams {names.count(name)} times; the first one is used, as in KenLM")
    marks = {name: names.index(name) for name in (START, END)}
    kept = np.array([row for row, name in enumerate(names) if marks.get(name, row) == row])
    order, names = order[kept], [names[row] for row in kept]
    if np.isneginf(log_prob).any():  # Only <s> may have it.
        lines.note(f"{START} has the probability -inf, which is read as {_NEVER_LOG10:g}")
        log_prob[np.isneginf(log_prob)] = np.float32(_NEVER_LOG10 * LN_10)
    spelling = np.frombuffer("".join(f"{name}\n" for name in names).encode(), np.uint8)
    offsets = np.concatenate([[0], np.flatnonzero(spelling == ord("\n")) + 1])
    words = WordTable(spelling, offsets, np.full(1 << (2 * len(names)).bit_length(), -1, np.int32))
    if (twice := fill_slots(words)) >= 0:
        raise lines.problem_at(section + int(order[twice]), f"the word {names[twice]!r} occurs twice")
    ids = np.arange(len(names), dtype=np.int32)
    return [UNKNOWN, *names[1:]], words, Level(ids, ids, log_prob[order], backoff[order])


def _read_section(
    lines: _Lines, order: int, counts: list[int], words: WordTable
) -> tuple[int, NDArray[np.int32], NDArray[np.float32], NDArray[np.float32], bytes]:
    r"""The section `\order-grams:`: its first line, (rows, order) words, log-probs, backoffs, spellings."""
    if lines.peek() != f"\\{order}-grams:".encode():
        raise lines.problem(f"\\{order}-grams:")
    lines.skip()
    begin = lines.number
    lines.peek()  # Past blank lines.
    section = lines.number
    if section > begin and counts[order - 1]:
        lines.note(f"skipped blank lines after \\{order}-grams:")
    pieces = [(np.empty((0, order), np.int32), *np.empty((2, 0), np.float32), b"")]
    while lines.refill():
        block = np.frombuffer(lines.block, np.uint8)
        capacity = int(np.count_nonzero(block[lines.position :] == ord("\n")))
        ids = np.empty((capacity, order), np.int32)
        logarithms = np.empty((2, capacity), np.float32)
        spelled = np.empty(len(block) if order == 1 else 0, np.uint8)
        at, rows, length, problem = parse_block(
            block, lines.position, order == len(counts), words, ids, logarithms, spelled
        )
        lines.position = at
        lines.number += rows
        if problem:
            raise lines.problem(EXPECTED[problem])
        pieces.append((ids[:rows].copy(), *logarithms[:, :rows].copy(), spelled[:length].tobytes()))
        if at < len(block):
            break
    ids, log_prob, backoff = (np.concatenate([piece[i] for piece in pieces]) for i in range(3))
    if len(ids) != counts[order - 1]:
        lines.peek()
        raise lines.problem(f"{counts[order - 1]} {order}-grams before it, as in the header, not {len(ids)}")
    return section, ids, log_prob, backoff, b"".join(piece[3] for piece in pieces)


def _locate(
    keys: NDArray[np.int64],
    wanted: NDArray[np.int64],
    lines: _Lines,
    names: list[str],
    ids: NDArray[np.int32],
    section: int,
) -> NDArray[np.int64]:
    """The place of each wanted key among the sorted keys of one order."""
    found = np.searchsorted(keys, wanted)
    missing = np.ones(len(found), bool) if not len(keys) else keys[np.minimum(found, len(keys) - 1)] != wanted
    if missing.any():
        row = int(missing.argmax())
        order = ids.shape[1]
        raise lines.problem_at(
            section + row,
            f"the {order}-gram {_spell(names, ids[row])!r} begins with words that are not a {order - 1}-gram",
        )
    return found


def _spell(names: list[str], ids: NDArray[np.int32]) -> str:
    return " ".join(names[number] for number in ids)


def write_arpa(model: NGramModel, path: Path) -> None:
    """Write a model as an ARPA file, atomically; reading it gives the same float32 values."""
    trie = model.trie
    starts = np.cumsum([0, *model.counts])
    with new_file(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\\data\\\n" + "".join(f"ngram {k}={count}\n" for k, count in enumerate(model.counts, start=1)))
        ids = np.empty((1, 0), np.int32)
        for order, (start, end) in enumerate(pairwise(starts), start=1):
            file.write(f"\n\\{order}-grams:\n")
            children = np.diff(trie.first_child[starts[order - 2] : start + 1]) if order > 1 else end
            ids = np.repeat(ids, children, axis=0)
            ids = np.column_stack([ids, trie.word[start:end]])
            # Nine digits distinguish all float32 values.
            line = "%.9g\t" + " ".join(["%s"] * order) + ("\t%.9g\n" if order < model.order else "\n")
            for first in range(0, len(ids), _ROWS_AT_ONCE):
                rows = slice(first, first + _ROWS_AT_ONCE)
                log_prob, backoff = (
                    (values[start:end][rows].astype(np.float64) / LN_10).tolist()
                    for values in (trie.log_prob, trie.backoff)
                )
                columns = [[model.words[number] for number in column] for column in ids[rows].T.tolist()]
                fields = [log_prob, *columns, *([backoff] if order < model.order else [])]
                file.writelines(line % row for row in zip(*fields, strict=True))
        file.write("\n\\end\\\n")
