"""A full disk or a kill at each write, fsync, rename and deletion: the same command then ends with the same bits."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import WORDS, write_corpus
from hub import TOKEN, Hub, serve
from programs import started

ROOT = Path(__file__).parents[2]
KINDS = ("fails", "kills")
SECONDS = 1100.0  # of one command's points; training has two hundred of each kind

# Two checkpoints, two evaluations, and weights that are among the best.
TRAINING = {"max_steps": 2, "eval_steps": 1, "keep_checkpoints": 1, "keep_best": 2, "average_best": 2}
TRAIN = ("train", None, ["train", "{work}/recipe.yaml", "--output", "{work}/run"])
BUILD = ("lm build", "train", ["lm", "build", "{work}/text.txt", "-o", "{work}/lm", "--order", "2"])
COMMANDS = [
    TRAIN,
    (
        "evaluate",
        "train",
        ["evaluate", "{work}/run/model", "--data", "{work}/corpus", "--json", "{work}/scores.json"],
    ),
    (
        "evaluate to a report",
        "train",
        ["evaluate", "{work}/run/model", "--data", "{work}/corpus", "--report", "{work}/report", "--audio"],
    ),
    ("transcribe", "train", ["transcribe", "{work}/run/model", "{work}/corpus/test", "--format", "json", "--resume"]),
    BUILD,
    ("lm tune", "lm build", ["lm", "tune", "{work}/run/model", "{work}/lm", "--data", "{work}/corpus"]),
    ("lm tune again", "lm tune", ["lm", "tune", "{work}/run/model", "{work}/lm", "--data", "{work}/corpus"]),
    ("export", "train", ["export", "{work}/run", "-o", "{work}/exported", "--format", "onnx"]),
    ("push", "train", ["push", "{work}/run", "team/tones-{point}"]),
]


@pytest.fixture
def before(tmp_path: Path, base_folder: Path, write_recipe: Callable[..., Path]) -> Path:
    """What the commands begin with: a recipe, its data and its base, and a text."""
    folder = tmp_path / "before"
    for split, transcripts in {"train": WORDS[:4], "validation": WORDS[4:], "test": WORDS[4:]}.items():
        write_corpus(folder / "corpus" / split, transcripts)
    shutil.copytree(base_folder, folder / "base")
    (folder / "text.txt").write_text("bad cab\ndad add\nab cab\n")
    for name in ("cache", "tmp"):
        (folder / name).mkdir()
    write_recipe(folder, model={"base": "base"}, data={"root": "corpus"}, training=TRAINING)
    return tmp_path


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """An empty hub."""
    with serve(tmp_path / "hub") as served:
        yield served


def try_points(
    folder: Path, hub: Hub, commands: Sequence[Any], most: int | None, *names: str, kinds: Sequence[str] = KINDS
) -> dict[str, int]:
    """How many points of the commands of these names were tried; none may have gone wrong."""
    listed = [
        {"name": name, "after": after, "arguments": arguments, "most": most if name in names else 0}
        for name, after, arguments in commands
    ]
    specification = folder / "specification.json"
    specification.write_text(json.dumps({"folder": str(folder), "kinds": list(kinds), "commands": listed}))
    variables = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN}
    variables |= {"XDG_CACHE_HOME": str(folder / "work" / "cache"), "TMPDIR": str(folder / "work" / "tmp")}
    variables |= {"HF_HOME": str(folder / "home"), "NO_PROXY": "127.0.0.1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, Path(__file__).with_name("campaign.py"), specification]
    with started(command, folder, **variables) as program:
        said = program.wait(SECONDS)
    found = json.loads(said.splitlines()[-1])
    print(f"{sum(found['tried'].values())} points tried: {found['tried']}")
    assert not found["wrong"], "\n".join(found["wrong"])
    tried: dict[str, int] = found["tried"]
    return tried


@pytest.mark.slow
def test_some_points_of_building_a_language_model_and_of_training(before: Path, hub: Hub) -> None:
    build = (BUILD[0], None, BUILD[2])
    assert try_points(before, hub, [build, TRAIN], 1, "lm build", "train") == {"lm build": 2, "train": 2}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name, _, _ in COMMANDS])
def test_every_point(before: Path, hub: Hub, name: str, kind: str) -> None:
    after = {each: before_it for each, before_it, _ in COMMANDS}
    needed: list[str | None] = [name]
    while needed[-1]:
        needed.append(after[needed[-1]])
    commands = [command for command in COMMANDS if command[0] in needed]
    tried = try_points(before, hub, commands, None, name, kinds=[kind])
    assert set(tried) == {name}
    if name == "push":
        assert len(list((before / "hub" / "history" / "models" / "team").iterdir())) == tried[name] + 2
