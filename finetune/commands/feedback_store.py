"""The feedback store of a command: where it is, its key, and who uses it."""

from __future__ import annotations

import argparse
import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.feedback.store import Store


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the store, its key and the user's name."""
    parser.add_argument("store", metavar="STORE", help="the folder of a feedback store")
    parser.add_argument("--key-file", metavar="FILE", help="its key, if it is encrypted; or FINETUNE_FEEDBACK_KEY")
    parser.add_argument("--who", metavar="NAME", default=find_user(), help="for the audit log (default: your login)")


def find_user() -> str:
    """The login name; `unknown` on a machine that has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def open_store(options: argparse.Namespace) -> Store:
    """Open the store of a command; raises UserError."""
    from finetune.feedback.sealing import read_master_key
    from finetune.feedback.store import Store

    return Store(Path(options.store), read_master_key(Path(options.key_file) if options.key_file else None))


def require_packages() -> None:
    """Raise UserError unless the packages of a store are installed."""
    try:
        import alembic
        import cryptography
        import sqlalchemy
    except ModuleNotFoundError as error:
        raise UserError(
            f"The feedback store needs packages that are not here ({error}): pip install 'finetune[feedback]'."
        ) from error
    del alembic, cryptography, sqlalchemy
