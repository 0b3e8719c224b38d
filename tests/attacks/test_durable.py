"""Checkpoints that were damaged, data that were changed, and folders that libraries can't write into."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attacks.limited import Outcome, run_limited

from finetune.cli import main
from finetune.recipe.load import load_recipe
from finetune.run.callbacks import TrainerCallback
from finetune.run.experiment import run

TRAINING = {"max_steps": 6, "eval_steps": 2, "keep_best": 2, "average_best": 2}


@pytest.fixture
def work(tmp_path: Path, base_folder: Path, corpus_folder: Path, write_recipe: Callable[..., Path]) -> Path:
    """A folder with a corpus and a recipe of six steps."""
    folder = tmp_path / "work"
    shutil.copytree(corpus_folder, folder / "corpus")
    write_recipe(folder, model={"base": str(base_folder)}, data={"root": "corpus"}, training=TRAINING)
    return folder


@pytest.fixture
def train(work: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`train(*overrides)` runs the command in this process, which has imported all it needs."""

    def run(*overrides: str) -> Outcome:
        capsys.readouterr()
        code = main(["train", str(work / "recipe.yaml"), *overrides, "--output", str(work / "run")])
        return Outcome(code, "".join(capsys.readouterr()), 0)

    return run


@pytest.fixture
def unfinished(work: Path) -> Callable[[], None]:
    """A run that was killed when all its steps were done, and what makes it so again."""

    class Interruption(TrainerCallback):
        def on_train_end(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(load_recipe(work / "recipe.yaml"), work / "run", Interruption())
    shutil.copytree(work / "run", work / "kept")

    def restore() -> None:
        shutil.rmtree(work / "run")
        shutil.copytree(work / "kept", work / "run")

    return restore


def results(work: Path) -> dict[str, bytes]:
    files = [*(work / "run").rglob("*.safetensors"), *(work / "run").rglob("*.pt"), work / "run/report/scores.json"]
    return {str(file.relative_to(work)): file.read_bytes() for file in files}


def damages(file: Path) -> dict[str, Callable[[], object]]:
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0x20
    return {
        "truncated": lambda: file.write_bytes(content[: len(content) // 2]),
        "emptied": lambda: file.write_bytes(b""),
        "flipped": lambda: file.write_bytes(flipped),
        "another": lambda: file.write_bytes(b"\x80\x04cposix\nsystem\n(S'touch exploded'\ntR."),
        "nested": lambda: file.write_bytes(b"[" * 100_000),
        "missing": file.unlink,
        "a pipe": lambda: (file.unlink(), os.mkfifo(file)),
        "a folder": lambda: (file.unlink(), file.mkdir()),
    }


@pytest.mark.slow
def test_whatever_is_damaged_in_the_newest_checkpoint_the_older_one_gives_the_same_bits(
    work: Path, train: Callable[..., Outcome], unfinished: Callable[[], None]
) -> None:
    train().require_clean(0)
    whole = results(work)
    newest = work / "run" / "checkpoints" / "step-000006"
    for name in sorted(file.name for file in newest.iterdir()):
        kinds = list(damages(newest / name))
        for kind in kinds if name in ("manifest.json", "optimizer.pt") else ("truncated", "flipped", "missing"):
            unfinished()
            damages(newest / name)[kind]()
            said = train().require_clean(0)
            unlisted = name == "manifest.json" and kind == "missing"
            assert ("has no manifest.json" if unlisted else "going on from step-000004 instead") in said, (
                name,
                kind,
            )
            assert results(work) == whole, (name, kind)
    assert not list(work.rglob("exploded"))


@pytest.mark.slow
def test_without_a_whole_checkpoint_it_says_what_is_wrong_and_changes_nothing(
    work: Path, train: Callable[..., Outcome], unfinished: Callable[[], None]
) -> None:
    for file in (work / "run" / "checkpoints").glob("step-*/optimizer.pt"):
        file.write_bytes(file.read_bytes()[:1000])
    before = {file: file.read_bytes() for file in (work / "run").rglob("*") if file.is_file()}
    assert "Every checkpoint has been damaged since it was written" in train().require_clean(2)
    assert {file: file.read_bytes() for file in (work / "run").rglob("*") if file.is_file()} == before


@pytest.mark.slow
def test_changed_data_are_refused_until_told(
    work: Path, train: Callable[..., Outcome], unfinished: Callable[[], None]
) -> None:
    table = work / "corpus" / "train" / "metadata.csv"
    table.write_text(table.read_text().replace("d", "e"))
    said = train().require_clean(2)
    assert (
        "vocabulary: was [PAD] | a b c d [UNK], is [PAD] | a b c e [UNK]" in said and "data.allow_changes=true" in said
    )
    train("data.allow_changes=true").require_clean(0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metrics.jsonl", "training_words.txt.gz"])
def test_other_files_of_a_run_that_were_damaged_are_no_traceback(
    work: Path, train: Callable[..., Outcome], unfinished: Callable[[], None], name: str
) -> None:
    for kind in ("truncated", "flipped", "another", "nested", "missing"):
        unfinished()
        damages(work / "run" / name)[kind]()
        said = train().require_clean(0, 2)
        assert "WER" in said or "finetune: " in said


# Where libraries would write, in places where nothing can be made: below a file, and in /proc.
FOLDERS = {
    "caches": {
        "XDG_CACHE_HOME": "{file}/cache",
        "HF_HOME": "{file}/huggingface",
        "HF_DATASETS_CACHE": "{file}/datasets",
        "NUMBA_CACHE_DIR": "{file}/numba",
        "MPLCONFIGDIR": "{file}/matplotlib",
        "TORCHINDUCTOR_CACHE_DIR": "{file}/inductor",
    },
    "home": {"HOME": "{file}/home", "XDG_CACHE_HOME": ""},
    "home elsewhere": {"HOME": "/proc/home", "XDG_CACHE_HOME": "/proc/cache"},
    "temporary": {"TMPDIR": "{file}/tmp", "TEMP": "/proc/temporary", "TMP": "/proc/temporary"},
}


def commands(work: Path, model: Path) -> list[tuple[Any, ...]]:
    """What reads and writes caches: audio headers, a copy of Parquet, compiled code, fonts, temporary files."""
    from datasets import Dataset

    (work / "parquet").mkdir()
    rows = json.loads(
        json.dumps([{"text": "bad cab", "audio": str(file)} for file in (work / "corpus").rglob("*.wav")])
    )
    Dataset.from_list(rows).to_parquet(work / "parquet" / "test.parquet")
    (work / "text.txt").write_text("bad cab\ndad add\nab cab\n")
    shutil.copytree(model, work / "model")
    return [
        ("env",),
        ("check", "recipe.yaml"),
        ("train", "recipe.yaml", "training.num_workers=1", "--output", "run"),
        ("evaluate", "model", "--data", "parquet", "--allow-outside", "--report", "report", "--audio"),
        ("lm", "build", "text.txt", "-o", "lm", "--order", "2"),
        ("lm", "tune", "model", "lm", "--data", "corpus"),
        ("transcribe", "model", "corpus/test", "--decoder", "beam"),
        ("export", "run", "--format", "onnx", "-o", "exported"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_folders_that_can_not_be_written_fail_no_command(work: Path, model_folder: Path, name: str) -> None:
    file = work.parent / "file"
    file.touch()
    variables = {key: value.format(file=file) for key, value in FOLDERS[name].items()}
    for command in commands(work, model_folder):
        run_limited(*command, cwd=work, **variables).require_clean(0)
    assert not list(work.rglob("~*"))


def test_env_is_told_without_caches(work: Path) -> None:
    (work / "file").touch()
    variables = {key: value.format(file=work / "file") for key, value in FOLDERS["caches"].items()}
    said = run_limited("env", cwd=work, **variables, HF_HUB_OFFLINE="1").require_clean(0)
    assert f"note: nothing can be written to {work}/file/huggingface" in said


@pytest.mark.slow
def test_a_home_that_is_read_only_fails_no_command(work: Path, model_folder: Path) -> None:
    """And what is in its cache is read."""
    home = work.parent / "home"
    (home / ".cache" / "huggingface" / "datasets").mkdir(parents=True)
    script = f'mount --bind "{home}" "{home}" && mount -o remount,ro,bind "{home}" && exec "$@"'
    for command in commands(work, model_folder):
        said = _run(["unshare", "-rm", "sh", "-c", script, "sh"], command, work, {"HOME": str(home)})
        assert not [file for file in home.rglob("*") if file.is_file()], said


@pytest.mark.slow
def test_a_user_without_a_name_and_a_home_fails_no_command(work: Path, model_folder: Path) -> None:
    for command in commands(work, model_folder):
        said = _run(["unshare", "-U", "--map-user=12345"], command, work, {})
        assert "note: there is no home" in said
    assert not list(work.rglob("~*"))
    recipe = json.loads((work / "recipe.yaml").read_text())
    (work / "recipe.yaml").write_text(json.dumps({**recipe, "data": {"root": "~/corpus"}}))
    said = _run(["unshare", "-U", "--map-user=12345"], ("recipe", "recipe.yaml"), work, {})
    assert str(work) not in said  # `~` is the home that there is for a while.


def _run(launcher: list[str], command: tuple[Any, ...], work: Path, variables: dict[str, str], code: int = 0) -> str:
    if subprocess.run([*launcher[:2], "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody make namespaces")
    hidden = ("HOME", "XDG_CACHE_HOME", "HF_HOME", "USER", "LOGNAME")
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | variables
    arguments = [*launcher, sys.executable, "-m", "finetune", *map(str, command)]
    done = subprocess.run(arguments, cwd=work, env=environment, capture_output=True, text=True, check=False)
    Outcome(done.returncode, done.stdout + done.stderr, 0).require_clean(code)
    return done.stdout + done.stderr
