"""finetune segment: long recordings with their texts to a corpus of utterances."""

import argparse
from pathlib import Path
from typing import Any

from finetune.commands import arguments
from finetune.errors import UserError

_MIN_SCORE, _MIN_CONFIDENCE = 0.4, 0.8


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
        "--min-score",
        type=float,
        metavar="N",
        help=f"the least score of an utterance (default: {_MIN_SCORE}; with --transcribe {_MIN_CONFIDENCE})",
    )
    parser.add_argument("--numbers", metavar="LANGUAGE", help="digits in the text are said as words, such as en")
    parser.add_argument("--speaker", metavar="NAME", help="the speaker of all recordings without one in the table")
    parser.add_argument("--resume", action="store_true", help="leave out recordings that are cut already")
    parser.add_argument("--allow-outside", action="store_true", help="also read audio outside the folder of a table")
    arguments.add_recognition(parser)
    arguments.add_precision(parser, "auto")
    arguments.add_language(parser)
    parser.add_argument(
        "--transcribe",
        action="store_true",
        help="without texts: they are what MODEL transcribes (pseudo-labels), and the score is its confidence",
    )
    arguments.add_language_model(parser)
    arguments.add_decoding(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from finetune.commands.segment_pairs import find_long_rows, find_pairs, find_untranscribed
    from finetune.commands.segmentation import Segmenter, segment_pairs
    from finetune.inference.segmentation import Limits

    min_score = options.min_score
    if min_score is None:
        min_score = _MIN_CONFIDENCE if options.transcribe else _MIN_SCORE
    limits = Limits(options.min_seconds, options.max_seconds, options.min_pause, min_score)
    decoding = _read_decoding(options)
    if (options.corpus is None) == (options.audio is None):
        raise UserError("Expected either AUDIO with its TEXT or --corpus DATA, and found neither or both.")
    output = Path(options.output)
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not options.resume)):
        raise UserError(f"{output} is there already, and nothing is overwritten: --resume goes on in a folder.")
    if options.transcribe:
        pairs = find_untranscribed(options.audio, options.speaker, options.allow_outside)
    elif options.corpus is None:
        pairs = find_pairs(options.audio, options.text, options.speaker, options.allow_outside)
    else:
        pairs = find_long_rows(options.corpus, options.longer_than, options.speaker, options.allow_outside)
    if not pairs:
        raise UserError(f"No row of {options.corpus or options.audio} is to be cut: --longer-than sets another limit.")
    how = {name: getattr(options, name) for name in ("device", "precision", "vad", "language", "numbers")}
    return segment_pairs(Segmenter(options.model, limits, **how, decoding=decoding), pairs, output)


def _read_decoding(options: argparse.Namespace) -> dict[str, Any] | None:
    """How the model transcribes, None where there are texts; raises UserError for options that exclude each other."""
    given = {
        "language_model": options.language_model,
        "hotwords": {**arguments.read_hotwords(options.hotwords), **dict(options.hotword)},
        "decoder": options.decoder,
        "beam_width": options.beam_width,
    }
    if not options.transcribe:
        if any(given.values()):
            raise UserError("A decoder, a language model and hotwords are for transcribing: add --transcribe.")
        return None
    if options.text or options.corpus or options.numbers:
        raise UserError("--transcribe takes no texts: leave out TEXT, --corpus and --numbers, or --transcribe.")
    return given
