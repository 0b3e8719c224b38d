"""finetune export: convert a model to a format that runs faster on CPUs."""

import argparse
from pathlib import Path

from finetune.commands import arguments


def add_parser(commands: arguments.Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("export", help="convert a model to ONNX for faster CPU inference, and verify its WER")
    parser.add_argument("model", metavar="MODEL", help=f"a run, {arguments.MODEL}")
    parser.add_argument("--format", choices=("onnx", "onnx-int8"), required=True, help="float32 or 8-bit ONNX")
    parser.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="a new folder, which is used like any other model"
    )
    parser.add_argument(
        "--data", metavar="SOURCE", help="speech to verify the WER on (default: the validation split of the run)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.2,
        metavar="POINTS",
        help="refuse the export if its WER is higher by more percentage points (default: 0.2)",
    )
    arguments.add_language(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from finetune.commands.launch import quiet_exporter
    from finetune.run.export import export

    quiet_exporter()
    how = {"form": options.format, "data": options.data, "tolerance": options.tolerance, "language": options.language}
    print("\n".join(export(options.model, Path(options.output), **how)))
