"""Rows with any content to one table; a row that cannot be represented has a `PROBLEM` and others are kept."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from finetune.data.manifests import PROBLEM, Row
from finetune.errors import UserError, describe_fault

# Tables have dozens of columns, those with embeddings thousands. Each distinct key of an object becomes a column.
_MOST_COLUMNS = 10_000


class ArchivePiece(dict[str, Any]):
    """The location of audio in a tar: path, member, offset and size; the only cell that is not text."""


def build_dataset(rows: Iterable[Row]) -> Any:
    """A `datasets.Dataset` of texts and `ArchivePiece`s; other cells become texts, lists and objects become JSON."""
    import datasets

    cells, names = [], dict[str, None]()
    for row in rows:
        built = _build_row(row)
        if len(names) + len(built.keys() - names.keys()) > _MOST_COLUMNS:
            built = {PROBLEM: f"too many columns: with those of other rows more than {_MOST_COLUMNS}"}
        cells.append(built)
        names |= dict.fromkeys(built)
    return datasets.Dataset.from_dict({name: [row.get(name) for row in cells] for name in names})


def build_typed_dataset(rows: Sequence[Row]) -> Any:
    """A `datasets.Dataset` of cells with any types; a column of several types becomes texts."""
    import datasets
    import pyarrow

    faults = (pyarrow.ArrowException, TypeError, ValueError, OverflowError)
    try:
        return datasets.Dataset.from_list(list(rows))
    except faults:
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
    for name, cells in columns.items():
        try:
            pyarrow.array(cells)
        except faults:
            columns[name] = [_build_text(cell) for cell in cells]
    return datasets.Dataset.from_dict(columns)


def _build_text(cell: object) -> str | None:
    """A cell as text; None if it has no text, which is reported where the cell is needed."""
    try:
        return cell if cell is None else _replace_halves(str(_build_cell(cell)))
    except Exception:
        return None


def _build_row(row: Row) -> Row:
    try:
        return _build_cells(row)
    except Exception as error:
        return {PROBLEM: _replace_halves(describe_fault(error))}


def _build_cells(row: Row) -> Row:
    """A row as it is stored; one with an unpaired surrogate, which JSON's escapes can contain, has a `PROBLEM`."""
    if len(row) > _MOST_COLUMNS:
        raise UserError(f"too many columns: {len(row)}; expected {_MOST_COLUMNS} or fewer")
    problem = str(row.get(PROBLEM) or "")
    # Arrow cuts a name at a null character.
    names = {name: _replace_halves(name).replace("\0", "?") for name in row if name != PROBLEM}
    cells = {shown: _build_cell(row[name]) for name, shown in names.items()}
    for name, cell in cells.items():
        if isinstance(cell, str) and (mended := _replace_halves(cell)) != cell:
            cells[name] = mended
            problem = problem or f"half a character: {mended}"
    return cells | ({PROBLEM: _replace_halves(problem)} if problem else {})


def _build_cell(cell: object) -> object:
    if cell is None or isinstance(cell, ArchivePiece):
        return cell
    return json.dumps(cell, ensure_ascii=False) if isinstance(cell, dict | list) else str(cell)


def _replace_halves(text: str) -> str:
    """A text with a question mark for each unpaired surrogate, which a table cannot contain."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
