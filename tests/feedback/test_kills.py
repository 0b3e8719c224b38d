"""Commands and processes that are killed at random moments: nothing acknowledged is lost, and nothing is half-written.

The same command again completes what it was about to do.
"""

import csv
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from feedback.conftest import make_audio, make_utterance
from programs import Program, execute, started

from finetune.cli import main
from finetune.feedback.snapshots import list_snapshots
from finetune.feedback.store import Store
from finetune.feedback.versions import Versions
from finetune.files import hash_folder

MakeStore = Callable[..., Store]
WORKER = Path(__file__).with_name("worker.py")
SEED = 0


def kill_at(program: Program, seconds: float) -> bool:
    """Kill a command and all of its processes after some seconds; returns whether it was running still."""
    end = time.monotonic() + seconds
    while program.process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    was_running = program.process.poll() is None
    program.signal_all(signal.SIGKILL)
    program.process.wait()
    return was_running


def require_whole(store: Store, corrected: int, name: str) -> str:
    """A snapshot has all utterances and their audio; returns its hash."""
    (snapshot,) = (each for each in list_snapshots(store) if each.name == name)
    folder = Path(snapshot.path)
    assert (folder / "snapshot.json").is_file() and not (folder / ".index").exists()
    rows = 0
    for table in folder.glob("*/metadata.csv"):
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                number = int(row["transcription"].split()[1])
                assert (table.parent / row["file_name"]).read_bytes() == make_audio(number)
                rows += 1
    assert rows == corrected
    return snapshot.content_hash


def check_exports(store: Store, folder: Path, times: int, corrected: int = 60) -> Counter[str]:
    """An export is killed, and called again; returns how far it had come each time."""
    chance, found = random.Random(SEED), Counter[str]()
    for number in range(corrected):
        store.add(make_utterance(number, speaker=f"speaker {number % 20}"), "ann", f"word {number}")
    begin = time.monotonic()
    assert main(["feedback", "export", str(store.folder), str(folder / "whole"), "--who", "ann"]) == 0
    seconds = time.monotonic() - begin
    expected = require_whole(store, corrected, "whole")
    for turn in range(times):
        place = folder / f"s{turn}"
        with started([sys.executable, WORKER, "export", store.folder, place]) as program:
            program.wait_for(lambda program=program: "begin\n" in program.said() or program.process.poll() is not None)
            kill_at(program, chance.uniform(0, 1.5) * seconds)
            acknowledged = "done" in program.said()
        with closing(Store(store.folder)) as opened:
            known = place.name in {each.name for each in list_snapshots(opened)}
            assert known or not acknowledged
            if known:
                assert require_whole(opened, corrected, place.name) == expected
        found["acknowledged" if acknowledged else "known" if known else "placed" if place.exists() else "begun"] += 1
        # Again: a snapshot that is known does not change, and says so.
        assert main(["feedback", "export", str(store.folder), str(place), "--who", "ann"]) == (2 if known else 0)
        assert require_whole(store, corrected, place.name) == expected
        assert not list(folder.glob(".*.partial"))
    return found


def check_switches(store: Store, folder: Path, times: int) -> Counter[str]:
    """Versions are added, promoted and rolled back until a kill; returns the last step before each."""
    chance, found = random.Random(SEED), Counter[str]()
    (folder / "model").mkdir()
    for number in range(20):
        (folder / "model" / f"weights-{number}").write_bytes(bytes([number]) * 100_000)
    (folder / "model" / "config.json").write_text("{}")
    digest = hash_folder(folder / "model")
    versions = Versions(store)
    versions.add(folder / "model", "ann", "first")
    versions.promote("first", "ann")
    acknowledged = {"first"}
    for _ in range(times):
        with started([sys.executable, WORKER, "switch", store.folder, folder / "model"]) as program:
            program.wait_for(lambda program=program: "begin\n" in program.said())
            assert kill_at(program, chance.uniform(0, 0.8))
            steps = [line.split() for line in program.said().splitlines(keepends=True) if line.endswith("\n")][1:]
        acknowledged |= {name for action, name in steps if action == "add"}
        action, name = steps[-1] if steps else ("rollback", "first")
        found[action if steps else "none"] += 1
        with closing(Store(store.folder)) as opened:
            after = Versions(opened)
            names = [each.name for each in after.all()]
            assert acknowledged <= set(names)
            assert all(hash_folder(after.path(each)) == digest for each in names)
            # The step that was going on when it was killed is done, or not.
            allowed = {"add": {"first", name}, "promote": {name, "first"}, "rollback": {"first", names[-1]}}
            assert after.champion in allowed[action]
            assert (after.folder / "champion" / "config.json").is_file()
            if after.champion != "first":
                assert after.rollback("ann") == "first"
            after.promote(names[-1], "ann") if names[-1] != "first" else None
            assert after.champion == names[-1]
            assert names[-1] == "first" or after.rollback("ann") == "first"
            assert after.history() == ["first"] and not list(after.folder.glob(".champion.*"))
    return found


def check_imports(store: Store, folder: Path, times: int, rows: int = 20) -> Counter[str]:
    """An import is killed, and called again; returns what it had added each time."""
    chance, found = random.Random(SEED), Counter[str]()

    def write_table(turn: int) -> list[object]:
        place = folder / f"t{turn}"
        place.mkdir()
        for row in range(rows):
            (place / f"{row}.wav").write_bytes(make_audio(turn * rows + row))
        lines = [f"{row}.wav,word {turn * rows + row}" for row in range(rows)]
        (place / "metadata.csv").write_text("\n".join(["file_name,transcription", *lines]) + "\n")
        return [sys.executable, "-m", "finetune", "feedback", "import", store.folder, place, "--consent", "all/test"]

    begin = time.monotonic()
    execute(write_table(0))
    seconds = time.monotonic() - begin
    for turn in range(1, times + 1):
        command = write_table(turn)
        with started(command) as program:
            kill_at(program, chance.uniform(0.6, 1.0) * seconds)
            acknowledged = f"{rows} rows: {rows} new" in program.said()
        with closing(Store(store.folder)) as opened:
            added = int(opened.count()["corrected"]["utterances"]) - turn * rows
        assert 0 <= added <= rows and (added == rows or not acknowledged)
        found["none" if not added else "all" if added == rows else "some"] += 1
        assert f"{rows - added} new" in execute(command)
        assert store.count()["corrected"]["utterances"] == (turn + 1) * rows
    texts = {each.text for each in store.iterate_corrected()}
    assert texts == {f"word {number}" for number in range((times + 1) * rows)}
    check, _ = store.check_audio("ann")
    assert check.lost == []
    return found


def test_a_killed_export_is_whole_or_absent(store: Store, tmp_path: Path) -> None:
    check_exports(store, tmp_path, 3, corrected=20)


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_exports, check_switches, check_imports])
def test_thirty_kills_lose_nothing(
    make_store: MakeStore, tmp_path: Path, check: Callable[[Store, Path, int], Counter[str]]
) -> None:
    found = check(make_store(), tmp_path, 30)
    print(f"{check.__name__}: {dict(found)}")
    assert sum(found.values()) == 30 and len(found) > 1
