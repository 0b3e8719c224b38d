"""finetune pretrain: pre-train a base further on speech without transcripts."""

import argparse

from finetune.commands import arguments
from finetune.commands.launch import is_main_process, load_run


def add_parser(commands: arguments.Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("pretrain", help="pre-train a base further on speech without transcripts")
    arguments.add_recipe_file(parser)
    parser.add_argument("--output", metavar="DIR", help="the run directory (default: runs/NAME)")
    parser.set_defaults(run=run, resumes=True)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    recipe, output = load_run(options)
    from finetune.run.pretraining import pretrain

    result = pretrain(recipe, output)
    if is_main_process():
        print(result.summary())
