"""finetune recipe: print a recipe with all defaults filled in, or list and copy the recipes that come with finetune."""

import argparse
from pathlib import Path

import yaml

from finetune.commands import arguments
from finetune.errors import UserError


def add_parser(commands: arguments.Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("recipe", help="print a recipe with all defaults filled in, list or copy recipes")
    arguments.add_recipe_file(parser, required=False)
    parser.add_argument("--list", action="store_true", help="list the recipes that come with finetune")
    parser.add_argument(
        "--copy", metavar="DIR", help="copy one of these, RECIPE by its name, with its data into DIR/RECIPE"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from finetune.recipe.installed import copy_recipe, list_recipes
    from finetune.recipe.load import load_recipe

    if options.list:
        for name, purpose in list_recipes().items():
            print(f"{name}\n    {purpose}")
    elif options.recipe is None:
        raise UserError("Expected a recipe's YAML file, or --list for the recipes that come with finetune.")
    elif options.copy is not None:
        file = copy_recipe(options.recipe, Path(options.copy))
        command = "pretrain" if "pretraining" in yaml.safe_load(file.read_text(encoding="utf-8")) else "train"
        print(f"{file} is yours to change. Train with: finetune {command} {file}")
    else:
        print(load_recipe(Path(options.recipe), options.overrides).to_yaml(), end="")
