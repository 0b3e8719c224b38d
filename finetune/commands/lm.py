"""finetune lm: text to a language model, and its weights for a model."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.text.transcripts import Step

from finetune.commands.arguments import (
    SOURCE,
    Commands,
    add_beam,
    add_source,
    read_sources,
)
from finetune.errors import UserError


def add_parser(commands: Commands) -> None:
    """The commands `lm build` and `lm tune`."""
    parsers = commands.add_parser("lm", help="language models").add_subparsers(required=True, metavar="COMMAND")
    _add_build(parsers)
    _add_tune(parsers)


def _add_build(commands: Commands) -> None:
    parser = commands.add_parser("build", help="text to an n-gram language model")
    parser.add_argument(
        "texts", metavar="TEXT", nargs="+", help="text files with a sentence on each line, .gz too, or -"
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="the language model's folder")
    parser.add_argument("--order", type=int, default=4, metavar="N", help="words in the longest n-grams (default: 4)")
    parser.add_argument(
        "--prune", type=int, nargs="+", default=(), metavar="N", help="leave out n-grams seen N times or less: 0 0 1"
    )
    parser.add_argument("--test", metavar="TEXT", help="measure perplexity here, not on the text itself")
    steps = parser.add_mutually_exclusive_group()
    steps.add_argument("--model", metavar="MODEL", help="normalise the text as is saved with this model")
    steps.add_argument("--normalization", nargs="+", metavar="STEP", help="normalise it by these steps or presets")
    parser.set_defaults(run=_build)


def _build(options: argparse.Namespace) -> int:
    from finetune.decoding.language_model import build_language_model
    from finetune.text.transcripts import DEFAULT_STEPS

    steps = _load_steps(options.model) if options.model else options.normalization or DEFAULT_STEPS
    output = Path(options.output)
    told = build_language_model(
        options.texts, output, order=options.order, prune=options.prune, steps=steps, test=options.test
    )
    print("\n".join(told))
    return 0


def _add_tune(commands: Commands) -> None:
    parser = commands.add_parser("tune", help="choose a language model's weights, and save it with the model")
    parser.add_argument("model", metavar="MODEL", help="a model's folder, in which the language model is saved")
    parser.add_argument("language_model", metavar="LM", help="a language model's folder")
    parser.add_argument("--data", required=True, metavar="SOURCE", help=SOURCE)
    add_source(parser, "validation")
    add_beam(parser)
    parser.set_defaults(run=_tune)


def _tune(options: argparse.Namespace) -> int:
    from finetune.run.tuning import tune

    source, hotwords = read_sources(options)[0], dict(options.hotword)
    width = 100 if options.beam_width is None else options.beam_width
    tuning = tune(options.model, options.language_model, source, options.split, width, hotwords)
    print("\n".join([*tuning.summary(), f"saved in {options.model}, which now decodes with it"]))
    return 0


def _load_steps(model: str) -> "tuple[Step, ...]":
    """The normalisation saved with a model; raises UserError where there is none."""
    from finetune.models.configuration import load_config
    from finetune.resources.repositories import fetch_model
    from finetune.text.transcripts import load_normalization

    folder = fetch_model(model, weights=False)
    load_config(str(folder))
    steps = load_normalization(folder)
    if steps is None:
        raise UserError(f"{model} has no normalisation saved with it: name its steps with --normalization.")
    return steps
