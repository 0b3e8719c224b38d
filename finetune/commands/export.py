"""finetune export: a model in a form that CPUs compute faster."""

import argparse
from pathlib import Path

from finetune.commands.arguments import (
    MODEL,
    Commands,
    add_language,
)


def add_parser(commands: Commands) -> None:
    """The command's arguments."""
    parser = commands.add_parser("export", help="a model in a form that CPUs compute faster, if it says the same")
    parser.add_argument("model", metavar="MODEL", help=f"a run, {MODEL}")
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
    add_language(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from finetune.run.export import export

    how = {"form": options.format, "data": options.data, "tolerance": options.tolerance, "language": options.language}
    print("\n".join(export(options.model, Path(options.output), **how)))
    return 0
