"""Reading the JSON files of untrusted models, with limits on size, depth and numbers."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from finetune.errors import UserError

# The largest known files, vocabularies of MMS models and tokenizer.json, have a few megabytes.
_MOST_BYTES = 16 * 2**20
# Files of libraries have less than ten levels.
_MOST_DEPTH = 32


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file of a model.

    Raises UserError for a file that can't be read, is not an object, has more than 16 MiB or 32 levels, or has a number
    that is not finite.
    """
    if not file.is_file():  # Reading from a pipe may never end.
        raise UserError(f"{file} can't be read: expected a file.")
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES >> 20} MiB")
        values = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
        _require_plain(values)
    except OSError as error:
        raise UserError(f"{file} can't be read: {error}.") from error
    except (ValueError, RecursionError) as error:
        reason = "it nests too deep" if isinstance(error, RecursionError) else error
        raise UserError(f"{file} is damaged and can't be read: {reason}.") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} is damaged: expected an object, found {type(values).__name__}.")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"found {name}, expected a finite number")


def _require_plain(values: Any) -> None:
    """Raise ValueError for values that are nested too deeply, and for numbers such as 1e999."""
    level = [values]
    for _ in range(_MOST_DEPTH):
        if any(isinstance(value, float) and not math.isfinite(value) for value in level):
            raise ValueError("found a number that is not finite")
        level = [part for value in level for part in _list_parts(value)]
        if not level:
            return
    raise ValueError(f"it nests deeper than {_MOST_DEPTH} levels")


def _list_parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
