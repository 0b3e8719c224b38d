"""finetune pretrain: pre-train a base further on speech without transcripts."""

import argparse
from pathlib import Path

from finetune.commands import arguments
from finetune.commands.launch import is_main_process


def add_parser(commands: arguments.Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("pretrain", help="pre-train a base further on speech without transcripts")
    arguments.add_recipe_file(parser)
    parser.add_argument("--output", metavar="DIR", help="the run directory (default: runs/NAME)")
    parser.set_defaults(run=run, resumes=True)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from finetune.commands.launch import join_processes, keep_kernels, set_training_switches

    join_processes()
    from finetune.recipe.load import load_recipe

    recipe = load_recipe(Path(options.recipe), options.overrides)
    keep_kernels(recipe.training.mixed_precision)
    set_training_switches(compiled=False)
    from finetune.run.pretraining import pretrain

    output = Path(options.output) if options.output else arguments.find_run_folder(options.recipe)
    result = pretrain(recipe, output)
    if is_main_process():
        print(result.summary())
