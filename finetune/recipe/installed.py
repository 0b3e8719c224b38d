"""The recipes that come with this package: in a checkout its folder recipes/, in a wheel finetune/recipes/."""

import shutil
from pathlib import Path

import yaml

import finetune
from finetune.errors import UserError
from finetune.files import new_folder

# The keys that may refer to another recipe's folder.
_PLACES = (("model", "base"), ("data", "root"))


def find_recipes() -> Path:
    """The folder of all recipes; raises UserError if the package was installed without them."""
    package = Path(finetune.__file__).parent
    for folder in (package / "recipes", package.parent / "recipes"):
        if (folder / "quickstart" / "recipe.yaml").is_file():
            return folder
    raise UserError(f"{package} was installed without its recipes: install it from its wheel, or from a checkout.")


def list_recipes() -> dict[str, str]:
    """Each recipe's name with the first sentence of its comment."""
    return {name: _read_purpose(file) for name, file in sorted(_find_files().items())}


def copy_recipe(name: str, folder: Path) -> Path:
    """Copy a recipe's folder, with its README and data, into `folder`, and beside it what it refers to elsewhere.

    Returns the new recipe file. What is there already is not changed: raises UserError for an unknown name, and where
    the folder exists in `folder`.
    """
    files = _find_files()
    if name not in files:
        raise UserError(f"There is no recipe {name}: expected one of {', '.join(sorted(files))}.")
    own = files[name].parent
    if (folder / own.name).exists():
        raise UserError(f"{folder / own.name} exists already: choose another folder, or remove it.")
    recipes = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files.values() if file.parent == own]
    named = {str((recipe.get(part) or {}).get(key)) for recipe in recipes for part, key in _PLACES}
    for place in sorted(place for place in named if place.startswith("../")):
        shared = Path(place).relative_to("..")
        if not (folder / shared).exists():
            _copy(own.parent / shared, folder / shared)
    _copy(own, folder / own.name)
    return folder / own.name / files[name].name


def _find_files() -> dict[str, Path]:
    """Each recipe's file by its name: that of its folder, or FOLDER/NAME where a folder has several."""
    found = {}
    for file in find_recipes().glob("*/*.yaml"):
        if file.name == "recipe.yaml":
            found[file.parent.name] = file
        elif "\nmodel:\n" in file.read_text(encoding="utf-8"):  # Not a configuration of Accelerate.
            found[f"{file.parent.name}/{file.stem}"] = file
    return found


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
