"""The package's log on standard error: lines for people, or JSON for programs."""

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime

from finetune.commands.launch import is_main_process
from finetune.resources.terminal import without_progress_bars

_PREFIXES = {logging.WARNING: "note: ", logging.ERROR: "finetune: "}
_VERBOSE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def add_logging(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for how much is logged, and in which form."""
    # Each subcommand has them, too, and must not put its defaults over what stands before its name.
    group = parser.add_argument_group("log, on standard error", argument_default=argparse.SUPPRESS)
    level = group.add_mutually_exclusive_group()
    level.add_argument("--quiet", action="store_true", help="log notes and errors only, and show no progress")
    level.add_argument("--verbose", action="store_true", help="log more, with times, and the origin of each error")
    group.add_argument("--log-format", choices=("text", "json"), help="json: one object for each line")


@contextmanager
def log_to_console(options: argparse.Namespace) -> Iterator[None]:
    """Write what the package logs to standard error, in the main process alone, as a command's options ask."""
    quiet, verbose = (getattr(options, name, False) for name in ("quiet", "verbose"))
    as_json = getattr(options, "log_format", "text") == "json"
    logger = logging.getLogger("finetune")
    handler = _Console() if is_main_process() else logging.NullHandler()
    handler.setFormatter(_Json() if as_json else logging.Formatter(_VERBOSE) if verbose else TextFormatter())
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
    with ExitStack() as stack:
        if quiet or as_json:
            stack.enter_context(without_progress_bars())
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


class _Console(logging.Handler):
    """Writes above progress bars; a record with `once` that is the same as one before is not repeated."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        if getattr(record, "once", False):
            if (message := record.getMessage()) in self._shown:
                return
            self._shown.add(message)
        with suppress(OSError):  # The terminal has closed or the file is full: the work is worth more.
            tqdm.write(self.format(record), file=sys.stderr)
            sys.stderr.flush()


class TextFormatter(logging.Formatter):
    """The message, with what it is before a warning or an error."""

    def format(self, record: logging.LogRecord) -> str:
        return _PREFIXES.get(record.levelno, "") + super().format(record)


class _Json(logging.Formatter):
    """An object in one line: time in UTC, level, logger, message, and the record's `values` where it has some."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # In ASCII, and DEL escaped: what a terminal would obey is then escaped as JSON escapes it.
        return json.dumps({**line, **getattr(record, "values", {})}).replace("\x7f", "\\u007f")
