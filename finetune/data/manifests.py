"""Read CSV, TSV and JSON files as rows, and write CSV; an unreadable line is a row with a `PROBLEM`."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.resources.limits import MAX_LINE
from finetune.text.lines import read_text, split_lines

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
PROBLEM = "unreadable_row"
"""A row's key with the reason that it cannot be used, as in `rejected.csv`."""
CHANNEL = "audio_channel"
"""A row's key with the channel of its audio, the first is 0; without it all channels are mixed."""

CLEAN = ".clean"
"""The suffix that `finetune check --fix` adds to a split's name: train.clean.csv is the split train.clean."""

Row = dict[str, Any]

# Names of the same column in public corpora, the most common first.
TEXT_COLUMNS = ("text", "transcription", "transcript", "sentence", "normalized_text")
AUDIO_COLUMNS = ("audio", "file_name", "path", "audio_filepath", "file")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")

# Delimiters of a .csv file: the one that occurs first in its first line is used.
_DELIMITERS = ",;\t|"

# Spreadsheets execute cells that begin so (https://owasp.org/www-community/attacks/CSV_Injection), also with full-width
# signs. A cell that already begins with an apostrophe gets another one, so that it is read back unchanged.
_FORMULA = re.compile("'*[=+\\-@\t\r＝＋－＠]")

# The tokens of JSON that determine its depth.
_JSON_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)


def is_header(cells: Iterable[str], others: Iterable[str | None] = ()) -> bool:
    """Whether a cell of a table's first line is a usual name of a column, or one of `others`."""
    known = {*TEXT_COLUMNS, *AUDIO_COLUMNS, *SPEAKER_COLUMNS, *others}
    return any(cell.strip() in known for cell in cells)


def read_manifest(file: Path, name_columns: Callable[[list[str]], list[str] | None] = lambda cells: None) -> list[Row]:
    """The rows of a manifest, each a dictionary of its cells as strings.

    Each line of a table is a row. The first line is the header unless `name_columns` returns column names for its
    cells; then it is a row too. In a table with commas or semicolons quotation marks enclose cells; with tabs or bars
    they are text, unless all cells of the first line are enclosed, as R writes them. JSON is an object on each line, or
    an array of objects.

    Raises UserError for a file of another kind or encoding, and if no row can be read.
    """
    # `load_dataset` would read the transcript "NA" as None and "007" as 7, drop rows whose audio is missing, and copy
    # the table into a cache.
    if file.suffix not in SUFFIXES:
        raise UserError(f"{file} is not a manifest: expected a file that ends in .csv, .tsv or .jsonl.")
    text = read_text(file, of_rows=True)
    if file.suffix not in (".jsonl", ".json"):
        rows = list(_read_table(file, split_lines(text), name_columns))
    elif text.lstrip()[:1] == "[":
        rows = _read_array(file, text)
    else:
        rows = list(_read_json_lines(split_lines(text)))
    if rows and all(PROBLEM in row for row in rows):
        raise UserError(f"{file} can't be read as {file.suffix[1:].upper()}: {rows[0][PROBLEM]}")
    if file.stem.endswith(CLEAN):
        rows = [{name: _unprotect(cell) for name, cell in row.items()} for row in rows]
    return rows


def format_csv(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV lines; cells that a spreadsheet would interpret as formulas get an apostrophe in front."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_protect(cell) for cell in row] for row in rows)
    return text.getvalue()


def _protect(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _unprotect(cell: Any) -> Any:
    return cell[1:] if isinstance(cell, str) and cell[:1] == "'" and _FORMULA.match(cell) else cell


def _read_array(file: Path, text: str) -> list[Row]:
    """The items of an array; or the objects on each line, if only the first line begins like an array."""
    try:
        found = _parse_json(text)
    except (ValueError, RecursionError) as error:
        rows = list(_read_json_lines(split_lines(text)))
        if 2 * sum(PROBLEM not in row for row in rows) >= len(rows):
            return rows
        items = None if isinstance(error, json.JSONDecodeError) else _cut_items(text)
        if items is not None:
            return [_read_object(item, f"item {number}") for number, item in enumerate(items, 1)]
        raise UserError(
            f"{file} can't be read: it begins with [ and is not a JSON array: {error}; expected an array of objects, "
            "or an object on each line."
        ) from error
    return [_check_object(row, f"item {number}") for number, row in enumerate(found, 1)]


def _cut_items(text: str) -> list[str] | None:
    """The texts of an array's items, of any depth; None if its brackets are not balanced at the end."""
    depth, first, items = 0, text.index("[") + 1, []
    for token in _JSON_TOKENS.finditer(text):
        sign = token[0]
        depth += (sign in "[{") - (sign in "]}")
        if (sign == "," and depth == 1) or depth == 0:
            items.append(text[first : token.start()])
            first = token.end()
        if depth == 0:
            return None if text[first:].strip() else items
    return None


def _read_json_lines(lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            problem = _find_excess(line, number)
            yield {PROBLEM: problem} if problem else _read_object(line, f"line {number}")


def _read_object(text: str, place: str) -> Row:
    try:
        return _check_object(_parse_json(text), place)
    except (ValueError, RecursionError) as error:
        return {PROBLEM: f"not JSON: {place}: {error}"}


def _parse_json(text: str) -> Any:
    # pandas and NumPy write NaN for missing values; it is not a word.
    return json.loads(text, parse_constant=lambda _: None)


def _check_object(row: Any, place: str) -> Row:
    if isinstance(row, dict):
        return row
    try:
        shown = json.dumps(row)[:80]
    except RecursionError:
        shown = "a value that is nested too deeply to show"
    return {PROBLEM: f"not one JSON object: {place}: {shown}"}


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
            enclosed = [len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in line.split(delimiter)]
            quoted = delimiter in ",;" or all(enclosed)
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
    if twice := [name for name, count in Counter(header).items() if name and count > 1]:
        raise UserError(f"{file} has {' and '.join(twice)} more than once in its first line: rename a column.")
    return header


def _split_cells(line: str, number: int, delimiter: str, quoted: bool) -> tuple[list[str], str | None]:
    """The cells of a line, and its problem if there is one."""
    if '"' not in line or not quoted:
        return line.split(delimiter), None
    # A cell that is not closed at the line's end would include the following rows, up to the next quotation mark.
    csv.field_size_limit(MAX_LINE)  # Global in the process; the default is 131,072 characters.
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
