"""By name from a hub, as users have them: a server on loopback, and the command in a process that is told of it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from hub import COMMIT, Hub, serve
from huggingface_hub import ModelCard
from programs import execute

# The command, with windows of few rows and without the wait of `datasets` for pyarrow's threads.
SMALL = """
import sys, datasets.config, finetune.preparation, finetune.data.streaming as streaming
from finetune.cli import main
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
finetune.preparation.SAMPLE = streaming._WINDOW = streaming._SHUFFLED = 4
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def hub(tmp_path: Path, corpus_folder: Path, base_folder: Path) -> Iterator[Hub]:
    """The encoder as team/base, and the tones as team/tones in Parquet, with 72 shards of one training utterance."""
    folder = tmp_path / "hub"
    shutil.copytree(base_folder, folder / "models" / "team" / "base")
    data = folder / "datasets" / "team" / "tones" / "data"
    data.mkdir(parents=True)
    for split, shards in (("train", 72), ("validation", 1), ("test", 1)):
        rows = [line.split(",") for line in (corpus_folder / split / "metadata.csv").read_text().splitlines()[1:]]
        for shard in range(shards):
            chosen = rows if shards == 1 else [rows[shard % len(rows)]]
            cells = [{"bytes": (corpus_folder / split / row[0]).read_bytes(), "path": row[0]} for row in chosen]
            table = pyarrow.table({"audio": cells, "sentence": [row[1] for row in chosen]})
            pyarrow.parquet.write_table(table, data / f"{split}-{shard:05d}-of-{shards:05d}.parquet")
    with serve(folder) as served:
        yield served


@pytest.fixture
def finetune(hub: Hub, tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """`finetune(*arguments)` runs the command against the hub, with a cache of its own."""

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
        environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
        environment["NO_PROXY"] = "127.0.0.1"
        command = [sys.executable, "-c", SMALL, *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def test_a_base_and_a_data_set_by_name(
    finetune: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    data = {"root": "team/tones", "revision": COMMIT}
    recipe = write_recipe(tmp_path, model={"base": "team/base"}, data=data, training={"max_steps": 2})
    done = finetune("train", str(recipe), "--output", "run")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report" / "scores.json").read_text())
    assert report["utterances"] == 6
    card = ModelCard.load(tmp_path / "run" / "model" / "README.md")
    assert (card.data.base_model, card.data.base_model_relation) == ("team/base", "finetune")
    assert card.data.datasets == ["team/tones"]
    for result in card.data.eval_results:
        assert (result.dataset_type, result.dataset_split, result.dataset_revision) == ("team/tones", "test", COMMIT)
    # The commits that were used are named, also where the recipe names none, and the published recipe keeps to them.
    assert f"It is `team/base` (revision {COMMIT})" in card.text and f"`team/tones` (revision {COMMIT})" in card.text
    assert "finetune train recipe.yaml\n" in card.text
    published = yaml.safe_load((tmp_path / "run" / "model" / "recipe.yaml").read_text())
    assert (published["model"]["base"], published["model"]["revision"]) == ("team/base", COMMIT)


def test_a_data_set_is_streamed_without_being_fetched_whole(
    hub: Hub,
    finetune: Callable[..., "subprocess.CompletedProcess[str]"],
    tmp_path: Path,
    write_recipe: Callable[..., Path],
) -> None:
    data = {"root": "team/tones", "streaming": True}
    training = {"max_steps": 1, "batch_seconds": 1.7}
    done = finetune("train", str(write_recipe(tmp_path, data=data, training=training)), "--output", "run")
    assert done.returncode == 0, done.stderr
    assert "streamed, of the first rows 4 utterances" in done.stderr
    fetched = {Path(name).name for name in hub.sent if "/data/train-" in name}
    assert 4 < len(fetched) < 60  # In a worker `datasets` reads ahead in some 16 shards.
    kept = [file for file in (tmp_path / "cache").rglob("*") if file.suffix in (".arrow", ".parquet", ".wav")]
    assert not kept


def test_what_the_hub_does_not_have_is_one_sentence(
    finetune: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    for data, model in (
        ({"root": "team/nothing"}, {}),
        ({"root": "team/tones", "revision": "v9"}, {}),
        ({}, {"base": "team/nothing"}),
    ):
        done = finetune("check", str(write_recipe(tmp_path, data=data, model=model)))
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "team/nothing" in done.stderr or "v9" in done.stderr


def test_what_a_model_may_have_is_asked_of_the_hub_or_known_from_before(hub: Hub, tmp_path: Path) -> None:
    """Its normalisation ignored in silence, a model's figure would be wrong."""
    base = hub.folder / "models" / "team" / "base"
    (base / ".gitattributes").write_text("")
    (base / "steps.json").write_text('{"steps": ["lowercase"]}')
    program = """
import sys
from finetune.data.storage import find_model_file
from finetune.errors import UserError
for name in sys.argv[1:]:
    try:
        found = find_model_file("team/base", name)
        print(found and found.read_text())
    except UserError as error:
        print(error)
"""

    def ask(*names: str, offline: bool = False) -> list[str]:
        variables = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
        variables["HF_HUB_OFFLINE"] = str(int(offline))
        return execute([sys.executable, "-W", "ignore", "-c", program, *names], **variables).splitlines()

    assert ask("steps.json", "other.json") == ['{"steps": ["lowercase"]}', "None"]
    kept = ask("steps.json", "other.json", "third.json", offline=True)
    assert kept[:2] == ['{"steps": ["lowercase"]}', "None"]
    assert kept[2].startswith("team/base may or may not have third.json, and the hub can't be reached")
    ask(".gitattributes")  # As who fetches all of it does.
    assert ask("third.json", offline=True) == ["None"]
