"""Arguments that several commands share, and the parsing of their values."""

import argparse
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from finetune.errors import UserError
from finetune.resources.terminal import escape_controls

_LOGGER = logging.getLogger(__name__)

if TYPE_CHECKING:
    from finetune.data.corpus import SkippedUtterance
    from finetune.data.sources import Source
    from finetune.evaluation.scoring import Decoding
    from finetune.resources.cluster import ClusterOptions

BOOST = 10.0  # pyctcdecode's hotword_weight
MODEL = "a model folder, or on a hub USER/NAME or USER/NAME@REVISION"
FORMATS = ("text", "json", "srt", "vtt", "ctm", "textgrid")
SOURCE = "a data set's folder, manifest or hub name"

# Its type has no public name.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_beam(parser: argparse.ArgumentParser) -> None:
    """Add the beam width and the hotwords of a beam search."""
    parser.add_argument(
        "--beam-width",
        type=int,
        metavar="N",
        help="hypotheses kept at each step: 1, 3, 10, 30, 100 (default), 300 and so on; others are rounded down",
    )
    parser.add_argument(
        "--hotword",
        type=read_hotword,
        action="append",
        default=[],
        metavar="WORD[=BOOST]",
        help=f"a word or phrase to prefer, with its boost (a natural logarithm, default: {BOOST:g}); repeatable",
    )


def add_precision(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the precision of the computation."""
    precisions = ("auto", "float32", "bfloat16")
    parser.add_argument(
        "--precision", choices=precisions, default=default, help=f"of the computation (default: {default})"
    )


def add_recognition(parser: argparse.ArgumentParser) -> None:
    """Add the voice activity detector and the device."""
    parser.add_argument(
        "--vad", choices=("energy", "silero"), default="energy", help="voice activity detector (default: energy)"
    )
    parser.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1 … (default: a GPU, if any)")


def add_language(parser: argparse.ArgumentParser) -> None:
    """Add the language of a model of several languages, such as MMS."""
    parser.add_argument("--language", metavar="CODE", help="the spoken language of an MMS model, such as deu")


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """Add the decoder and the arguments of a beam search."""
    parser.add_argument(
        "--decoder", choices=("greedy", "beam"), help="default: the language model saved with the model, or else greedy"
    )
    add_beam(parser)


def add_language_model(parser: argparse.ArgumentParser) -> None:
    """Add a language model and a file of hotwords, for this call only."""
    parser.add_argument("--language-model", metavar="DIR", help="a folder of `finetune lm build`")
    parser.add_argument("--hotwords", metavar="FILE", help="a file with a hotword on each line, as --hotword takes it")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the engine and what it uses of a cluster."""
    group = parser.add_argument_group("a cluster of machines")
    group.add_argument("--engine", choices=("local", "ray"), default="local", help="this process, or a Ray cluster")
    group.add_argument(
        "--address", metavar="HOST:PORT", help="of the cluster's head (default: RAY_ADDRESS, or one on this machine)"
    )
    group.add_argument(
        "--actors", type=_count, metavar="N", help="the most processes with a model (default: as many as fit)"
    )
    group.add_argument("--actor-cores", type=_count, metavar="N", help="cores of each of them (default: 1)")


def read_engine(options: argparse.Namespace, device: str = "auto") -> "ClusterOptions | None":
    """The cluster of a command's options, None without one; raises UserError for options that need one."""
    from finetune.commands.launch import settle_cluster
    from finetune.resources.cluster import ClusterOptions

    if options.engine == "ray":
        variables = settle_cluster()
        return ClusterOptions(options.address, options.actors, options.actor_cores or 1, device, variables)
    if given := [f"--{name.replace('_', '-')}" for name in ("address", "actors", "actor_cores") if vars(options)[name]]:
        raise UserError(f"{' and '.join(given)} are for a cluster: add --engine ray.")
    return None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return int(text)


def add_source(parser: argparse.ArgumentParser, split: str = "test, or the only one") -> None:
    """Add the rows and columns to read of a data set."""
    parser.add_argument("--split", metavar="NAME", help=f"default: {split}")
    for role in ("text", "audio", "speaker"):
        parser.add_argument(
            f"--{role}-column", metavar="NAME", help=f"the column of the {role}, if not found by its name"
        )
    parser.add_argument("--allow-outside", action="store_true", help="also read audio outside SOURCE")
    parser.add_argument("--max-seconds", metavar="N", type=read_seconds, help="skip longer utterances (default: 300)")
    parser.add_argument(
        "--columns", metavar="NAME", nargs="+", default=(), help="further columns to keep for each utterance"
    )


def add_recipe_file(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add a recipe and the values that override its own."""
    parser.add_argument("recipe", metavar="RECIPE", nargs=None if required else "?", help="a recipe's YAML file")
    overrides = parser.add_argument(
        "overrides", metavar="section.key=value", nargs="*", help="values that override the recipe"
    )
    vars(overrides)["completer"] = _list_settings  # Of argcomplete.


def _list_settings(prefix: str, **_: Any) -> list[str]:
    """The recipe's keys that begin with a prefix, as section.key=."""
    from finetune.recipe.load import Recipe

    # A section that may be missing is a union with None.
    sections = {name: (field.annotation, *get_args(field.annotation)) for name, field in Recipe.model_fields.items()}
    keys = [
        f"{name}.{key}="
        for name, kinds in sections.items()
        for key in next((each.model_fields for each in kinds if hasattr(each, "model_fields")), ())
    ]
    return [key for key in keys if key.startswith(prefix)]


def read_batch_seconds(text: str) -> float | None:
    """Parse a number of seconds above zero; `auto` is None."""
    return None if text == "auto" else read_seconds(text, "auto, or ")


def read_seconds(text: str, other: str = "") -> float:
    """Parse a number of seconds above zero."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected {other}a number of seconds above 0")
    return seconds


def read_hotword(text: str) -> tuple[str, float]:
    """Parse WORD or WORD=BOOST."""
    word, _, boost = text.partition("=")
    try:
        return word, float(boost or BOOST)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: expected WORD or WORD=BOOST, BOOST a number") from error


def read_hotwords(file: str | None) -> dict[str, float]:
    """Read hotwords from a file, one on each line; raises UserError."""
    from finetune.text.lines import split_lines

    lines = [line.strip() for line in split_lines(read_text_file(file))] if file else []
    try:
        return dict(read_hotword(line) for line in lines if line)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{file}: {error}.") from error


def read_decoding(options: argparse.Namespace) -> "Decoding":
    """Return the decoding options of a command."""
    from finetune.evaluation.scoring import Decoding

    return Decoding(options.decoder, options.beam_width, dict(options.hotword))


def log_rejected(rejected: "Sequence[SkippedUtterance]") -> None:
    """Log each skipped utterance with its reason."""
    for rejection in rejected:
        _LOGGER.warning(escape_controls(f"left out: {rejection.name}: {rejection.reason}", one_line=True))


def read_sources(options: argparse.Namespace) -> "list[Source]":
    """Return the data sets of a command's options."""
    from finetune.data.sources import Source

    columns = {name: getattr(options, name) for name in ("text_column", "audio_column", "speaker_column")}
    how: dict[str, Any] = {"allow_outside": options.allow_outside, "columns": tuple(options.columns)}
    how |= {"max_seconds": options.max_seconds} if options.max_seconds else {}
    places = [options.data] if isinstance(options.data, str) else options.data
    return [Source(place, **columns, **how) for place in places]


def name_run(recipe: Path) -> str:
    """Return the name of a recipe's run."""
    return recipe.resolve().parent.name if recipe.name == "recipe.yaml" else recipe.stem


def find_run_folder(recipe: str) -> Path:
    """Return the default run directory of a recipe."""
    return Path("runs") / name_run(Path(recipe))


def require_writable(file: str | None) -> None:
    """Raise UserError if a file cannot be written."""
    if file and (Path(file).is_dir() or not Path(file).parent.is_dir()):
        raise UserError(f"{file} can't be written: expected a file's name in a folder that exists.")


def read_text_file(file: str) -> str:
    """Read a text file; raises UserError."""
    from finetune.text.lines import read_text

    try:
        return read_text(Path(file), special=True)
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}.") from error
