"""The feedback store of a command: where it is, its key, and who uses it."""

from __future__ import annotations

import argparse
import getpass
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.feedback.store import Store

_PACKAGES = ("sqlalchemy", "alembic", "cryptography", "psycopg", "Mako")
Command = Callable[[argparse.Namespace], int | None]


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the store, its key and the user's name."""
    parser.add_argument("store", metavar="STORE", help="the store's folder")
    parser.add_argument("--key-file", metavar="FILE", help="the store's key (default: FINETUNE_FEEDBACK_KEY)")
    parser.add_argument("--who", metavar="NAME", help="who does this (default: your login name)")


def guard_packages(run: Command) -> Command:
    """A command that says which extra to install where a package of it is missing."""

    def guarded(options: argparse.Namespace) -> int | None:
        try:
            return run(options)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _PACKAGES:
                raise
            raise UserError(
                f"The store needs packages that are not here ({error}): pip install 'finetune[feedback]'."
            ) from error

    return guarded


@contextmanager
def open_store(options: argparse.Namespace) -> Iterator[Store]:
    """The store of a command's options; raises UserError where it can't be opened."""
    from finetune.feedback.sealing import read_master_key
    from finetune.feedback.store import Store

    file = Path(options.key_file) if options.key_file else None
    with closing(Store(Path(options.store), read_master_key(file), lambda: read_master_key(file))) as store:
        yield store


def read_who(options: argparse.Namespace) -> str:
    """Who runs the command; raises UserError where the system has no name for that."""
    if options.who is not None:
        return str(options.who)
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:  # KeyError before Python 3.13.
        raise UserError("The system has no login name for you: give yours with --who NAME.") from error
