"""Arguments that several commands share, and what is read from them."""

import argparse
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from finetune.errors import UserError
from finetune.resources.terminal import escape_controls

_LOGGER = logging.getLogger(__name__)

if TYPE_CHECKING:
    from finetune.data.corpus import Rejection
    from finetune.data.sources import Source
    from finetune.evaluation.scoring import Decoding

BOOST = 10.0  # pyctcdecode's hotword_weight
MODEL = "a model folder, or on a hub USER/NAME or USER/NAME@REVISION"
FORMATS = ("text", "json", "srt", "vtt", "ctm", "textgrid")
SOURCE = "a data set's folder, manifest or hub name"

# Its type has no public name.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_beam(parser: argparse.ArgumentParser) -> None:
    """How wide a beam search is, and its hotwords."""
    parser.add_argument(
        "--beam-width",
        type=int,
        metavar="N",
        help="texts followed at a time: 1, 3, 10, 30, 100 (the default), 300 and so on; others are rounded down",
    )
    parser.add_argument(
        "--hotword",
        type=read_hotword,
        action="append",
        default=[],
        metavar="WORD[=BOOST]",
        help=f"a word or phrase to expect, with a boost (a natural logarithm, default: {BOOST:g}); may be repeated",
    )


def add_precision(parser: argparse.ArgumentParser, default: str) -> None:
    """The precision of computing."""
    precisions = ("auto", "float32", "bfloat16")
    parser.add_argument("--precision", choices=precisions, default=default, help=f"of computing (default: {default})")


def add_language(parser: argparse.ArgumentParser) -> None:
    """The language of an MMS model."""
    parser.add_argument("--language", metavar="CODE", help="which of an MMS model's languages is spoken: deu")


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """The decoder, and what a beam search takes."""
    parser.add_argument(
        "--decoder", choices=("greedy", "beam"), help="default: the language model saved with the model, or else greedy"
    )
    add_beam(parser)


def add_source(parser: argparse.ArgumentParser, split: str = "test, or the only one") -> None:
    """Which rows and columns of a data set are read."""
    parser.add_argument("--split", metavar="NAME", help=f"default: {split}")
    for role in ("text", "audio", "speaker"):
        parser.add_argument(f"--{role}-column", metavar="NAME", help=f"the {role}'s column, where it isn't found")
    parser.add_argument("--allow-outside", action="store_true", help="read audio that lies outside SOURCE, too")
    parser.add_argument("--max-seconds", metavar="N", type=_seconds, help="leave out longer utterances (default: 300)")
    parser.add_argument("--columns", metavar="NAME", nargs="+", default=(), help="others that go with each utterance")


def add_recipe_file(parser: argparse.ArgumentParser) -> None:
    """A recipe and the values that replace its own."""
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's YAML file")
    parser.add_argument("overrides", metavar="section.key=value", nargs="*", help="values that replace the recipe's")


def read_batch_seconds(text: str) -> float | None:
    """A number of seconds above zero; None for `auto`."""
    return None if text == "auto" else _seconds(text, "auto, or ")


def _seconds(text: str, other: str = "") -> float:
    """A number of seconds above zero."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected {other}a number of seconds above 0")
    return seconds


def read_hotword(text: str) -> tuple[str, float]:
    """A word or phrase, and its boost behind an equals sign."""
    word, _, boost = text.partition("=")
    try:
        return word, float(boost or BOOST)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: expected WORD or WORD=BOOST, BOOST a number") from error


def read_decoding(options: argparse.Namespace) -> "Decoding":
    """How to decode, from a command's options."""
    from finetune.evaluation.scoring import Decoding

    return Decoding(options.decoder, options.beam_width, dict(options.hotword))


def log_rejected(rejected: "Sequence[Rejection]") -> None:
    """Log what was left out."""
    for rejection in rejected:
        _LOGGER.warning(escape_controls(f"left out: {rejection.name}: {rejection.reason}", one_line=True))


def read_sources(options: argparse.Namespace) -> "list[Source]":
    """The data sets of a command's options."""
    from finetune.data.sources import Source

    columns = {name: getattr(options, name) for name in ("text_column", "audio_column", "speaker_column")}
    how: dict[str, Any] = {"allow_outside": options.allow_outside, "columns": tuple(options.columns)}
    how |= {"max_seconds": options.max_seconds} if options.max_seconds else {}
    places = [options.data] if isinstance(options.data, str) else options.data
    return [Source(place, **columns, **how) for place in places]


def name_run(recipe: Path) -> str:
    """What a recipe's run is called."""
    return recipe.resolve().parent.name if recipe.name == "recipe.yaml" else recipe.stem


def find_run_folder(recipe: str) -> Path:
    """Where a recipe's run is, unless it is said."""
    return Path("runs") / name_run(Path(recipe))


def require_writable(file: str | None) -> None:
    """Raise UserError where a file can't be written."""
    if file and (Path(file).is_dir() or not Path(file).parent.is_dir()):
        raise UserError(f"{file} can't be written: expected a file's name in a folder that exists.")


def read_text_file(file: str) -> str:
    """A text file's content; raises UserError."""
    from finetune.text.lines import read_text

    try:
        return read_text(Path(file), special=True)
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}.") from error
