"""Put recipes/ into wheels and source distributions, as finetune/recipes/ of what is installed."""

import shutil
from pathlib import Path

from setuptools.command.build_py import build_py

_RECIPES = Path("recipes")


class BuildWithRecipes(build_py):
    """Build the package with its recipes; an editable one reads them in the checkout."""

    def run(self) -> None:
        """Copy the recipes after all modules."""
        super().run()
        if not self.editable_mode:
            for file in self._list_recipe_files():
                target = Path(self.build_lib) / "finetune" / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)

    def get_source_files(self) -> list[str]:
        """What a source distribution holds: recipes too."""
        return [*super().get_source_files(), *map(str, self._list_recipe_files())]

    def _list_recipe_files(self) -> list[Path]:
        return sorted(file for file in _RECIPES.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
