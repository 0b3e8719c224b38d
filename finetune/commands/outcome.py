"""How a command ends: its exit code, and what is said of it."""

import argparse
import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from finetune.commands.launch import is_main_process, settle_folders
from finetune.errors import Interrupted, Note, UserError


def call(options: argparse.Namespace) -> int:
    """Run the command that was asked for; returns the exit code.

    0, 2 for a problem that the user can mend, 75 (EX_TEMPFAIL: try again) when training was asked to stop and left a
    checkpoint, 130 when anything else was, 141 when the reader of the output has gone.
    """
    try:
        for line in settle_folders():
            _say(line)
        with _telling_notes():
            code: int = options.run(options)
        sys.stdout.flush()
    except UserError as error:
        _say(f"{error}")
        return 2
    except Interrupted as stopped:
        _say(f"stopped after step {stopped}; the same command goes on from there.")
        return 75
    except BrokenPipeError:  # Who read the output has enough, as `head` does; a shell would report SIGPIPE.
        _abandon_output()
        return 141
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _say(f"{place}{error.strerror or error}.")
        _abandon_output()
        return 2
    except KeyboardInterrupt:
        rest = "; the same command goes on from the last checkpoint" if getattr(options, "resumes", False) else ""
        _say(f"interrupted{rest}.")
        return 130
    return code


@contextmanager
def _telling_notes() -> Iterator[None]:
    """Print each Note once as a line; other warnings are shown as ever."""
    with warnings.catch_warnings():
        warnings.filterwarnings("once", category=Note)
        show = warnings.showwarning

        def tell(message: Warning | str, category: type[Warning], *others: Any, **options: Any) -> None:
            if not issubclass(category, Note):
                show(message, category, *others, **options)
            else:
                _say(f"note: {message}")

        warnings.showwarning = tell
        yield


def _say(line: str) -> None:
    if is_main_process():
        with contextlib.suppress(OSError):  # The exit code says it too where the terminal has closed.
            print(f"finetune: {line}", file=sys.stderr, flush=True)


def _abandon_output() -> None:
    """Drop what could not be written to the standard output, or Python would try again at its end."""
    with contextlib.suppress(io.UnsupportedOperation):  # Of an output without a file nothing waits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
