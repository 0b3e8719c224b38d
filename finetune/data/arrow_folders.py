"""Folders of Arrow files that `save_to_disk` of `datasets` writes, for one split or for several."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.data.layouts import is_split, name_splits
from finetune.errors import UserError, format_error
from finetune.resources.addresses import public_address
from finetune.resources.storage import list_visible

_OF_SEVERAL = "dataset_dict.json"


def find_saved(root: Path) -> list[Path]:
    """The list of a saved `DatasetDict`; else Arrow files of a folder, or of those in it of which one names a split."""
    if (several := root / _OF_SEVERAL).is_file():
        return [several]
    below = list_visible(root, "*/*.arrow")
    return list_visible(root, "*.arrow") or (below if any(is_split(file.parent.name) for file in below) else [])


def load_saved(files: Sequence[Path]) -> dict[str, Any]:
    """The rows by split, memory-mapped where they are; raises UserError for a folder that is not complete.

    A folder of one split is the training split unless it has another's name.
    """
    if files[0].name == _OF_SEVERAL:
        loaded = dict(_load(files[0].parent))
    else:
        loaded = {name: _load(folder) for name, folder in {file.parent.name: file.parent for file in files}.items()}
    names = name_splits(loaded)
    if len(loaded) == 1 and files[0].name != _OF_SEVERAL:
        names = {name: split if is_split(name) else "train" for name, split in names.items()}
    # A format would hide columns, or make tensors of cells.
    return {names[name]: rows.with_format(None) for name, rows in loaded.items()}


def _load(folder: Path) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:  # For JSON of another form also KeyError and TypeError.
        reason = public_address(format_error(error))
        raise UserError(
            f"{folder} can't be read as save_to_disk of `datasets` writes it: {reason}; copy the whole folder again, "
            "or save it again."
        ) from error
