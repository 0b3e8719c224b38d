"""A folder of audio files without a table: each file is an utterance without a transcript."""

from pathlib import Path

from finetune.audio.waveforms import CONTAINERS, SUFFIXES
from finetune.data.layouts import Splits, is_split, name_splits
from finetune.resources.storage import is_plain, list_visible


def read_recordings(root: Path) -> Splits:
    """The audio files below a folder in the order of their paths; {} if there are none.

    Where folders right below it have usual names of splits (train, dev, test …), the files of each are a split, and
    other files belong to the training split.
    """
    found = filter(is_plain, list_visible(root, "**/*"))
    files = [file for file in found if file.suffix.lower() in SUFFIXES | CONTAINERS]
    folders = {file.relative_to(root).parts[0] for file in files if len(file.relative_to(root).parts) > 1}
    names = name_splits(folder for folder in folders if is_split(folder))
    splits: Splits = {}
    for file in files:
        parts = file.relative_to(root).parts
        split = names.get(parts[0], "train") if len(parts) > 1 else "train"
        splits.setdefault(split, []).append({"audio": str(file)})
    return splits
