"""An improvement that is killed at random moments, and started again by the same command."""

import multiprocessing
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetune.cli import main
from finetune.feedback.snapshots import list_snapshots
from finetune.feedback.store import Store
from finetune.feedback.versions import Versions
from finetune.files import hash_folder, write_text

from .test_improve_command import fill

KILLS, SEED = 30, 0


def check_store(folder: Path, corrected: int) -> int:
    """What is there is whole, and the champion is the old one or the new one; returns the number of versions."""
    with closing(Store(folder)) as store:
        assert store.count()["corrected"]["utterances"] == corrected
        versions = Versions(store)
        found = versions.all()
        for version in found:
            assert hash_folder(versions.path(version.name)) == version.digest
        champion = versions.champion
        assert (
            champion in [version.name for version in found] and (versions.folder / "champion" / "config.json").exists()
        )
        if champion != "first":  # Only a candidate that passed takes its place.
            assert versions.get("champion").gate["passed"]
        known = list_snapshots(store)
        for snapshot in known:
            assert len(list(Path(snapshot.path).rglob("*.wav"))) == corrected
            assert (Path(snapshot.path) / "snapshot.json").is_file()
        made = store.folder / "snapshots"
        assert len(list(made.glob("[!.]*"))) <= len(known) + 1 if made.is_dir() else not known
        return len(found)


def improve(command: list[str], log: Path) -> None:
    """Run the command in a process of its own."""
    with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
        sys.exit(main(command))


def run_and_kill(command: list[str], log: Path, moment: float | None) -> int | None:
    """Run a command, and kill it and its processes after so many seconds; returns its exit code, None for a kill.

    Its process is a fork of one that has imported torch, which takes most of the time of a process of its own.
    """
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=improve, args=(command, log))
    process.start()
    process.join(moment)
    if process.exitcode is not None:
        return process.exitcode
    assert process.pid is not None
    running = psutil.Process(process.pid)
    for each in [*running.children(recursive=True), running]:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.join()
    return None


@pytest.mark.slow
def test_a_killed_improvement_goes_on_and_loses_nothing(
    champion: Path, improve_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    multiprocessing.set_forkserver_preload(["finetune.commands.improve", "finetune.run.improvement"])
    template, recipe, log = tmp_path / "template", tmp_path / "recipe.yaml", tmp_path / "log"
    write_text(recipe, improve_recipe(max_steps=20).to_yaml())
    with closing(Store.create(template, test_share=0.3, validation_share=0.2)) as store:
        versions = Versions(store)
        versions.add(champion, "ann", "first")
        versions.promote("first", "ann")
        fill(store, 40)

    def write_command(folder: Path) -> list[str]:
        # The time of a tiny model is chance, and so may be its verdict.
        return ["improve", str(folder), str(recipe), "--margin", "1", "--promote", "--who", "ann"]

    shutil.copytree(template, tmp_path / "whole", symlinks=True)
    begin = time.monotonic()
    assert run_and_kill(write_command(tmp_path / "whole"), log, None) == 0, log.read_text()
    seconds = time.monotonic() - begin
    assert check_store(tmp_path / "whole", 40) == 2
    rounds, killed = 0, Counter[str]()
    while killed.total() < KILLS:
        rounds += 1
        folder, ended = tmp_path / f"round-{rounds}", None
        shutil.copytree(template, folder, symlinks=True)
        while ended is None:
            left = KILLS - killed.total()
            ended = run_and_kill(write_command(folder), log, chance.uniform(0, seconds) if left else None)
            number = check_store(folder, 40)
            if ended is None:
                killed[name_stage(folder / "improvements" / "version-001", number)] += 1
        assert ended == 0 and check_store(folder, 40) == 2, log.read_text()
        with closing(Store(folder)) as store:  # The last call promoted what passed, also where it was killed before.
            passed = Versions(store).get("version-001").gate["passed"]
            assert Versions(store).champion == ("version-001" if passed else "first")
        shutil.rmtree(folder)
    print(f"{killed.total()} kills in {rounds} improvements of {seconds:.0f} s: {dict(killed)}")
    assert len(killed) > 2


def name_stage(output: Path, versions: int) -> str:
    """How far a killed improvement had come."""
    if versions > 1:
        return "version"
    stages = {"gate.json": "gate", "model": "model", "averaging.json": "averaging", "training/report": "trained"}
    stages |= {"training": "training", "plan.json": "plan"}
    return next((stage for name, stage in stages.items() if (output / name).exists()), "before")
