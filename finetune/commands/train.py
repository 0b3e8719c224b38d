"""finetune train: run a recipe, and write a run directory."""

import argparse
from pathlib import Path

from finetune.commands import arguments
from finetune.commands.launch import is_main_process


def add_parser(commands: arguments.Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("train", help="run a recipe: fine-tune, evaluate, save")
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
    set_training_switches(recipe.training.compile)
    from finetune.run.experiment import run

    output = Path(options.output) if options.output else arguments.find_run_folder(options.recipe)
    analysis = run(recipe, output)
    if is_main_process():
        print(analysis.summary())
