"""A CSV, TSV or JSON-lines file to rows; a line that can't be read is a row with a `PROBLEM`, and the others count."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.errors import UserError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
PROBLEM = "unreadable_row"
"""A row's key that says why it can't be used, as it stands in `rejected.csv`."""

Row = dict[str, Any]

# A transcript of a megabyte is a file that lost its line ends.
_LONGEST_LINE = 1_000_000


def read_manifest(file: Path) -> list[Row]:
    """The rows of a manifest, each a dictionary of the cells as they stand there.

    Raises UserError for a file of another kind, and where not one row can be read.
    """
    # `load_dataset` would turn the transcript "NA" into nothing and "007" into 7, drop rows whose audio is
    # missing, and copy the table into a cache; a manifest's cells are the strings that stand in it.
    if file.suffix not in SUFFIXES:
        raise UserError(f"{file} is no manifest: expected a file that ends in .csv, .tsv or .jsonl.")
    text = file.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    rows = list(_json_rows(text) if file.suffix in (".jsonl", ".json") else _table_rows(text, file.suffix))
    for row in rows:
        _mend_encoding(row)
    if rows and all(PROBLEM in row for row in rows):
        raise UserError(f"{file} can't be read as {file.suffix[1:].upper()}: {rows[0][PROBLEM]}")
    return rows


def _json_rows(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if len(line) > _LONGEST_LINE:
            yield {PROBLEM: f"line too long: line {number} has {len(line)} characters"}
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield {PROBLEM: f"not JSON: line {number}: {error}"}
            continue
        yield row if isinstance(row, dict) else {PROBLEM: f"not one JSON object: line {number}: {line[:80]}"}


def _table_rows(text: str, suffix: str) -> Iterator[Row]:
    limit = csv.field_size_limit(_LONGEST_LINE)
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if suffix == ".tsv" else ",")
        header: list[str] | None = None
        while True:
            try:
                cells = next(lines)
            except StopIteration:
                return
            except csv.Error as error:
                yield {PROBLEM: f"line too long: line {lines.line_num}: {error}"}
                continue
            if not cells:
                continue
            if header is None:
                header = cells
            elif len(cells) == len(header):
                yield dict(zip(header, cells, strict=True))
            else:
                found = f"line {lines.line_num} has {len(cells)} cells where the header has {len(header)}"
                yield {**dict(zip(header, cells, strict=False)), PROBLEM: f"ragged row: {found}"}
    finally:
        csv.field_size_limit(limit)


def _mend_encoding(row: Row) -> None:
    """Put the replacement character where a cell's bytes were not UTF-8, and say so."""
    for name, cell in list(row.items()):
        if isinstance(cell, str) and any("\udc80" <= character <= "\udcff" for character in cell):
            row[name] = cell.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            row.setdefault(PROBLEM, f"not UTF-8: {row[name]}")
