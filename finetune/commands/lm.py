"""finetune lm: build an n-gram language model from text, and tune its weights for a model."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.text.transcripts import Transform

from finetune.commands import arguments
from finetune.errors import UserError


def add_parser(commands: arguments.Commands) -> None:
    """Add the commands `lm build` and `lm tune`."""
    parsers = commands.add_parser("lm", help="language models").add_subparsers(required=True, metavar="COMMAND")
    _add_build(parsers)
    _add_tune(parsers)


def _add_build(commands: arguments.Commands) -> None:
    parser = commands.add_parser("build", help="build an n-gram language model from text")
    parser.add_argument(
        "texts", metavar="TEXT", nargs="+", help="text files with a sentence on each line, .gz too, or -"
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="the language model's folder")
    parser.add_argument("--order", type=int, default=4, metavar="N", help="the order of the model (default: 4)")
    parser.add_argument(
        "--prune",
        type=int,
        nargs="+",
        default=(),
        metavar="N",
        help="prune n-grams seen N times or less, for each order: 0 0 1",
    )
    parser.add_argument("--test", metavar="TEXT", help="measure perplexity on this text instead of the training text")
    steps = parser.add_mutually_exclusive_group()
    steps.add_argument("--model", metavar="MODEL", help="normalise the text as this model does")
    steps.add_argument(
        "--normalization", nargs="+", metavar="STEP", help="normalise the text with these transforms or presets"
    )
    parser.set_defaults(run=_build)


def _build(options: argparse.Namespace) -> None:
    from finetune.decoding.language_model import build_language_model
    from finetune.text.transcripts import DEFAULT_TRANSFORMS

    steps = _load_steps(options.model) if options.model else options.normalization or DEFAULT_TRANSFORMS
    output = Path(options.output)
    lines = build_language_model(
        options.texts, output, order=options.order, prune=options.prune, transforms=steps, test=options.test
    )
    print("\n".join(lines))


def _add_tune(commands: arguments.Commands) -> None:
    parser = commands.add_parser(
        "tune", help="tune the weights of a language model on speech, and save it with the model"
    )
    parser.add_argument("model", metavar="MODEL", help="a model folder, to which the language model is saved")
    parser.add_argument("language_model", metavar="LM", help="a language model's folder")
    parser.add_argument("--data", required=True, metavar="SOURCE", help=arguments.SOURCE)
    arguments.add_source(parser, "validation")
    arguments.add_beam(parser)
    parser.set_defaults(run=_tune)


def _tune(options: argparse.Namespace) -> None:
    from finetune.run.tuning import tune

    source, hotwords = arguments.read_sources(options)[0], dict(options.hotword)
    width = 100 if options.beam_width is None else options.beam_width
    tuning = tune(options.model, options.language_model, source, options.split, width, hotwords)
    print("\n".join([*tuning.summary(), f"saved in {options.model}, which now decodes with it"]))


def _load_steps(model: str) -> "tuple[Transform, ...]":
    """Load the text normalisation saved with a model; raises UserError if there is none."""
    from finetune.models.configuration import load_config
    from finetune.resources.repositories import fetch_model
    from finetune.text.transcripts import load_normalization

    folder = fetch_model(model, weights=False)
    load_config(str(folder))
    steps = load_normalization(folder)
    if steps is None:
        raise UserError(f"{model} has no normalisation saved with it: name its steps with --normalization.")
    return steps
