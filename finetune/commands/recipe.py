"""finetune recipe: print a recipe with all defaults filled in."""

import argparse
from pathlib import Path

from finetune.commands import arguments


def add_parser(commands: arguments.Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("recipe", help="print a recipe with all defaults filled in")
    arguments.add_recipe_file(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from finetune.recipe.load import load_recipe

    print(load_recipe(Path(options.recipe), options.overrides).to_yaml(), end="")
