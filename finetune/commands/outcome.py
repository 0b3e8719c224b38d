"""How a command ends: its exit code, and what is said of it."""

import argparse
import contextlib
import io
import logging
import os
import sys

from finetune.commands.launch import settle_folders
from finetune.errors import Interrupted, UserError

_LOGGER = logging.getLogger(__name__)


def call(options: argparse.Namespace) -> int:
    """Run the command that was asked for; returns the exit code.

    0, 2 for a problem that the user can mend, 75 (EX_TEMPFAIL: try again) when training was asked to stop and left a
    checkpoint, 130 when anything else was, 141 when the reader of the output has gone.
    """
    try:
        settle_folders()
        code: int = options.run(options)
        sys.stdout.flush()
    except UserError as error:
        _LOGGER.error(f"{error}")
        _LOGGER.debug("raised here", exc_info=True)
        return 2
    except Interrupted as stopped:
        _LOGGER.error(f"stopped after step {stopped}; the same command goes on from there.")
        return 75
    except BrokenPipeError:  # Who read the output has enough, as `head` does; a shell would report SIGPIPE.
        _abandon_output()
        return 141
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _LOGGER.error(f"{place}{error.strerror or error}.")
        _abandon_output()
        return 2
    except KeyboardInterrupt:
        rest = "; the same command goes on from the last checkpoint" if getattr(options, "resumes", False) else ""
        _LOGGER.error(f"interrupted{rest}.")
        return 130
    return code


def _abandon_output() -> None:
    """Drop what could not be written to the standard output, or Python would try again at its end."""
    with contextlib.suppress(io.UnsupportedOperation):  # Of an output without a file nothing waits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
