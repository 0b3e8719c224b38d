"""A model of a training that goes on, in a folder with all that it takes to publish it without the data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from finetune.files import write_json
from finetune.publishing.parity import Spoken, load_utterances, save_utterances
from finetune.publishing.release import release
from finetune.publishing.upload import Destination, Push

MODEL = "model"
_FILE = "candidate.json"


def write_candidate(folder: Path, message: str, utterances: Sequence[Spoken]) -> None:
    """Put beside the model in `folder/model` the commit's message, and what the parity gate compares."""
    save_utterances(folder, utterances)
    write_json(folder / _FILE, {"message": message})


def is_candidate(folder: Path) -> bool:
    """Whether a folder is one that `write_candidate` completed."""
    return (folder / _FILE).is_file()


def push_candidate(folder: Path, destination: Destination, *, dry_run: bool = False) -> list[str]:
    """Push a candidate's model as `release` does."""
    message = json.loads((folder / _FILE).read_text(encoding="utf-8"))["message"]
    return release(Push(folder / MODEL, destination), lambda: load_utterances(folder), message, dry_run)
