"""Models pushed while a run trains, and the run's own at its end."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hub import Hub
from programs import Program, execute, started
from safetensors.torch import load_file
from torch import equal

from finetune.cli import main
from finetune.publishing.background import Publisher
from finetune.publishing.parity import load_utterances, require_parity

TRAIN = [sys.executable, "-m", "finetune", "train"]

# In the place of `finetune push`: keeps what it is to push, or waits to be ended, as the file `mode` says.
STAND_IN = """
import os, pathlib, shutil, sys, time
folder, source = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
if (folder / "waits").exists():
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(60)
shutil.copytree(source, folder / "pushed" / source.name)
print("on the hub: URL")
"""

PIPELINE = """
import json, sys, soundfile
from transformers import pipeline
recognise = pipeline("automatic-speech-recognition", model=sys.argv[1])
files = {file: soundfile.read(file, dtype="float32") for file in sys.argv[2:]}
texts = {file: recognise({"raw": samples, "sampling_rate": rate})["text"] for file, (samples, rate) in files.items()}
print(json.dumps(texts))
"""

# The command with a Publisher whose program is the stand-in; where that waits, training is asked to stop meanwhile.
PATCHED = """
import os, pathlib, signal, sys, time
import finetune.run.checkpoint_export
from finetune.cli import main
from finetune.commands.launch import run

folder = pathlib.Path(sys.argv[2])

class Standing(finetune.run.checkpoint_export.Publisher):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options, program=[sys.executable, *sys.argv[1:3]])

    def offer(self, *arguments):
        super().offer(*arguments)
        if (folder / "waits").exists():
            while not (folder / "pid").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

finetune.run.checkpoint_export.Publisher = Standing
run(lambda: main(sys.argv[3:]))
"""


@pytest.fixture
def hub(writable_hub: Hub) -> Hub:
    """An empty hub, which commands of this process and of others may write to."""
    return writable_hub


@pytest.fixture
def pushed(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the stand-in keeps each model that is pushed."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)

    class Standing(Publisher):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            program = [sys.executable, str(tmp_path / "stand_in.py"), str(tmp_path)]
            super().__init__(*arguments, **options, program=program)

        def offer(self, *arguments: Any) -> None:
            super().offer(*arguments)
            if self._push:
                self._push.process.wait(30)  # So that no model gives way to a newer one.
            self.poll()

    monkeypatch.setattr("finetune.run.checkpoint_export.Publisher", Standing)
    yield tmp_path / "pushed"


@pytest.mark.long
@pytest.mark.parametrize("kind", ["group", "lora", "language"])
def test_each_evaluations_model_is_whole_and_the_last_is_the_finished_one(
    kind: str,
    pushed: Path,
    finetune_run: Callable[..., Path],
    group_norm_base_folder: Path,
    mms_base_folder: Path,
) -> None:
    model: dict[str, dict[str, Any]] = {
        "group": {"base": str(group_norm_base_folder)},
        "lora": {"lora": {"rank": 2}},
        "language": {"base": str(mms_base_folder), "language_adapter": "deu"},
    }
    run = finetune_run(
        "run",
        model=model[kind],
        training={"max_steps": 4, "eval_steps": 2, "learning_rate": 1e-2},
        publishing={"repo_id": "team/tones", "push": "every"},
    )
    assert sorted(path.name for path in pushed.iterdir()) == ["run", "step-000002", "step-000004"]
    assert not (run / "publishing").exists()
    best = json.loads((run / "checkpoints/step-000004/progress.json").read_text())["best"][0][2]
    export, finished = pushed / f"step-{best:06d}" / "model", run / "model"
    names = {path.name for path in finished.iterdir()}
    assert {path.name for path in export.iterdir()} == names
    for name in names - {"README.md", "training.json"}:
        assert (export / name).read_bytes() == (finished / name).read_bytes(), name
    weights = [load_file(pushed / f"step-00000{step}" / "model" / "model.safetensors") for step in (2, 4)]
    assert any(not equal(weights[0][name], weights[1][name]) for name in weights[0])
    utterances = load_utterances(export.parent)
    assert len(utterances) == 6
    if kind != "language":  # Of which all is the same as in the finished one.
        require_parity(export, utterances)
    card = (export / "README.md").read_text()
    assert card.splitlines()[card.splitlines().index("---", 1) :][2] == "# run"
    assert f"These weights are from step {best} of an unfinished training run" in card
    assert "validation" in card and str(run.parent) not in card


def test_weights_are_not_written_again(pushed: Path, finetune_run: Callable[..., Path], monkeypatch: Any) -> None:
    links = []
    offer = Publisher.offer

    def look(self: Publisher, step: int, write: Callable[[Path], None]) -> None:
        def write_and_look(folder: Path) -> None:
            write(folder)
            checkpoint = self.folder.parent / "checkpoints" / f"step-{step:06d}"
            links.append((folder / "model/model.safetensors").samefile(checkpoint / "model.safetensors"))

        offer(self, step, write_and_look)

    monkeypatch.setattr(Publisher, "offer", look)
    finetune_run("run", publishing={"repo_id": "team/tones", "push": "best"}, training={"max_steps": 2})
    assert links == [True]


@pytest.mark.long
def test_only_the_best_so_far_is_pushed_and_by_default_none_before_the_end(
    pushed: Path, finetune_run: Callable[..., Path]
) -> None:
    # A rate of nothing: no evaluation is better than the first.
    training = {"max_steps": 6, "eval_steps": 2, "learning_rate": 1e-12}
    for push, expected in (("best", ["best", "step-000002"]), ("end", ["end"])):
        finetune_run(push, training=training, publishing={"repo_id": "team/tones", "push": push})
        assert sorted(path.name for path in pushed.iterdir()) == expected
        for path in pushed.iterdir():
            path.rename(pushed.parent / f"seen-{path.name}")


@pytest.mark.long
def test_interrupted_training_ends_its_push_and_the_same_command_takes_it_up(
    hub: Hub, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "waits").touch()
    training = {"max_steps": 6, "learning_rate": 1e-12}
    recipe = write_recipe(tmp_path, training=training, publishing={"repo_id": "team/tones", "push": "best"})
    command = [sys.executable, "-c", PATCHED, tmp_path / "stand_in.py", tmp_path, "train", recipe]
    command += ["--output", tmp_path / "run"]
    with started(command) as program:
        said = program.wait()
        assert program.process.returncode == 75, said
    assert not is_running(int((tmp_path / "pid").read_text() or 0))
    assert [path.name for path in (tmp_path / "run/publishing").iterdir()] == ["step-000002"]
    (tmp_path / "waits").unlink()
    execute(command)
    assert sorted(path.name for path in (tmp_path / "pushed").iterdir()) == ["run", "step-000002"]


@pytest.mark.slow
def test_of_several_processes_one_pushes(hub: Hub, write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "train.py").write_text(PATCHED)
    recipe = write_recipe(tmp_path, publishing={"repo_id": "team/tones", "push": "every"}, training={"max_steps": 2})
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*torchrun, tmp_path / "train.py", tmp_path / "stand_in.py", tmp_path, "train", recipe]
    said = execute([*command, "--output", tmp_path / "run"])
    assert sorted(path.name for path in (tmp_path / "pushed").iterdir()) == ["run", "step-000002"]
    assert said.count("step-000002: on the hub: URL") == 1 and "not on the hub" not in said


@pytest.mark.slow
def test_kill_in_mid_upload_and_a_hub_that_goes_away_do_not_harm_the_run_which_is_pushed_later(
    hub: Hub, learned_run: Path, write_recipe: Callable[..., Path], corpus_folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(
        tmp_path,
        model={"base": str(learned_run / "model")},
        text={"vocabulary": "base"},
        training={"max_steps": 2, "learning_rate": 1e-4},
        publishing={"repo_id": "team/tones", "push": "best", "private": True},
    )
    weights = (learned_run / "model/model.safetensors").stat().st_size
    hub.bytes_per_second = weights / 4
    with started([*TRAIN, recipe, "--output", "run"], cwd=tmp_path) as program:
        program.wait_for(lambda: hub.traffic > weights / 2)
        hub.cut_after(0, for_good=True)
        os.killpg(find_push(program), signal.SIGKILL)
        said = program.wait()
    assert program.process.returncode == 0, said
    assert "step-000002 is not on the hub: the push ended with code -9" in said
    assert "can't be reached" in said and "Traceback" not in said
    assert said.splitlines()[-1].startswith("WER ")
    repository = hub.find("team/tones")
    assert repository and repository.access.private
    assert list(repository.read(repository.branches["main"])) == [".gitattributes"]
    hub.bytes_per_second = None
    hub.mend()
    command = said.partition("this pushes it later:\n")[2].splitlines()[0]
    os.chdir(tmp_path)
    assert shlex.split(command)[0] == "finetune" and main(shlex.split(command)[1:]) == 0
    rows = map(json.loads, (tmp_path / "run/report/utterances.jsonl").read_text().splitlines())
    expected = {str(corpus_folder / "test" / row["name"]): row["raw_hypothesis"] for row in rows}
    said = execute([sys.executable, "-W", "ignore", "-c", PIPELINE, "team/tones", *expected])
    assert json.loads(said.splitlines()[-1]) == expected
    assert len(set(expected.values())) > 1


@pytest.mark.slow
def test_weights_that_are_on_the_hub_already_are_not_sent_again_at_the_end(
    hub: Hub, finetune_run: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    run = finetune_run("run", training={"max_steps": 2}, publishing={"repo_id": "team/tones", "push": "best"})
    said = capfd.readouterr().err
    repository = hub.find("team/tones")
    assert repository
    titles = [commit.title for commit in repository.history(repository.branches["main"])]
    assert titles[:2] == ["The model of the run run", "run, step 2: validation WER 100.0 %"]
    assert said.count("on the hub: ") == 2 and "step-000002: on the hub: " in said
    uploads = [path for method, path, _ in hub.requests if method == "PUT"]
    assert len(uploads) == 1
    files = repository.read(repository.branches["main"])
    assert files["model.safetensors"].place.read_bytes() == (run / "model/model.safetensors").read_bytes()
    assert files["README.md"].place.read_bytes() == (run / "model/README.md").read_bytes()


@pytest.mark.parametrize(
    ("publishing", "token", "words"),
    [
        ({"repo_id": "team/to nes"}, None, "'team/to nes' can't be a repository's name"),
        ({"repo_id": "team/tones"}, "", "There is no token for the hub"),
        ({"repo_id": "team/tones"}, "hf_" + "z" * 34, "doesn't know this token"),
        ({"push": "best"}, None, "expected publishing.repo_id"),
    ],
)
def test_what_cannot_be_pushed_is_said_before_training(
    publishing: dict[str, Any],
    token: str | None,
    words: str,
    hub: Hub,
    write_recipe: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    assert main(["train", str(write_recipe(tmp_path, publishing=publishing)), "--output", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert words in said and "zzz" not in said
    assert not (tmp_path / "run").exists()


def find_push(program: Program) -> int:
    """The process in which training pushes."""
    children = psutil.Process(program.process.pid).children()
    (push,) = [child.pid for child in children if "push" in child.cmdline()]
    return push


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
