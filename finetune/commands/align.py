"""finetune align: the time of each word of a known text in a recording."""

import argparse
import sys
from pathlib import Path

from finetune.commands import arguments
from finetune.errors import UserError


def add_parser(commands: arguments.Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("align", help="find the time of each word of a known text in a recording")
    parser.add_argument("model", metavar="MODEL", help=arguments.MODEL)
    parser.add_argument("audio", metavar="AUDIO", help="an audio file of any length, a URL, or - for standard input")
    parser.add_argument("text", metavar="TEXT", help="the transcript, a text file in UTF-8, or - for standard input")
    parser.add_argument("--format", choices=arguments.FORMATS, default="json", help="default: json")
    parser.add_argument("--output", metavar="FILE", help="write to this file (default: standard output)")
    arguments.add_recognition(parser)
    arguments.add_language(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from finetune.commands.transcription import align_recording

    if options.audio == options.text == "-":
        raise UserError("Both the audio and its text are to be read from standard input: name a file for one of them.")
    arguments.require_writable(options.output)
    output = Path(options.output) if options.output else None
    text = _read_standard_input() if options.text == "-" else arguments.read_text_file(options.text)
    how = {"device": options.device, "vad": options.vad, "language": options.language}
    align_recording(options.model, options.audio, text, options.format, output, **how)


def _read_standard_input() -> str:
    from finetune.resources.limits import MAX_TEXT_BYTES, read_at_most

    if sys.stdin is None:
        raise UserError("Standard input is closed: expected a text that is piped in.")
    try:
        return read_at_most(sys.stdin.buffer, MAX_TEXT_BYTES, "Standard input").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"Standard input can't be read: byte {error.start} is not UTF-8.") from error
