"""The command line: finds the command that was asked for, and calls it."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from finetune import __version__
from finetune.commands import (
    align,
    check,
    compare,
    compare_runs,
    completion,
    consume,
    env,
    evaluate,
    export,
    feedback,
    improve,
    live,
    lm,
    models,
    pretrain,
    push,
    recipe,
    segment,
    serve,
    train,
    transcribe,
)
from finetune.commands.console import add_logging, log_to_console
from finetune.commands.launch import settle_threads
from finetune.commands.outcome import call
from finetune.resources.terminal import safe_terminal

_COMMANDS = (
    *(train, pretrain, evaluate, compare, compare_runs, transcribe, live, serve, consume),
    *(align, segment, export, push, check, lm),
    *(feedback, improve, models, recipe, env, completion),
)


class _Parser(argparse.ArgumentParser):
    """A parser that has the options of the log, as the subcommands' parsers have, whose class it is."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        add_logging(self)


def build_parser() -> argparse.ArgumentParser:
    """All commands with their arguments; `run` of what they parse is the command's function."""
    parser = _Parser(prog="finetune", description="Fine-tune a pretrained wav2vec2 with CTC.")
    parser.add_argument("--version", action="version", version=f"finetune {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


@safe_terminal()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: see `finetune.commands.outcome.call`."""
    parser = build_parser()
    completion.complete(parser)
    options, overrides = parser.parse_known_args(arguments)
    # argparse takes overrides that stand behind an option, as in `--output DIR section.key=value`, for unknown ones.
    if overrides and (not hasattr(options, "overrides") or any(text.startswith("-") for text in overrides)):
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    if overrides:
        options.overrides += overrides
    # Their notices are for programmers; what a user must know is said by us.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Or Transformers would ask a service to convert a base without safetensors, and send it the user's token.
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    settle_threads()
    with log_to_console(options):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "" if sys.stderr.isatty() else "1")
        return call(options)
