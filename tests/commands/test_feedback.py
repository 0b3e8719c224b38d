"""The commands of `finetune feedback`: what they print, refuse and leave."""

import json
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import finetune.feedback
from finetune.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("init", "store")` runs `finetune feedback init store` in `tmp_path`: exit code, output and log."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOGNAME", "login")
    monkeypatch.delenv("FINETUNE_FEEDBACK_KEY", raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["feedback", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def write_tone(file: str, seconds: float = 1.0) -> str:
    soundfile.write(file, 0.3 * np.sin(np.arange(round(16000 * seconds)) / 5), 16000)
    return file


def test_from_a_new_store_to_a_forgotten_speaker(run: Run, tmp_path: Path) -> None:
    assert run("new-key", "key")[0] == 0
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    key = ("--key-file", "key")
    assert run("init", "store", *key, "--reviewers", 2)[:2] == (
        0,
        "store is a store (encrypted): `finetune feedback import store …` adds to it.\n",
    )
    given = ("--consent", "p1/training", "--speaker", "p1", *key)
    assert run("add", "store", write_tone("a.wav"), "--text", "hello", *given)[:2] == (0, "added\n")
    assert run("add", "store", "a.wav", "--text", "hello", *given)[1] == "nothing new: the store has it already\n"
    assert run("correct", "store", 1, "hallo", "--who", "bob", *key)[1] == "Utterance 1 is conflict.\n"
    code, out, _ = run("review-queue", "store", *key)
    assert (code, out) == (0, "1\t0.00 (conflict 1.00)\t1.0 s\t(no hypothesis)\n")
    assert run("correct", "store", 1, "hello", "--who", "eve", *key)[1] == "Utterance 1 is corrected.\n"
    assert run("stats", "store", *key)[1].splitlines()[0] == "corrected: 1 utterances, 0.00 hours"
    assert json.loads(run("stats", "store", "--json", *key)[1])["corrected"] == {"utterances": 1, "seconds": 1.0}
    assert run("new-key", "other")[0] == 0
    assert run("rotate-key", "store", *key, "--new-key-file", "other")[0] == 0
    assert "The key does not open this store" in run("stats", "store", *key)[2]
    key = ("--key-file", "other")
    assert run("forget", "store", "--speaker", "p1", *key)[:2] == (0, "1 utterances are deleted.\n")
    assert "has no utterances of the speaker p1" in run("forget", "store", "--speaker", "p1", *key)[2]
    actions = [json.loads(line)["action"] for line in run("audit", "store", "--json", *key)[1].splitlines()]
    assert actions == ["init", "rotate key", "forget"]
    assert "\tlogin\tinit\tstore" in run("audit", "store", *key)[1]


def test_a_model_writes_the_hypothesis(run: Run, model: Path, tmp_path: Path) -> None:
    from finetune.files import hash_folder

    run("init", "store")
    assert run("add", "store", write_tone("a.wav", 2.0), "--model", model, "--consent", "all/test")[1] == "added\n"
    [line] = run("review-queue", "store", "--json")[1].splitlines()
    [hypothesis] = json.loads(line)["hypotheses"]
    assert hypothesis["model"] == hash_folder(model) and 0 < hypothesis["confidence"] < 1
    assert [word[0] for word in hypothesis["words"]] == hypothesis["text"].split()
    copied = shutil.copytree(model, tmp_path / "copied")
    assert hash_folder(copied) == hash_folder(model)
    (copied / "vocab.json").write_text("{}")
    assert hash_folder(copied) != hash_folder(model)
    text = hypothesis["text"]
    assert run("correct", "store", 1, text, "--who", "bob")[1] == "Utterance 1 is corrected.\n"
    assert run("reject", "store", 1, "only a tone", "--who", "bob")[:2] == (0, "Utterance 1 is rejected.\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["init", "new", "--reviewers", 0], "The reviewers of each utterance are 0; expected 1 or more"),
        (["init", "new", "--test-share", 0.6, "--validation-share", 0.5], "The shares are 0.6 and 0.5; expected"),
        (["init", "new", "--test-share", "nan"], "The shares are nan and 0.1; expected"),
        (["init", "new", "--database", "mysql://a/b"], "The database is mysql://a/b; expected postgresql://"),
        (["init", "new", "--database", "postgresql://u@127.0.0.1:1/x"], "The database can't be opened: "),
        (["init", "new", "--key-file", "none"], "The key file none can't be read"),
        (["init", "store"], "store is a store already"),
        (["new-key", "a.wav"], "a.wav exists already, and no key is overwritten"),
        (["new-key", "no/where"], "The key can't be written to no/where: No such file or directory"),
        (["rotate-key", "store", "--new-key-file", "key"], "store is not encrypted, so it has no key to change"),
        (["stats", "nowhere"], "nowhere is no feedback store"),
        (["stats", "store", "--key-file", "key"], "store is not encrypted, so no key is expected"),
        (["add", "store", "a.wav", "--consent", "x"], "There is nothing to keep of the recording"),
        (["add", "store", "a.wav", "--consent", " ", "--text", "x"], "a.wav: no consent: nobody may use it"),
        (["add", "store", "none.wav", "--consent", "x", "--text", "x"], "none.wav: no such file: none.wav"),
        (["add", "store", "key", "--consent", "x", "--text", "x"], "key: unreadable audio"),
        (["add", "store", "a.wav", "--consent", "x", "--text", "x", "--domain", "d" * 65], "expected a name of up to"),
        (["review-queue", "store", "--limit", 0], "--limit is 0; expected 1 or more"),
        (["review-queue", "store", "--limit", 10**20], ""),
        (["correct", "store", 9, "hello"], "store has no utterance 9"),
        (["correct", "store", 10**20, "hello"], "store has no utterance 1000"),
        (["correct", "store", 1, " "], "The text can't be used: no text"),
        (["reject", "store", 1, ""], "The reason can't be used: no text"),
        (["forget", "store", "--utterance", 1, 9], "store has no utterance 9"),
        (["stats", "store", "--who", "x"], ""),
    ],
)
def test_what_can_not_be_done_is_one_sentence_and_changes_nothing(
    run: Run, tmp_path: Path, arguments: list[object], words: str
) -> None:
    run("init", "store")
    run("new-key", "key")
    run("add", "store", write_tone("a.wav"), "--text", "hello", "--consent", "x")
    before = run("review-queue", "store"), run("stats", "store"), run("audit", "store")
    code, out, err = run(*arguments)
    if not words:
        assert code == 0
        return
    assert code == 2 and out == "" and err.startswith("finetune: ") and err.count("\n") == 1
    assert words in err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.wav", "key", "store"]
    assert (run("review-queue", "store"), run("stats", "store"), run("audit", "store")) == before


def test_without_its_packages_the_extra_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "feedback", finetune.feedback)  # Importing anew replaces it: put back afterwards.
    for name in [name for name in sys.modules if name.startswith(("finetune.feedback", "sqlalchemy"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    code, _, err = run("init", "store")
    assert code == 2 and "pip install 'finetune[feedback]'" in err and err.count("\n") == 1
