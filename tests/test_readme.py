"""What the README and the repository promise of each other."""

import re
import tomllib
from pathlib import Path

import pytest

from finetune import __version__

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


def test_map_has_a_line_for_each_room_in_the_order_of_the_imports() -> None:
    listed = re.findall(r"^  (\w+)(?:/|\.py) +\S", README, re.MULTILINE)
    places = {path.stem for path in (ROOT / "finetune").iterdir() if not path.name.startswith("__")}
    assert set(listed) == places
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = project["tool"]["importlinter"]["contracts"][0]
    layers = [name.strip() for layer in contract["layers"] for name in layer.split("|")]
    assert [f"finetune.{name}" for name in listed] == layers


def test_what_the_readme_names_is_there_and_it_is_a_front_page() -> None:
    assert len(README.splitlines()) <= 150
    pages = [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "scripts" / "docs").rglob("*.md")]
    for page in pages:
        for place, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
            target = page.parent / place if place else page
            assert target.exists(), (page.name, place)
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            assert not anchor or anchor in {re.sub(r"[^\w-]", "", each.lower().replace(" ", "-")) for each in headings}
    for name in re.findall(r"`(\w+/\w+\.py)`", README):
        assert (ROOT / "finetune" / name).is_file() or (ROOT / name).is_file(), name
    assert "scripts/docs/index.md" in re.findall(r"\]\(([^)]+)\)", README)


@pytest.mark.parametrize("recipe", sorted(path.parent.name for path in ROOT.glob("recipes/*/recipe.yaml")))
def test_each_recipe_has_a_page_with_its_command(recipe: str) -> None:
    page = (ROOT / "recipes" / recipe / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"finetune (pre)?train recipes/{recipe}/recipe.yaml", page)
    assert "not run here" in page or re.search(r"\d %", page)
    assert f"(recipes/{recipe})" in README


def test_the_page_of_the_baselines_has_the_command_of_each() -> None:
    folder = ROOT / "recipes" / "baselines"
    page = (folder / "README.md").read_text(encoding="utf-8")
    recipes = sorted(folder.glob("*.yaml"))
    assert recipes and all(f"finetune train recipes/baselines/{file.name}\n" in page for file in recipes)
    assert re.search(r"\d %", page) and "(recipes/baselines)" in README


def test_no_placeholder_is_left() -> None:
    pages = [ROOT / "README.md", *(ROOT / "recipes").rglob("README.md"), *(ROOT / "scripts" / "docs").rglob("*.md")]
    placeholder = re.compile(r"\b(?!HF_|RAY_)[A-Z0-9]+_[A-Z]+\b")
    assert not [str(page) for page in pages if placeholder.search(page.read_text(encoding="utf-8"))]


def test_the_citation_has_this_version():
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
