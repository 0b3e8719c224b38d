"""Run a command: exceptions become a message and an exit code."""

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
    """Run the parsed command and return its exit code.

    0 is success, 2 a problem that the user can fix, 75 (EX_TEMPFAIL: try again) training that was asked to stop and
    saved a checkpoint, 130 any other interruption, and 141 output whose reader has closed it.
    """
    try:
        settle_folders()
        code: int = options.run(options) or 0
        sys.stdout.flush()
    except UserError as error:
        _LOGGER.error(f"{error}")
        _LOGGER.debug("raised here", exc_info=True)
        return 2
    except Interrupted as stopped:
        _LOGGER.error(f"stopped after step {stopped}; the same command goes on from there.")
        return 75
    except BrokenPipeError:  # The reader has closed the output, as `head` does; a shell would report SIGPIPE.
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
    """Drop buffered standard output that cannot be written: Python would retry it, and fail, at exit."""
    with contextlib.suppress(io.UnsupportedOperation):  # An output without a file buffers nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
