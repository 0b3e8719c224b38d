"""The recipes that come with this package: in a checkout its folder recipes/, in a wheel finetune/recipes/."""

import shutil
from pathlib import Path

import yaml

import finetune
from finetune.errors import UserError
from finetune.files import new_folder


def find_recipes() -> Path:
    """The folder of all recipes; raises UserError if the package was installed without them."""
    package = Path(finetune.__file__).parent
    for folder in (package / "recipes", package.parent / "recipes"):
        if (folder / "quickstart" / "recipe.yaml").is_file():
            return folder
    raise UserError(f"{package} was installed without its recipes: install it from its wheel, or from a checkout.")


def list_recipes() -> dict[str, str]:
    """Each recipe's name with the first sentence of its comment."""
    files = sorted(find_recipes().glob("*/recipe.yaml"))
    return {file.parent.name: _read_purpose(file) for file in files}


def copy_recipe(name: str, folder: Path) -> Path:
    """Copy a recipe with its README and data into `folder/name`, and what it refers to in other recipes beside it.

    Returns the new recipe file. What is there already is not changed: raises UserError for an unknown name, and where
    `folder/name` exists.
    """
    names = list_recipes()
    if name not in names:
        raise UserError(f"There is no recipe {name}: expected one of {', '.join(names)}.")
    if (folder / name).exists():
        raise UserError(f"{folder / name} exists already: choose another folder, or remove it.")
    source = find_recipes()
    base = str(
        (yaml.safe_load((source / name / "recipe.yaml").read_text(encoding="utf-8")).get("model") or {}).get("base")
    )
    if base.startswith("../"):
        shared = Path(base).relative_to("..")
        if not (folder / shared).exists():
            _copy(source / shared, folder / shared)
    _copy(source / name, folder / name)
    return folder / name / "recipe.yaml"


def _copy(source: Path, folder: Path) -> None:
    with new_folder(folder) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True)


def _read_purpose(file: Path) -> str:
    comment = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return " ".join(comment)
