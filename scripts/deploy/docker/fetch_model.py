"""Copies a model from object storage into a folder, whole or not at all; for init containers and the start of a task.

    python fetch_model.py s3://BUCKET/models/name /model/name [--digest DIGEST]

The folder appears when all files are there: a copy that was interrupted is never served. A folder that is there already
is left as it is, so that a container that starts again does not copy again. `--digest` is the digest of the folder as
`finetune models STORE show` and `/v1/models` print it; another one is refused.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from finetune.errors import UserError
from finetune.files import hash_folder, new_folder
from finetune.resources.storage import StorageError, list_files, open_file

_MOST_FILES = 1000


def fetch_model(source: str, folder: Path, digest: str | None = None) -> Path:
    """Copy all files at a URL into a folder, which must have a config.json; raises UserError for what can't be used."""
    if folder.is_dir():
        _require_digest(folder, digest, source)
        return folder
    try:
        found = list_files(source)
        if found is None or not found[1]:
            raise UserError(f"There is no folder at {source}: expected the folder of a model, with a config.json.")
        root, files = found
        if len(files) > _MOST_FILES:
            raise UserError(f"{source} has {len(files)} files; expected those of one model, at most {_MOST_FILES}.")
        if f"{root}/config.json" not in files:
            raise UserError(f"{source} has no config.json: expected the folder of a model.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(folder) as copy:
            for file in files:
                _copy_file(file, _find_target(copy, file, root))
            _require_digest(copy, digest, source)
    except StorageError as error:
        raise UserError(f"The model can't be fetched: {error}.") from error
    return folder


def _find_target(copy: Path, file: str, root: str) -> Path:
    target = copy / file.removeprefix(root).lstrip("/")
    if not target.resolve().is_relative_to(copy.resolve()):
        raise UserError(f"{file} leads out of the folder {root}.")
    return target


def _copy_file(source: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_file(source) as file, target.open("wb") as copy:
        shutil.copyfileobj(file, copy, 4 * 2**20)


def _require_digest(folder: Path, digest: str | None, source: str) -> None:
    if digest is not None and (found := hash_folder(folder)) != digest:
        raise UserError(f"The model of {source} has the digest {found}; expected {digest}.")


def main() -> int:
    """Run the command; 2 where the user can fix the problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="the folder of a model at a URL, such as s3://BUCKET/models/name")
    parser.add_argument("folder", type=Path, help="where to")
    parser.add_argument("--digest", metavar="DIGEST", help="the digest that the folder must have")
    options = parser.parse_args()
    try:
        print(fetch_model(options.source, options.folder, options.digest))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
