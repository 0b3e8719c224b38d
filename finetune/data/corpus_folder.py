"""A folder that is a corpus itself: a known layout, tars, Parquet or Arrow files, or tables, but of one kind."""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import Any

from finetune.data.archives import find_archives, read_archives, split_of
from finetune.data.arrow_folders import find_saved, load_saved
from finetune.data.folders import Columns, find_split_tables, find_unread_tables, read_table, read_tables
from finetune.data.layouts import read_layout
from finetune.data.manifests import CLEAN
from finetune.data.parquet_files import find_parquet, load_parquet
from finetune.data.rows import build_dataset
from finetune.errors import UserError
from finetune.resources.storage import is_url, list_visible

_LOGGER = logging.getLogger(__name__)
_SHOWN = 3
_SHARD = re.compile(r"(.*)-\d+-of-(\d+)\.\w+")


def load_corpus(root: Path, columns: Columns) -> dict[str, Any]:
    """The splits of a folder that is a corpus itself; {} if it is not.

    Raises UserError if it has transcripts of several kinds, since one of them would be ignored.
    """
    layout, tables = read_layout(root), find_split_tables(root)
    archives, parquet, saved = find_archives(root), find_parquet(root), find_saved(root)
    shards = {"tars": archives, "Parquet files": [file for files in parquet.values() for file in files]}
    binary = {**shards, "Arrow files": saved}
    loaded: dict[str, Any] = {}
    if layout is not None:
        rows = layout.splits
        others = [file for file in tables if file not in layout.tables]
        if others:
            raise UserError(
                f"{root} is a corpus in the layout of {layout.name} and has tables ({_list_files(others, root)}): "
                f"expected one of them; move the tables to another folder, or name one (data.root={others[0]})."
            )
        _note_unread(root, [file for files in binary.values() for file in files], f"the corpus is {layout.name}")
    else:
        # A download beside the folder that was unpacked from it.
        below = _find_corpora_below(root) if any(binary.values()) and not tables else []
        _require_one_kind(root, {"tables": tables, "corpora in folders": below, **binary})
        loaded = load_parquet(parquet) if parquet else load_saved(saved) if saved else {}
        _note_parts(root, [file for files in shards.values() for file in files])
        rows = read_archives(root, archives) if archives else {} if loaded else read_tables(root, columns)
        if rows or loaded:
            known = "train.csv, test.csv …, or metadata.csv"
            _note_unread(root, find_unread_tables(root), f"tables of the corpus are {known}, or named by data.root")
    return loaded | {split: build_dataset(found) for split, found in rows.items()}


def read_clean(place: Path, columns: Columns) -> dict[str, Any]:
    """The splits that `finetune check --fix` wrote for a folder or a table: ROLE.clean.csv, TABLE.ROLE.clean.csv."""
    folder, start = (place, "") if place.is_dir() else (place.parent, f"{place.name}.")
    if start and is_url(str(place)):  # A web server has no list of files.
        return {}
    files = list_visible(folder, f"{escape(start)}*{CLEAN}.csv")
    return {file.stem.removeprefix(start): build_dataset(read_table(file, columns)) for file in files}


def _find_corpora_below(root: Path) -> list[Path]:
    folders = [below for below in list_visible(root) if below.is_dir()]
    return [below for below in folders if find_split_tables(below) or read_layout(below)]


def _require_one_kind(root: Path, found: Mapping[str, Sequence[Path]]) -> None:
    kinds = {kind: files for kind, files in found.items() if files}
    if len(kinds) > 1:
        listed = " and ".join(f"{kind} ({_list_files(files, root)})" for kind, files in kinds.items())
        raise UserError(
            f"{root} has {listed}: expected one of them; move what is not to be used to another folder, or name one, "
            f"such as data.root={next(iter(kinds.values()))[0]}."
        )


def _note_unread(root: Path, files: Sequence[Path], reason: str) -> None:
    if files:
        _LOGGER.warning(f"not read in {root}: {_list_files(files, root)}; {reason}", extra={"once": True})


def _note_parts(root: Path, files: Sequence[Path]) -> None:
    """Log a split that is read from several folders, which may be languages, and a split without some of its files."""
    folders: dict[str, list[Path]] = {}
    for file in files:
        folders.setdefault(split_of(file, root), []).append(file.parent)
    for split, found in folders.items():
        if len(several := sorted(set(found))) > 1:
            _LOGGER.warning(
                f"the split {split} is read from several folders of {root} ({_list_files(several, root)}); "
                f"for one of them: data.root={several[0]}",
                extra={"once": True},
            )
    shards = Counter((file.parent / part[1], int(part[2])) for file in files if (part := _SHARD.fullmatch(file.name)))
    for (name, number), there in shards.items():
        if there < number:
            _LOGGER.warning(f"only {there} of the {number} files {name}-* are there", extra={"once": True})


def _list_files(files: Sequence[Path], root: Path) -> str:
    shown = [str(file.relative_to(root)) for file in files[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else "")
