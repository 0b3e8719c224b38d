"""A checkpoint exported during training: a folder with everything that publishing it needs, without the data."""

import json
from collections.abc import Sequence
from pathlib import Path

from finetune.files import write_json
from finetune.publishing.parity import Spoken, load_utterances, save_utterances
from finetune.publishing.release import release
from finetune.publishing.upload import Destination, Push

MODEL = "model"
_FILE = "candidate.json"  # Older exports have it too.


def write_export(folder: Path, message: str, utterances: Sequence[Spoken]) -> None:
    """Write the commit message and the utterances of the parity gate beside the model in `folder/model`."""
    save_utterances(folder, utterances)
    write_json(folder / _FILE, {"message": message})


def is_export(folder: Path) -> bool:
    """Whether a folder is an export that `write_export` completed."""
    return (folder / _FILE).is_file()


def push_export(folder: Path, destination: Destination, *, dry_run: bool = False) -> list[str]:
    """Push an export's model as `release` does."""
    message = json.loads((folder / _FILE).read_text(encoding="utf-8"))["message"]
    return release(Push(folder / MODEL, destination), lambda: load_utterances(folder), message, dry_run)
