"""Audio that rows of a data set may have: files in the data set's own place, and embedded bytes."""

import os
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.resources.storage import find_place, is_url

# `datasets` names a member of an archive as in zip://a.wav::hf://datasets/USER/NAME@COMMIT/audio.zip.
_ARCHIVES = frozenset({"zip", "tar", "gzip", "bz2", "xz", "zstd", "lz4"})
_ON_HUB = re.compile(r"^(hf://datasets/[^@]+)@[^/]+")


def own_places(root: str) -> tuple[str, ...]:
    """The folders and URLs that contain the files of a data set, given as a folder, manifest or name on a hub.

    Files of a hub are on the hub, or in the caches of `huggingface_hub` and of `datasets`, which unpacks archives.
    """
    place = find_place(root)
    if is_url(root) or place.exists():
        return (str(place.parent if place.is_file() else place),)
    import datasets
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    fetched = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=root, repo_type="dataset")
    return (f"hf://datasets/{root}", str(fetched), str(datasets.config.EXTRACTED_DATASETS_PATH))


def lies_in(place: str, folders: Sequence[str]) -> bool:
    """Whether a file, or the archive that contains it, is below one of some folders, which are paths or URLs.

    By name, or with links resolved: a link inside a corpus to another place was created by the corpus's owner.
    """
    if is_url(place):
        *members, place = place.split("::")
        if any(member.partition("://")[0] not in _ARCHIVES for member in members):
            return False
        place = _ON_HUB.sub(r"\1", place)
    if any(_lies_below(place, folder) for folder in folders):
        return True
    # Either the corpus or the file may be named through a link.
    here = [os.path.realpath(folder) for folder in folders if not is_url(folder)]
    return not is_url(place) and any(_lies_below(os.path.realpath(place), folder) for folder in here)


def _lies_below(place: str, folder: str) -> bool:
    if is_url(place) != is_url(folder):
        return False
    normalize, separator = (posixpath.normpath, "/") if is_url(folder) else (os.path.abspath, os.sep)
    return normalize(place).startswith(normalize(folder).rstrip(separator) + separator)


def undecoded(rows: Any) -> Any:
    """Rows with undecoded audio (bytes or paths), and without columns such as images, which would be opened."""
    import datasets
    from datasets.features.features import require_decoding

    features = rows.features or {}
    if features and isinstance(rows, datasets.IterableDataset):
        return rows.decode(False)
    for name, feature in features.items():
        if isinstance(feature, datasets.Audio):
            rows = rows.cast_column(name, datasets.Audio(decode=False))
    return rows.remove_columns([name for name, feature in rows.features.items() if require_decoding(feature)])


def require_encoded(rows: Any, audio: str, name: str) -> None:
    """Raise UserError where the audio of a data set with this name is lists of samples, as its `map` can leave it."""
    import datasets

    feature = (rows.features or {}).get(audio)
    if isinstance(feature, datasets.List | datasets.LargeList) or (isinstance(feature, dict) and "array" in feature):
        raise UserError(
            f"The audio of {name} is samples in its column {audio}: expected files or encoded bytes; save the data set "
            f"again before its audio is decoded, or with rows.cast_column('{audio}', datasets.Audio())."
        )
