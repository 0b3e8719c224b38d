"""finetune transcribe: recordings of any length to text, subtitles and word times."""

import argparse
import logging
from functools import partial
from pathlib import Path

from finetune.commands import arguments

_LOGGER = logging.getLogger(__name__)


def add_parser(commands: arguments.Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "transcribe", help="transcribe recordings of any length to text, subtitles and word times"
    )
    parser.add_argument("model", metavar="MODEL", help=arguments.MODEL)
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="audio files, folders, quoted patterns, manifests, URLs, or - for standard input",
    )
    parser.add_argument(
        "--format",
        dest="formats",
        action="append",
        choices=arguments.FORMATS,
        help="repeatable; without it and --output the text of a single recording is printed (default: text)",
    )
    parser.add_argument("--output", metavar="DIR", help="write to this folder instead of beside each recording")
    parser.add_argument("--resume", action="store_true", help="leave out what is written already")
    parser.add_argument("--channels", action="store_true", help="transcribe each channel by itself")
    arguments.add_recognition(parser)
    arguments.add_precision(parser, "auto")
    arguments.add_language(parser)
    parser.add_argument(
        "--batch-seconds",
        type=arguments.read_batch_seconds,
        metavar="N",
        help="seconds of audio in a batch (default: auto)",
    )
    arguments.add_language_model(parser)
    parser.add_argument("--allow-outside", action="store_true", help="also read audio outside the folder of a manifest")
    arguments.add_decoding(parser)
    arguments.add_engine(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from finetune.commands.inputs import find_inputs
    from finetune.commands.transcription import plan_jobs, run_jobs, transcribe_here

    cluster = arguments.read_engine(options, options.device)
    inputs = find_inputs(options.inputs, options.allow_outside)
    printed = options.formats is None and [each.alone for each in inputs] == [True]
    formats = tuple(dict.fromkeys(options.formats or ["text"]))
    output = Path(options.output) if options.output else None
    hotwords = {**arguments.read_hotwords(options.hotwords), **dict(options.hotword)}
    jobs = plan_jobs(inputs, formats, output, resume=options.resume, printed=printed)
    if not jobs:
        _LOGGER.info("everything is transcribed already")
        return 0
    how = {
        "device": options.device,
        "language_model": options.language_model,
        "hotwords": hotwords,
        "decoder": options.decoder,
        "beam_width": options.beam_width,
        "precision": options.precision,
        "batch_seconds": options.batch_seconds,
        "detector": options.vad,
        "language": options.language,
    }
    if cluster is not None:
        from finetune.commands.cluster import transcribe_on_cluster

        return run_jobs(partial(transcribe_on_cluster, options.model, how, options.channels, cluster), jobs)
    from finetune.inference.transcriber import Transcriber

    return run_jobs(partial(transcribe_here, Transcriber(options.model, **how), options.channels), jobs)
