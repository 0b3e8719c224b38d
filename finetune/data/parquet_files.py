"""Parquet files of a folder by split, and their rows."""

import re
from collections.abc import Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import Any

from finetune.data.archives import split_of
from finetune.errors import UserError, format_error
from finetune.resources.addresses import public_address
from finetune.resources.storage import is_plain, list_visible, open_file

_NAME = re.compile(r"\w+(\.\w+)*")


def find_parquet(root: Path) -> dict[str, list[Path]]:
    """A folder's Parquet files by split, in the folder or one level below (`data`, splits)."""
    files = [file for pattern in ("*.parquet", "*/*.parquet") for file in filter(is_plain, list_visible(root, pattern))]
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(split_of(file, root), []).append(file)
    return splits


def load_parquet(files: Mapping[str, Sequence[Path]], streaming: bool = False) -> dict[str, Any]:
    """The rows of Parquet files by split, as `datasets` reads them; raises UserError for a file that is not Parquet."""
    import datasets

    # `datasets` refuses other names of splits, and `all` is its name of their union.
    fit = all(_NAME.fullmatch(split) and split != "all" for split in files)
    names = {split: split if fit else f"split_{number}" for number, split in enumerate(files)}
    try:
        # Unless streamed it is copied to a memory-mapped file in the cache of `datasets`, since Parquet has no random
        # access to rows.
        places = {names[split]: [_as_pattern(file) for file in found] for split, found in files.items()}
        loaded = datasets.load_dataset("parquet", data_files=places, streaming=streaming)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        found = [file for split in files.values() for file in split]
        reason = _find_fault(found) or f"{found[0]} can't be read as Parquet: {format_error(error)}"
        raise UserError(public_address(reason)) from error
    return {split: loaded[name] for split, name in names.items()}


def _find_fault(files: Sequence[Path]) -> str | None:
    """What is wrong with the first file that is damaged or has other columns than the first file; None if none is."""
    import pyarrow
    import pyarrow.parquet

    expected: list[str] = []
    for file in files:
        try:
            with open_file(str(file)) as opened:
                columns = pyarrow.parquet.read_schema(opened).names
        except (OSError, pyarrow.ArrowException) as error:
            return f"{file} can't be read as Parquet: {format_error(error)}"
        expected = expected or columns
        if set(columns) != set(expected):
            return (
                f"{file} has the columns {', '.join(columns)}, and {files[0]} {', '.join(expected)}: expected the same."
            )
    return None


def _as_pattern(file: Path) -> str:
    """A file as a pattern of `datasets` that matches it alone; at a web server there are no patterns."""
    return str(file) if str(file).startswith(("http://", "https://")) else escape(str(file))
