"""Clean manifests: a split's usable rows, written beside the corpus and read as splits of it."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finetune.data.corpus import Split, Utterance
from finetune.data.manifests import CHANNEL, CLEAN, format_csv
from finetune.data.sources import Source, Table
from finetune.data.validation_report import Finding
from finetune.errors import UserError
from finetune.files import write_text
from finetune.resources.storage import find_place, is_url


@dataclass(frozen=True)
class CleanManifest:
    """A manifest of the usable rows that a role has in a source; `split` is the name of the split that it becomes."""

    file: Path
    role: str
    split: str
    source: Source
    rows: list[dict[str, object]] = field(default_factory=list)


def write_clean_manifests(splits: Mapping[str, Split], findings: Iterable[Finding]) -> tuple[list[CleanManifest], int]:
    """Write the usable rows of each local source, with their unnormalised transcripts, and its names of columns.

    Returns the manifests, and the number of utterances that are in no file of their own (in Parquet, Arrow or
    tar files or at URLs) and so in no manifest. Raises UserError if a file exists; nothing else is changed.
    """
    unusable = {(finding.split, row) for finding in findings if finding.unusable for row, _ in finding.utterances}
    manifests: dict[tuple[str, int], CleanManifest] = {}
    num_embedded = 0
    for role, split in splits.items():
        for utterance in split.utterances:
            if (role, utterance.row) in unusable:
                continue
            table = split.table.table_of(utterance.row)
            if utterance.audio_key is None or not _is_local(table.source):
                num_embedded += 1
                continue
            key = (role, table.source.number)
            if key not in manifests:
                manifests[key] = _name_manifest(role, table.source, [each.file for each in manifests.values()])
            manifests[key].rows.append(_build_cells(utterance, table, manifests[key].file.parent))
    if not manifests:
        raise UserError(
            "There is no clean manifest to write: expected a local corpus whose utterances are files, or segments of "
            "files; those in Parquet, Arrow and tar files, on a hub or at URLs can't be listed in one."
        )
    for manifest in manifests.values():
        if manifest.file.exists():
            raise UserError(f"{manifest.file} exists already: remove it, or rename it.")
    for manifest in manifests.values():
        columns = list(manifest.rows[0])
        write_text(manifest.file, format_csv([columns, *([row[name] for name in columns] for row in manifest.rows)]))
    return list(manifests.values()), num_embedded


def _is_local(source: Source) -> bool:
    return not is_url(source.root) and find_place(source.root).exists()


def _name_manifest(role: str, source: Source, taken: Iterable[Path]) -> CleanManifest:
    """In the folder of the corpus; beside a corpus that is one table, with the table's name in front."""
    root = find_place(source.root)
    folder, start = (root, "") if root.is_dir() else (root.parent, f"{root.name}.")
    split = f"{role}{CLEAN}"
    if folder / f"{start}{split}.csv" in taken:  # Of another source with the same root.
        split = f"{role}.{source.number}{CLEAN}"
    return CleanManifest(folder / f"{start}{split}.csv", role, split, source)


def _build_cells(utterance: Utterance, table: Table, folder: Path) -> dict[str, object]:
    """A row with the columns that the recipe or the corpus names, so that it is read as a row of the corpus."""
    assert utterance.audio_key is not None and table.text is not None
    path, start, end, channel = utterance.audio_key
    cells: dict[str, object] = {
        table.audio: os.path.relpath(path, folder),
        # A table has one row per line, so a line end in a text (possible in JSON) becomes a space.
        table.text: re.sub(r"[\r\n]+", " ", utterance.raw_transcript),
        table.speaker or "speaker": (utterance.speaker or "").removeprefix(table.source.speaker_prefix),
        "start": start if start or end is not None else "",
        "end": "" if end is None else end,
        CHANNEL: "" if channel is None else channel,
    }
    return {name: utterance.columns.get(name, "") for name in table.source.columns} | cells
