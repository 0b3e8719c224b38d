"""Where a store's parts are, the names in it, and its audit log."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import yaml
from sqlalchemy import ColumnElement, Connection, ScalarSelect, func, insert, select

from finetune.errors import UserError
from finetune.feedback.database import has_password
from finetune.feedback.records import now
from finetune.feedback.schema import AUDIT
from finetune.files import new_file

_LOGGER = logging.getLogger(__name__)
CONFIGURATION = "store.yaml"
_MAX_NAME = 64
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def require_words(text: str) -> None:
    """Raise UserError for a correction without words."""
    if not text.split():
        raise UserError("The correction has no words: reject the utterance instead if nothing is said in it.")


def log_step(connection: Connection, who: str, action: str, subject: str, details: Mapping[str, object]) -> None:
    """Add a step to the audit log in a transaction."""
    check_name(who, "who")
    values = {"at": now(), "who": who, "action": action, "subject": subject, "details": json.dumps(details)}
    connection.execute(insert(AUDIT).values(**values))


def number_step(action: str, subject: ColumnElement[str]) -> ScalarSelect[int]:
    """The number of the newest such step in the audit log; times are no order, since a clock may be set back."""
    found = (AUDIT.c.action == action) & (AUDIT.c.subject == subject)
    return select(func.max(AUDIT.c.id)).where(found).scalar_subquery()


def check_name(name: str, what: str) -> None:
    """Raise UserError unless it is a printable name of a person, a domain or so."""
    if not name.strip() or len(name) > _MAX_NAME or not name.isprintable():
        raise UserError(f"{what} is {name[:80]!r}; expected a name of 1 to {_MAX_NAME} characters.")


def read_configuration(folder: Path) -> dict[str, str]:
    """The places of a store's database and audio where they are not in its folder; raises UserError."""
    file = folder / CONFIGURATION
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} is no feedback store: `finetune feedback init {folder}` makes one.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} can't be read: {error}.") from error
    except yaml.YAMLError:  # Its message has lines of the file, and they may have a password.
        raise UserError(f"{file} can't be read: it is no YAML.") from None
    known = {"database", "audio"}
    if values is None:
        return {}
    if not isinstance(values, dict) or (unknown := set(values) - known):
        found = ", ".join(map(str, unknown)) if isinstance(values, dict) else type(values).__name__
        raise UserError(f"{file} has {found}; expected the keys database and audio.")
    if not all(isinstance(value, str) for value in values.values()):
        raise UserError(f"{file} has values that are no text; expected the places of the database and the audio.")
    if any(map(has_password, values.values())) and os.name == "posix" and file.stat().st_mode & _OTHERS:
        _LOGGER.warning(f"{file} has a password that other users of this machine can read: chmod 600 {file}")
    return values


def write_configuration(folder: Path, places: Mapping[str, str]) -> None:
    """Write the places of a store's database and audio; only the owner reads them where there is a password."""
    with new_file(folder / CONFIGURATION) as partial:
        if any(map(has_password, places.values())):
            partial.chmod(stat.S_IRUSR | stat.S_IWUSR)
        partial.write_text(yaml.safe_dump(dict(places)) if places else "", encoding="utf-8")


def check_shares(test: float, validation: float) -> None:
    """Raise UserError unless the shares of the test and the validation set leave some for training."""
    if not all(0 <= share < 1 for share in (test, validation)) or test + validation >= 1:
        raise UserError(
            f"The shares are {test:g} and {validation:g}; expected numbers from 0 that are less than 1 together."
        )
