"""Each block of the manual that a reader can copy: commands are run, Python is run, recipes are loaded."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from manual import DOCS, PAGES, Block, find_blocks, name_of, split

from finetune.cli import build_parser, main
from finetune.recipe.load import Recipe, load_recipe

BLOCKS = [block for page in PAGES for block in find_blocks(page)]
COMMANDS = [block for block in BLOCKS if block.commands]
# Blocks outside of the manual that other tests find by their names, and those that the slow tests below run.
OWN_TESTS = ("quickstart", "tests", "backup", "restore", "slow")
RUN = sorted({block.page for block in COMMANDS if DOCS in block.page.parents})


def test_each_block_of_commands_is_run_or_says_why_not() -> None:
    silent = [block for block in COMMANDS if DOCS not in block.page.parents and not block.reason]
    silent = [block for block in silent if block.comment not in OWN_TESTS]
    assert not [(name_of(block.page), block.text) for block in silent]
    assert all(len(block.reason.split()) > 1 for block in COMMANDS if block.reason is not None)
    assert len([block for block in COMMANDS if not block.reason]) > 20


def test_each_command_of_the_manual_has_the_options_that_it_is_shown_with() -> None:
    parser = build_parser()
    checked = 0
    for block in COMMANDS:
        for command in block.commands:
            command = re.split(r" (?:>|&&|\|) ", command)[0]
            if not command.startswith("finetune ") or "..." in command or "$again" in command:
                continue
            words = split(command)
            checked += 1
            try:
                options, overrides = parser.parse_known_args(words[1:])
            except SystemExit:
                pytest.fail(f"{name_of(block.page)}: {command}")
            assert not overrides or (hasattr(options, "overrides") and "=" in overrides[0]), command
    assert checked > 50


def start_and_stop(words: list[str]) -> None:
    """Start a service at a free port, wait until it is ready, and stop it."""
    command = [sys.executable, "-m", "finetune", *words[1:], "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "http://" in line:
                process.send_signal(signal.SIGTERM)
        assert process.wait() == 0, "".join(lines)
        assert "http://" in "".join(lines)


def run(block: Block) -> None:
    """Run a block's commands in the working directory; `finetune` in this process, and nothing is installed."""
    for command in block.commands:
        words = split(command)
        if words[0] == "pip":
            continue
        if words[:2] == ["finetune", "serve"] and words[2] != "keys":
            start_and_stop(words)
            continue
        if words[0] == "finetune":
            assert main(words[1:]) == 0, command
            continue
        if words[0] == "accelerate":
            words = [sys.executable, "-m", "accelerate.commands.accelerate_cli", *words[1:]]
        elif words[0] in ("python", "sphinx-build"):
            words = [sys.executable, *(["-m", "sphinx"] if words[0] == "sphinx-build" else []), *words[1:]]
        subprocess.run(words, check=True, timeout=600)


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_commands_of_a_page_run_in_their_order(page: Path, sandbox: Path) -> None:
    for block in find_blocks(page):
        if block.commands and not block.reason and block.comment != "slow":
            run(block)


@pytest.mark.slow
@pytest.mark.parametrize(
    "block", [block for block in COMMANDS if block.comment == "slow"], ids=lambda block: name_of(block.page)
)
def test_commands_that_take_long_run(block: Block, sandbox: Path) -> None:
    if "--output runs/mine" in block.text:
        shutil.rmtree(sandbox / "runs/mine")
    if "sphinx-build" in block.text:  # It builds this repository, not the sandbox.
        for name in ("scripts", "recipes", "finetune"):
            shutil.copytree(DOCS.parents[1] / name, sandbox / name, dirs_exist_ok=True)
        for name in ("pyproject.toml", "README.md", "SECURITY.md"):
            shutil.copy(DOCS.parents[1] / name, sandbox)
    run(block)


@pytest.mark.parametrize(
    "page", sorted({block.page for block in BLOCKS if block.language == "python"}), ids=lambda page: name_of(page)
)
def test_python_of_a_page_runs(page: Path, sandbox: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speech = np.load("speech.npy")
    names: dict[str, Any] = {"chunks": np.array_split(speech, 20)}
    for block in find_blocks(page):
        if block.language == "python" and not block.reason:
            exec(compile(block.text, str(page), "exec"), names)
    assert capsys.readouterr().err == ""


def test_recipes_of_the_manual_are_valid(sandbox: Path) -> None:
    loaded = 0
    for block in BLOCKS:
        values = yaml.safe_load(block.text) if block.language == "yaml" else None
        if not isinstance(values, dict) or not set(values) <= set(Recipe.model_fields):
            continue
        recipe = {"model": {"base": "facebook/wav2vec2-base"}, "data": {"root": "corpus"}} | values
        Path("one.yaml").write_text(yaml.safe_dump(recipe))
        load_recipe(Path("one.yaml"))
        loaded += 1
    assert loaded >= 4


@pytest.mark.slow
def test_each_metric_and_each_file_of_a_run_is_described(sandbox: Path) -> None:
    assert main(["train", "recipe.yaml", "--output", "runs/new"]) == 0
    page = (DOCS / "reference" / "metrics.md").read_text(encoding="utf-8")
    names = {name for line in Path("runs/new/metrics.jsonl").read_text().splitlines() for name in json.loads(line)}
    assert len(names) > 8 and not [name for name in names if f"`{name}`" not in page]
    page = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    ours = {place.name for place in Path("runs/new").iterdir()} | {"report/index.html", "report/scores.json"}
    assert not [name for name in ours - {"model", "report", "checkpoints", ".lock"} if f"`{name}`" not in page]
    model = {place.name for place in Path("runs/new/model").iterdir()}
    assert not [name for name in model if f"`{name}`" not in page]
