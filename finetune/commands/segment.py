"""finetune segment: long recordings with their texts to a corpus of utterances."""

import argparse
from pathlib import Path

from finetune.commands import arguments
from finetune.errors import UserError


def add_parser(commands: arguments.Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("segment", help="cut long recordings with their texts into a corpus of utterances")
    parser.add_argument("model", metavar="MODEL", help=arguments.MODEL)
    parser.add_argument("audio", metavar="AUDIO", nargs="?", help="a recording, a folder, or a table of audio and text")
    parser.add_argument(
        "text", metavar="TEXT", nargs="?", help="its text, or a folder of .txt files (default: beside the recordings)"
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="the folder of the corpus")
    parser.add_argument("--corpus", metavar="DATA", help="cut the long rows of this corpus, instead of AUDIO")
    number = arguments.read_seconds
    parser.add_argument(
        "--longer-than",
        type=number,
        default=20.0,
        metavar="N",
        help="of --corpus, rows of more seconds (default: 20, as data.max_seconds)",
    )
    for name, default, meaning in (
        ("--min-seconds", 1.0, "the shortest utterance"),
        ("--max-seconds", 15.0, "the longest utterance"),
        ("--min-pause", 0.2, "the shortest pause to cut at"),
    ):
        parser.add_argument(name, type=number, default=default, metavar="N", help=f"{meaning} (default: {default:g} s)")
    parser.add_argument(
        "--min-score", type=float, default=0.4, metavar="N", help="the least score of an utterance (default: 0.4)"
    )
    parser.add_argument("--numbers", metavar="LANGUAGE", help="digits in the text are said as words, such as en")
    parser.add_argument("--speaker", metavar="NAME", help="the speaker of all recordings without one in the table")
    parser.add_argument("--resume", action="store_true", help="leave out recordings that are cut already")
    parser.add_argument("--allow-outside", action="store_true", help="also read audio outside the folder of a table")
    arguments.add_recognition(parser)
    arguments.add_precision(parser, "auto")
    arguments.add_language(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from finetune.commands.segment_pairs import find_long_rows, find_pairs
    from finetune.commands.segmentation import Segmenter, segment_pairs
    from finetune.inference.segmentation import Limits

    limits = Limits(options.min_seconds, options.max_seconds, options.min_pause, options.min_score)
    if (options.corpus is None) == (options.audio is None):
        raise UserError("Expected either AUDIO with its TEXT or --corpus DATA, and found neither or both.")
    output = Path(options.output)
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not options.resume)):
        raise UserError(f"{output} is there already, and nothing is overwritten: --resume goes on in a folder.")
    if options.corpus is None:
        pairs = find_pairs(options.audio, options.text, options.speaker, options.allow_outside)
    else:
        pairs = find_long_rows(options.corpus, options.longer_than, options.speaker, options.allow_outside)
    if not pairs:
        raise UserError(f"No row of {options.corpus or options.audio} is to be cut: --longer-than sets another limit.")
    how = {name: getattr(options, name) for name in ("device", "precision", "vad", "language", "numbers")}
    return segment_pairs(Segmenter(options.model, limits, **how), pairs, output)
