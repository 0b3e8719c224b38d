"""What the README and the repository promise of each other."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(name: str) -> list[str]:
    """The lines of the code block under a marker."""
    found = re.search(rf"<!-- {name} -->\n```\n(.*?)\n```\n<!-- end -->", README, re.DOTALL)
    assert found, name
    return found[1].splitlines()


def test_there_are_two_set_up_commands_of_one_line_each() -> None:
    assert re.findall(r"<!-- (\w+) -->", README) == ["quickstart", "end", "tests", "end"]
    assert len(block("quickstart")) == len(block("tests")) == 1


def test_quickstart_command_names_a_recipe_that_is_there() -> None:
    assert (ROOT / block("quickstart")[0].split()[-1]).is_file()


def test_file_map_has_a_line_for_each_module_and_no_other() -> None:
    listed = set(re.findall(r"^\s+(\w+\.py) +\S", README, re.MULTILINE))
    modules = {
        path.name
        for path in (ROOT / "finetune").rglob("*.py")
        if not path.name.startswith("__") and "metrics" not in path.parts
    }
    assert listed == modules


@pytest.mark.parametrize("recipe", sorted(path.parent.name for path in ROOT.glob("recipes/*/recipe.yaml")))
def test_each_recipe_has_a_page_with_its_command(recipe: str) -> None:
    page = (ROOT / "recipes" / recipe / "README.md").read_text(encoding="utf-8")
    assert f"finetune train recipes/{recipe}/recipe.yaml" in page
    assert "not run here" in page or re.search(r"\d %", page)
    assert f"(recipes/{recipe})" in README


def test_no_placeholder_is_left() -> None:
    pages = [ROOT / "README.md", *(ROOT / "recipes").rglob("README.md")]
    placeholder = re.compile(r"\b(?!HF_)[A-Z0-9]+_[A-Z]+\b")
    assert not [str(page) for page in pages if placeholder.search(page.read_text(encoding="utf-8"))]
