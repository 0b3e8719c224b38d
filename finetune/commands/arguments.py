"""What the command line takes: commands, their arguments, and what is said of them."""

import argparse
import math
from typing import TypeAlias

from finetune import __version__

_BOOST = 10.0  # pyctcdecode's hotword_weight
_MODEL = "a model folder, or on a hub USER/NAME or USER/NAME@REVISION"
_FORMATS = ("text", "json", "srt", "vtt", "ctm", "textgrid")
_SOURCE = "a data set's folder, manifest or hub name"

# Its type has no public name.
_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def build_parser() -> argparse.ArgumentParser:
    """All commands; `options.command` is the name of the one that was asked for."""
    parser = argparse.ArgumentParser(prog="finetune", description="Fine-tune a pretrained wav2vec2 with CTC.")
    parser.add_argument("--version", action="version", version=f"finetune {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_evaluate(commands)
    _add_compare(commands)
    _add_transcribe(commands)
    _add_align(commands)
    _add_export(commands)
    _add_push(commands)
    _add_check(commands)
    lm = commands.add_parser("lm", help="language models").add_subparsers(required=True, metavar="COMMAND")
    _add_lm_build(lm)
    _add_lm_tune(lm)
    _add_recipe(commands)
    _add_env(commands)
    return parser


def _add_train(commands: _Commands) -> None:
    parser = commands.add_parser("train", help="run a recipe: fine-tune, score, save")
    _add_recipe_file(parser)
    parser.add_argument("--output", metavar="DIR", help="the run directory (default: runs/NAME)")
    parser.set_defaults(command="train")


def _add_evaluate(commands: _Commands) -> None:
    parser = commands.add_parser("evaluate", help="measure the WER and CER of models on data sets")
    parser.add_argument("models", metavar="MODEL", nargs="+", help=f"{_MODEL}; or several")
    parser.add_argument("--data", required=True, action="append", metavar="SOURCE", help=f"{_SOURCE}; may be repeated")
    _add_source(parser)
    _add_decoding(parser)
    parser.add_argument("--json", metavar="FILE", help="also write scores and every utterance here")
    parser.add_argument("--report", metavar="DIR", help="also write a report here, or one in DIR/1, DIR/2 … for each")
    parser.add_argument("--audio", action="store_true", help="copy the audio into the report, for its page's players")
    parser.add_argument("--show", metavar="N", type=int, default=0, help="show the N worst utterances aligned")
    _add_precision(parser, "float32")
    _add_language(parser)
    parser.set_defaults(command="evaluate")


def _add_compare(commands: _Commands) -> None:
    parser = commands.add_parser("compare", help="say whether one of two models is better by more than chance")
    parser.add_argument("a", metavar="A", help="a model, or without --data a saved report's folder")
    parser.add_argument("b", metavar="B", help="the other one")
    parser.add_argument("--data", metavar="SOURCE", help=_SOURCE)
    _add_source(parser)
    _add_decoding(parser)
    parser.add_argument("--json", metavar="FILE", help="also write all differences here")
    _add_language(parser)
    parser.set_defaults(command="compare")


def _add_transcribe(commands: _Commands) -> None:
    parser = commands.add_parser("transcribe", help="recordings of any length to text, subtitles and times")
    parser.add_argument("model", metavar="MODEL", help=_MODEL)
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
        choices=_FORMATS,
        help="may be repeated; without it and without --output a single recording's text is printed (default: text)",
    )
    parser.add_argument("--output", metavar="DIR", help="write here, not beside each recording")
    parser.add_argument("--resume", action="store_true", help="leave out what is written already")
    parser.add_argument("--channels", action="store_true", help="transcribe each channel by itself")
    parser.add_argument("--vad", choices=("energy", "silero"), default="energy", help="finds speech (default: energy)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1 … (default: a GPU, if any)")
    _add_precision(parser, "auto")
    _add_language(parser)
    parser.add_argument(
        "--batch-seconds", type=_batch_seconds, metavar="N", help="of audio computed at once (default: auto)"
    )
    parser.add_argument("--language-model", metavar="DIR", help="a folder of `finetune lm build`")
    parser.add_argument("--hotwords", metavar="FILE", help="a file with a hotword on each line, as --hotword takes it")
    parser.add_argument("--allow-outside", action="store_true", help="read audio outside a manifest's folder, too")
    _add_decoding(parser)
    parser.set_defaults(command="transcribe")


def _add_align(commands: _Commands) -> None:
    parser = commands.add_parser("align", help="a recording and its text to the times of its words")
    parser.add_argument("model", metavar="MODEL", help=_MODEL)
    parser.add_argument("audio", metavar="AUDIO", help="an audio file of any length, a URL, or - for standard input")
    parser.add_argument("text", metavar="TEXT", help="a text file, in UTF-8, of what is said in it, or -")
    parser.add_argument("--format", choices=_FORMATS, default="json", help="default: json")
    parser.add_argument("--output", metavar="FILE", help="write here; without it the result is printed")
    parser.add_argument("--vad", choices=("energy", "silero"), default="energy", help="finds speech (default: energy)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1 … (default: a GPU, if any)")
    _add_language(parser)
    parser.set_defaults(command="align")


def _add_export(commands: _Commands) -> None:
    parser = commands.add_parser("export", help="a model in a form that CPUs compute faster, if it says the same")
    parser.add_argument("model", metavar="MODEL", help=f"a run, {_MODEL}")
    parser.add_argument("--format", choices=("onnx", "onnx-int8"), required=True, help="with what it is computed")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="a new folder, used as any model's")
    parser.add_argument("--data", metavar="SOURCE", help="speech to compare on (default: the run's validation split)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.2,
        metavar="POINTS",
        help="refuse it where its WER is more percentage points higher (default: 0.2)",
    )
    _add_language(parser)
    parser.set_defaults(command="export")


def _add_push(commands: _Commands) -> None:
    parser = commands.add_parser("push", help="publish a model on a hub, whole or not at all")
    parser.add_argument("source", metavar="RUN_OR_MODEL", help="a run, a model's folder, or a report's for its scores")
    parser.add_argument("repo_id", metavar="REPO_ID", help="the repository, USER/NAME; made where there is none")
    parser.add_argument("--private", action="store_true", help="make the repository private, where it is made")
    parser.add_argument("--revision", metavar="NAME", help="a branch, made where there is none (default: main)")
    parser.add_argument("--tag", metavar="NAME", help="a tag for the commit")
    parser.add_argument("--data", metavar="SOURCE", help="speech to check the model on (default: its run's validation)")
    parser.add_argument("--dry-run", action="store_true", help="check everything, say what would be sent, send nothing")
    parser.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(command="push")


def _add_check(commands: _Commands) -> None:
    parser = commands.add_parser("check", help="everything that can be known before training, in seconds")
    _add_recipe_file(parser)
    parser.add_argument("--listen", action="store_true", help="decode all audio too, which takes longer")
    parser.add_argument(
        "--align", metavar="MODEL", help="find texts that are not what a model hears, which takes longer"
    )
    _add_language(parser)
    parser.add_argument("--fix", action="store_true", help="write clean manifests beside the corpus, change nothing")
    parser.add_argument("--json", metavar="FILE", help="write what was found here as JSON")
    parser.add_argument("--html", metavar="FILE", help="write a page with plots and the worst clips here")
    parser.set_defaults(command="check")


def _add_lm_build(commands: _Commands) -> None:
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
    parser.set_defaults(command="build_language_model")


def _add_lm_tune(commands: _Commands) -> None:
    parser = commands.add_parser("tune", help="choose a language model's weights, and save it with the model")
    parser.add_argument("model", metavar="MODEL", help="a model's folder, in which the language model is saved")
    parser.add_argument("language_model", metavar="LM", help="a language model's folder")
    parser.add_argument("--data", required=True, metavar="SOURCE", help=_SOURCE)
    _add_source(parser, "validation")
    _add_beam(parser)
    parser.set_defaults(command="tune_language_model")


def _add_recipe(commands: _Commands) -> None:
    parser = commands.add_parser("recipe", help="print a recipe with every value, defaults included")
    _add_recipe_file(parser)
    parser.set_defaults(command="recipe")


def _add_env(commands: _Commands) -> None:
    parser = commands.add_parser("env", help="what this machine has and what follows; put it into bug reports")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(command="env")


def _add_beam(parser: argparse.ArgumentParser) -> None:
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
        help=f"a word or phrase to expect, with a boost (a natural logarithm, default: {_BOOST:g}); may be repeated",
    )


def _add_precision(parser: argparse.ArgumentParser, default: str) -> None:
    precisions = ("auto", "float32", "bfloat16")
    parser.add_argument("--precision", choices=precisions, default=default, help=f"of computing (default: {default})")


def _add_language(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--language", metavar="CODE", help="which of an MMS model's languages is spoken: deu")


def _add_decoding(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--decoder", choices=("greedy", "beam"), help="default: the language model saved with the model, or else greedy"
    )
    _add_beam(parser)


def _add_source(parser: argparse.ArgumentParser, split: str = "test, or the only one") -> None:
    parser.add_argument("--split", metavar="NAME", help=f"default: {split}")
    for role in ("text", "audio", "speaker"):
        parser.add_argument(f"--{role}-column", metavar="NAME", help=f"the {role}'s column, where it isn't found")
    parser.add_argument("--allow-outside", action="store_true", help="read audio that lies outside SOURCE, too")
    parser.add_argument("--max-seconds", metavar="N", type=_seconds, help="leave out longer utterances (default: 300)")
    parser.add_argument("--columns", metavar="NAME", nargs="+", default=(), help="others that go with each utterance")


def _add_recipe_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's YAML file")
    parser.add_argument("overrides", metavar="section.key=value", nargs="*", help="values that replace the recipe's")


def _batch_seconds(text: str) -> float | None:
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
        return word, float(boost or _BOOST)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: expected WORD or WORD=BOOST, BOOST a number") from error
