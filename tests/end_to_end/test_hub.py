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
from hub import COMMIT, TOKEN, Hub, serve
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, constants
from programs import execute

# The command, with windows of few rows and without the wait of `datasets` for pyarrow's threads.
SMALL = """
import sys, datasets.config, finetune.run.preparation, finetune.data.streaming as streaming
from finetune.cli import main
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
finetune.run.preparation.SAMPLE = streaming._WINDOW = streaming._SHUFFLED = 4
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def hub(tmp_path: Path, corpus_folder: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
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
    for name, value in (("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
        monkeypatch.setattr(constants, name, value)  # For the tests' own process, which writes to the hub.
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


@pytest.mark.long
def test_a_run_keeps_to_the_commits_that_it_was_begun_with(
    hub: Hub,
    finetune: Callable[..., "subprocess.CompletedProcess[str]"],
    tmp_path: Path,
    write_recipe: Callable[..., Path],
    base_folder: Path,
) -> None:
    """On a base that was fine-tuned with other characters, and that changes its size while the run is interrupted."""
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    other = tmp_path / "other"
    other.mkdir()
    (other / "vocab.json").write_text(
        json.dumps({token: i for i, token in enumerate(["<pad>", "|", "<unk>", *"хуёz"])})
    )
    tokenizer = Wav2Vec2CTCTokenizer(str(other / "vocab.json"), pad_token="<pad>", unk_token="<unk>")
    config = Wav2Vec2Config.from_pretrained(base_folder, vocab_size=len(tokenizer))
    for part in (Wav2Vec2ForCTC(config), tokenizer, Wav2Vec2FeatureExtractor(return_attention_mask=True)):
        part.save_pretrained(other)
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    api.create_repo("team/other")

    def add(**files: bytes | Path) -> list[CommitOperationAdd]:
        return [CommitOperationAdd(name.replace("_json", ".json"), content) for name, content in files.items()]

    files = [CommitOperationAdd(file.name, file) for file in other.iterdir()]
    first = api.create_commit("team/other", files, commit_message="first").oid
    recipe = write_recipe(tmp_path, model={"base": "team/other@main"}, data={"root": "team/tones"})
    done = finetune("train", str(recipe), "--output", "run")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report" / "scores.json").read_text())
    assert report["utterances"] == 6
    card = ModelCard.load(tmp_path / "run" / "model" / "README.md")
    assert (card.data.base_model, card.data.base_model_relation) == ("team/other", "finetune")
    assert card.data.datasets == ["team/tones"]
    for result in card.data.eval_results:
        assert (result.dataset_type, result.dataset_split, result.dataset_revision) == ("team/tones", "test", COMMIT)
    # The commits that were used are named, and the published recipe keeps to them.
    assert f"It is `team/other` (revision {first})" in card.text and f"`team/tones` (revision {COMMIT})" in card.text
    assert "finetune train recipe.yaml\n" in card.text
    published = yaml.safe_load((tmp_path / "run" / "model" / "recipe.yaml").read_text())
    assert (published["model"]["base"], published["model"]["revision"]) == ("team/other", first)
    assert set("abcd") < set(json.loads((tmp_path / "run" / "model" / "vocab.json").read_text()))
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert written["model"]["revision"] == "main"
    assert written["provenance"]["commits"] == {"team/other@main": first, "datasets/team/tones": COMMIT}

    # Without its report a run is unfinished, and the same command goes on.
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    for folder in ("report", "model"):
        shutil.rmtree(tmp_path / "run" / folder)
    shutil.rmtree(tmp_path / "cache" / "hub" / "models--team--other")
    values = json.loads((other / "config.json").read_text())
    changed = json.dumps({**values, "hidden_size": 64}).encode()
    second = api.create_commit("team/other", add(config_json=changed), commit_message="second").oid
    assert second != first
    asked = len(hub.requests)
    done = finetune("train", str(recipe), "--output", "run")
    assert done.returncode == 0, done.stderr
    assert "going on from step 4" in done.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == weights
    fetched = {path for _, path, _ in hub.requests[asked:] if path.startswith("/team/other/resolve/")}
    assert fetched and all(f"/resolve/{first}/" in path for path in fetched)


@pytest.mark.long
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


@pytest.mark.long
def test_what_the_hub_does_not_have_is_one_sentence(
    finetune: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    for data, model, words in (
        ({"root": "team/tones", "revision": "v9"}, {}, "team/tones has no revision v9"),
        ({}, {"base": "team/nothing"}, "team/nothing is neither a model folder here nor a model on http://127.0.0.1"),
    ):
        done = finetune("check", str(write_recipe(tmp_path, data=data, model=model)))
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert words in done.stderr


def test_another_commit_of_the_data_is_not_taken_for_the_one_that_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    """As `datasets` does without a network."""
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    added = [CommitOperationAdd("README.md", b"---\nlanguage: en\n---\n")]
    moved = api.create_commit("team/tones", added, commit_message="card", repo_type="dataset").oid
    program = """
import sys
from finetune.data.sources import Source, load_splits
from finetune.errors import UserError
for revision in sys.argv[1:]:
    try:
        print(len(load_splits(Source("team/tones", revision=revision))["test"]))
    except UserError as error:
        print(error)
"""
    variables = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
    variables["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    command = [sys.executable, "-W", "ignore", "-c", program]
    assert execute([*command, moved], **variables, HF_HUB_OFFLINE="0").splitlines()[-1] == "6"
    said = execute([*command, moved, COMMIT], **variables, HF_HUB_OFFLINE="1").splitlines()
    assert "6" in said
    assert said[-1].startswith("The hub can't be reached, and the cache has another commit of team/tones than c0ff")


def test_what_a_model_may_have_is_asked_of_the_hub_or_known_from_before(hub: Hub, tmp_path: Path) -> None:
    """Its normalisation ignored in silence, a model's figure would be wrong."""
    base = hub.folder / "models" / "team" / "base"
    (base / ".gitattributes").write_text("")
    (base / "steps.json").write_text('{"steps": ["lowercase"]}')
    program = """
import sys
from finetune.resources.storage import find_model_file
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
