"""Snapshots of a store: to be replaced by the module that writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import UserError
from finetune.feedback.records import Forgotten
from finetune.feedback.store import Store


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A version of a store's corrected utterances in a folder."""

    name: str


def export_snapshot(store: Store, folder: Path, who: str, name: str | None = None) -> Snapshot:
    """Write a snapshot; raises UserError."""
    raise UserError("Snapshots can't be exported by this version.")


def forget(store: Store, numbers: Sequence[int], who: str) -> Forgotten:
    """Delete utterances from a store; the files of snapshots are not reached. Raises UserError."""
    holes = store.erase(numbers, who)
    return Forgotten(ids=tuple(numbers), snapshots=tuple(holes), unreachable=tuple(holes))
