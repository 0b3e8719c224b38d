"""A CSV, TSV or JSON file to rows; a line that can't be read is a row with a `PROBLEM`, and the others count."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from finetune.data.limits import MAX_LINE
from finetune.data.lines import read_text, split_lines
from finetune.errors import UserError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
PROBLEM = "unreadable_row"
"""A row's key that says why it can't be used, as it stands in `rejected.csv`."""
CHANNEL = "audio_channel"
"""A row's key for the channel of its audio that is read, the first of which is 0; without it all are mixed."""

Row = dict[str, Any]

# Names that public corpora give to the same column, the commonest first.
TEXT_COLUMNS = ("text", "transcription", "transcript", "sentence", "normalized_text")
AUDIO_COLUMNS = ("audio", "file_name", "path", "audio_filepath", "file")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")

# What parts the cells of a .csv: the one that comes first in its first line.
_DELIMITERS = ",;\t|"


def is_header(cells: Iterable[str], others: Iterable[str | None] = ()) -> bool:
    """Whether one of a table's first cells is the usual name of a column, or one of some others."""
    known = {*TEXT_COLUMNS, *AUDIO_COLUMNS, *SPEAKER_COLUMNS, *others}
    return any(cell.strip() in known for cell in cells)


def read_manifest(file: Path, name_columns: Callable[[list[str]], list[str] | None] = lambda cells: None) -> list[Row]:
    """The rows of a manifest, each a dictionary of the cells as they stand there.

    Each line of a table is a row by itself, and its first the header, unless `name_columns` makes names of its cells:
    then it is a row too. In a table of commas or semicolons quotation marks enclose cells; in one of tabs or bars they
    are text, unless all cells of its first line are enclosed, as R writes it. JSON is an object on each line, or one
    array of them.

    Raises UserError for a file of another kind or encoding, and where not one row can be read.
    """
    # `load_dataset` would turn the transcript "NA" into nothing and "007" into 7, drop rows whose audio is
    # missing, and copy the table into a cache; a manifest's cells are the strings that stand in it.
    if file.suffix not in SUFFIXES:
        raise UserError(f"{file} is no manifest: expected a file that ends in .csv, .tsv or .jsonl.")
    text = read_text(file)
    if file.suffix not in (".jsonl", ".json"):
        rows = list(_read_table(file, split_lines(text), name_columns))
    elif text.lstrip()[:1] == "[":
        rows = _read_array(file, text)
    else:
        rows = list(_read_json_lines(split_lines(text)))
    if rows and all(PROBLEM in row for row in rows):
        raise UserError(f"{file} can't be read as {file.suffix[1:].upper()}: {rows[0][PROBLEM]}")
    return rows


def _read_array(file: Path, text: str) -> list[Row]:
    try:
        found = _parse_json(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file} can't be read: it begins with [ and is no JSON array: {error}; expected an array of objects, or "
            "an object on each line."
        ) from error
    return [_check_object(row, f"item {number}") for number, row in enumerate(found, 1)]


def _read_json_lines(lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if problem := _find_excess(line, number):
            yield {PROBLEM: problem}
            continue
        try:
            row = _parse_json(line)
        except (ValueError, RecursionError) as error:
            yield {PROBLEM: f"not JSON: line {number}: {error}"}
            continue
        yield _check_object(row, f"line {number}")


def _parse_json(text: str) -> Any:
    # NaN is what pandas and NumPy write for nothing; as a word it would be learned.
    return json.loads(text, parse_constant=lambda _: None)


def _check_object(row: Any, place: str) -> Row:
    if isinstance(row, dict):
        return row
    return {PROBLEM: f"not one JSON object: {place}: {json.dumps(row)[:80]}"}


def _read_table(
    file: Path, lines: Iterable[str], name_columns: Callable[[list[str]], list[str] | None]
) -> Iterator[Row]:
    delimiter, header, quoted = "", None, False
    for number, line in enumerate(lines, 1):
        if not line.strip(" "):
            continue
        problem = _find_excess(line, number)
        if not delimiter:
            delimiter = "\t" if file.suffix == ".tsv" else next((sign for sign in line if sign in _DELIMITERS), ",")
            quoted = delimiter in ",;" or all(
                len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in line.split(delimiter)
            )
        cells: list[str] = []
        if problem is None:
            cells, problem = _split_cells(line, number, delimiter, quoted)
        if header is None:
            if problem:
                raise UserError(f"{file} can't be read: its first line should name the columns: {problem}")
            named = name_columns(cells)
            header = _check_header(file, cells) if named is None else named
            if named is None:
                continue
        if problem is None and len(cells) != len(header):
            problem = f"ragged row: line {number} has {len(cells)} cells where the header has {len(header)}"
        yield dict(zip(header, cells, strict=False)) | ({PROBLEM: problem} if problem else {})


def _check_header(file: Path, cells: Iterable[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise UserError(f"{file} has {' and '.join(twice)} more than once in its first line: rename a column.")
    return header


def _split_cells(line: str, number: int, delimiter: str, quoted: bool) -> tuple[list[str], str | None]:
    """The cells of a line, and what is wrong with it."""
    if '"' not in line or not quoted:
        return line.split(delimiter), None
    # A cell that goes on over the line's end takes the next line too: a quotation mark that nothing closes would take
    # all rows up to the next one.
    reader = csv.reader([line, ""], delimiter=delimiter)
    try:
        cells = next(reader)
    except csv.Error as error:
        return [], f"unreadable row: line {number}: {error}"
    if reader.line_num > 1:
        return [], f"unclosed quotation mark: line {number} ends inside a cell; expected each row on one line"
    return cells, None


def _find_excess(line: str, number: int) -> str | None:
    return f"line too long: line {number} has {len(line)} characters" if len(line) > MAX_LINE else None
