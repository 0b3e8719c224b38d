"""Where a store's parts are, the names in it, and its audit log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import yaml
from sqlalchemy import Connection, insert

from finetune.errors import UserError
from finetune.feedback.records import now
from finetune.feedback.schema import AUDIT

CONFIGURATION = "store.yaml"
_MAX_NAME = 64


def require_words(text: str) -> None:
    """Raise UserError for a correction without words."""
    if not text.split():
        raise UserError("The correction has no words: reject the utterance instead if nothing is said in it.")


def log_step(connection: Connection, who: str, action: str, subject: str, details: Mapping[str, object]) -> None:
    """Add a step to the audit log in a transaction."""
    check_name(who, "who")
    values = {"at": now(), "who": who, "action": action, "subject": subject, "details": json.dumps(details)}
    connection.execute(insert(AUDIT).values(**values))


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
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file} can't be read: {error}.") from error
    known = {"database", "audio"}
    if values is None:
        return {}
    if not isinstance(values, dict) or (unknown := set(values) - known):
        found = ", ".join(map(str, unknown)) if isinstance(values, dict) else type(values).__name__
        raise UserError(f"{file} has {found}; expected the keys database and audio.")
    return values
