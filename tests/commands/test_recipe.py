"""Recipes that come with the package: listed, copied, and inside the wheel."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.recipe.installed import find_recipes

ROOT = Path(__file__).parents[2]


def test_all_recipes_are_listed_with_their_purpose(capsys):
    assert main(["recipe", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    single = {file.parent.name for file in (ROOT / "recipes").glob("*/recipe.yaml")}
    assert lines[0::2] == sorted({*single, *(f"baselines/{name}" for name in ("base", "cnn", "lstm", "random"))})
    assert all(line.startswith("    ") and line.endswith(".") for line in lines[1::2])


def test_a_copied_recipe_has_what_it_refers_to(tmp_path, capsys):
    assert main(["recipe", "an4", "--copy", str(tmp_path)]) == 0
    assert f"finetune train {tmp_path / 'an4' / 'recipe.yaml'}" in capsys.readouterr().out
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()} >= {
        "an4/recipe.yaml",
        "an4/README.md",
        "quickstart/base/model.safetensors",
    }
    assert main(["recipe", str(tmp_path / "an4" / "recipe.yaml"), "data.root=x"]) == 0
    assert f"base: {tmp_path / 'quickstart' / 'base'}" in capsys.readouterr().out
    assert main(["recipe", "prompts", "--copy", str(tmp_path)]) == 0  # Its base is there already.
    assert main(["recipe", "pretraining", "--copy", str(tmp_path)]) == 0
    assert f"finetune pretrain {tmp_path / 'pretraining' / 'recipe.yaml'}" in capsys.readouterr().out


def test_one_of_several_recipes_is_copied_with_the_others(tmp_path, capsys):
    assert main(["recipe", "baselines/lstm", "--copy", str(tmp_path)]) == 0
    assert f"finetune train {tmp_path / 'baselines' / 'lstm.yaml'}" in capsys.readouterr().out
    for name in ("lstm", "cnn", "random", "base"):
        assert main(["recipe", str(tmp_path / "baselines" / f"{name}.yaml")]) == 0
        assert f"root: {tmp_path / 'quickstart' / 'corpus'}" in capsys.readouterr().out
    assert (tmp_path / "quickstart/base/model.safetensors").is_file()
    assert main(["recipe", "baselines/cnn", "--copy", str(tmp_path)]) == 2
    assert "baselines exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["an5", "--copy", "{folder}"], "There is no recipe an5: expected one of an4, base,"),
        (["../an4", "--copy", "{folder}"], "There is no recipe ../an4"),
        (["own_folder", "--copy", "{folder}"], "own_folder exists already"),
        ([], "Expected a recipe's YAML file, or --list"),
    ],
)
def test_what_cannot_be_copied_is_refused_in_a_sentence(arguments, sentence, tmp_path, capsys):
    (tmp_path / "own_folder").mkdir()
    assert main(["recipe", *(each.format(folder=tmp_path) for each in arguments)]) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == [tmp_path / "own_folder"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with what the wheel holds that is built from the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"

    def run(what: str, source: Path) -> Path:
        command = [sys.executable, "-c", build, what, str(folder)]
        output = subprocess.run(command, cwd=source, capture_output=True, text=True, check=True).stdout
        return folder / output.splitlines()[-1]

    copy = folder / "checkout"
    files = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    archive = run("build_sdist", copy)
    subprocess.run(["tar", "-xzf", archive, "-C", folder], check=True)
    wheel = run("build_wheel", folder / archive.name.removesuffix(".tar.gz"))
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(folder / "installed")
    return folder / "installed"


def run_installed(installed: Path, *arguments: str, cwd: Path) -> str:
    """What a command of the wheel's package prints, outside the checkout."""
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); from finetune.cli import main; sys.exit(main())"
    found = subprocess.run([sys.executable, "-P", "-c", code, *arguments], cwd=cwd, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.long
def test_the_wheel_holds_all_that_is_needed(installed, tmp_path):
    package, recipes = ROOT / "finetune", find_recipes()
    expected = {
        file.relative_to(ROOT) for file in package.rglob("*") if "__pycache__" not in file.parts and file.is_file()
    }
    expected |= {Path("finetune/recipes") / file.relative_to(recipes) for file in recipes.rglob("*") if file.is_file()}
    assert [str(name) for name in sorted(expected) if not (installed / name).is_file()] == []
    assert "quickstart" in run_installed(installed, "recipe", "--list", cwd=tmp_path)


@pytest.mark.slow
def test_the_quickstart_of_the_wheel_learns(installed, tmp_path):
    run_installed(installed, "recipe", "quickstart", "--copy", ".", cwd=tmp_path)
    printed = run_installed(installed, "train", "quickstart/recipe.yaml", "--output", "run", cwd=tmp_path)
    assert float(printed.partition("WER ")[2].split()[0]) < 15
