"""What is forgotten leaves the disk, also after a kill or a failure; audio without an utterance, and lost audio."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from feedback.conftest import make_audio, make_utterance, search

from finetune.cli import main
from finetune.errors import UserError
from finetune.feedback import erasure
from finetune.feedback.audio_files import AudioFiles, hash_audio
from finetune.feedback.records import Remains, Utterance
from finetune.feedback.store import Store

MakeStore = Callable[..., Store]
NEEDLE = make_audio(1)[100:200]


def age(store: Store, name: str, hours: float = 2) -> Path:
    """Have a file of audio be older."""
    (file,) = (store.folder / "audio").rglob(name)
    then = time.time() - 3600 * hours
    os.utime(file, (then, then))
    return file


def test_a_transaction_that_fails_keeps_the_audio(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store()
    number = store.add(make_utterance(1), "ann", "hello").id

    def fail(*_: object) -> None:
        raise UserError("The disk is full.")

    monkeypatch.setattr("finetune.feedback.store.log_step", fail)
    with pytest.raises(UserError, match="The disk is full"):
        store.erase([number], "ann")
    assert store.get(number).text == "hello" and store.read_audio(number) == make_audio(1)
    assert store.complete_erasure("ann") == Remains() and store.read_audio(number) == make_audio(1)


@pytest.mark.parametrize("by", ["forget", "check", "open"])
def test_a_deletion_that_was_killed_is_completed(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    store = make_store()
    number = store.add(make_utterance(1), "ann", "secretword").id

    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("finetune.feedback.store.complete_erasure", kill)
        with pytest.raises(KeyboardInterrupt):
            store.erase([number], "ann")
    assert store.get(number).status == "forgotten" and search(store.folder, NEEDLE)
    if by == "open":
        Store(store.folder).close()
    elif by == "check":
        assert store.complete_erasure("ann") == Remains()
    else:
        assert store.erase([], "ann") == Remains()
    assert not search(store.folder, NEEDLE, b"secretword")
    assert "deleted later" in [each.action for each in store.audit_log()]
    assert not erasure.is_unfinished(store.database)


def test_audio_that_can_not_be_deleted_is_named_and_deleted_later(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number = store.add(make_utterance(1), "ann", "hello").id
    folder = str(store.folder)

    def fail(*_: object) -> None:
        raise UserError("The place can't be reached.")

    with monkeypatch.context() as patched:
        patched.setattr(AudioFiles, "delete", fail)
        assert main(["feedback", "forget", folder, "--utterance", str(number)]) == 2
        assert "1 files of audio can't be deleted now: call `finetune feedback check" in capsys.readouterr().err
        assert main(["feedback", "check", folder]) == 2
    assert search(store.folder, NEEDLE)
    assert main(["feedback", "check", folder]) == 0
    assert not search(store.folder, NEEDLE)


def test_forget_says_so_where_a_reader_keeps_texts_in_the_log(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(erasure, "_PURGE_SECONDS", 0.2)
    number, folder = store.add(make_utterance(1), "ann", "secretword").id, str(store.folder)
    with store.database.read() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM utterances").all()
        assert main(["feedback", "forget", folder, "--utterance", str(number)]) == 2
        assert f"end that process, and then call `finetune feedback check {folder}`" in capsys.readouterr().err
        assert main(["feedback", "check", folder]) == 2
    assert main(["feedback", "check", folder]) == 0 and not search(store.folder, b"secretword")


def test_audio_that_comes_again_while_it_is_deleted_stays(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is added between the transaction and the deletion, and between `put` and the transaction of the adding."""
    store = make_store()
    number = store.add(make_utterance(1), "ann", "hello").id
    complete = erasure.complete_erasure

    def add_first(*given: object, **named: object) -> Remains:
        again.append(store.add(make_utterance(1), "ann", "hello again").id)
        return complete(*given, **named)  # type: ignore[arg-type]

    again: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr("finetune.feedback.store.complete_erasure", add_first)
        store.erase([number], "ann")
    assert again[0] != number and store.read_audio(again[0]) == make_audio(1)
    put = AudioFiles.put

    def put_and_forget(self: AudioFiles, digest: str, content: bytes) -> None:
        put(self, digest, content)
        if store.get(again[0]).status != "forgotten":
            store.erase([again[0]], "eve")

    monkeypatch.setattr(AudioFiles, "put", put_and_forget)
    assert store.read_audio(store.add(make_utterance(1), "ann", "hello").id) == make_audio(1)


def test_audio_without_an_utterance_is_deleted_after_an_hour(store: Store) -> None:
    kept = store.add(make_utterance(2), "ann", "hello").id
    age(store, hash_audio(make_audio(2)))
    digest = hash_audio(make_audio(1))
    store.audio.put(digest, make_audio(1))
    partial = store.folder / "audio" / digest[:2] / ".killed.0123abcd.partial"
    partial.write_bytes(make_audio(1))
    (store.folder / "audio" / digest[:2] / "notes.txt").write_text("mine")
    age(store, "notes.txt")
    assert store.check_audio("ann")[1] == 0 and len(search(store.folder, NEEDLE)) == 2
    age(store, digest)
    age(store, partial.name)
    assert main(["feedback", "forget", str(store.folder), "--utterance", str(kept)]) == 0
    assert not search(store.folder, NEEDLE)
    assert list(store.folder.rglob("notes.txt"))
    assert "delete orphans" in [each.action for each in store.audit_log()]


def test_an_orphan_that_is_added_meanwhile_stays(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store()
    digest = hash_audio(make_audio(1))
    store.audio.put(digest, make_audio(1))
    age(store, digest)
    found, _ = erasure.check_audio(store.database, store.audio), None
    assert found.orphans == [digest]
    number = store.add(make_utterance(1), "ann", "hello").id
    erasure.delete_orphans(store.database, store.audio, found.orphans, "ann")
    assert store.read_audio(number) == make_audio(1)


def test_audio_in_a_place_of_its_own_is_deleted_only_when_that_is_said(tmp_path: Path) -> None:
    """Another store may have it."""
    store = Store.create(tmp_path / "store", audio=str(tmp_path / "audio"))
    digest = hash_audio(make_audio(1))
    store.audio.put(digest, make_audio(1))
    then = time.time() - 7200
    os.utime(tmp_path / "audio" / digest[:2] / digest, (then, then))
    assert main(["feedback", "check", str(store.folder)]) == 2 and search(tmp_path / "audio", NEEDLE)
    assert main(["feedback", "check", str(store.folder), "--delete-orphans"]) == 0
    assert not search(tmp_path / "audio", NEEDLE)
    store.close()


def test_audio_at_a_url_is_compared_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.create(tmp_path / "store", audio="memory://bucket/audio")
    number = store.add(make_utterance(2), "ann", "hello").id
    digest = hash_audio(make_audio(1))
    store.audio.put(digest, make_audio(1))
    assert store.check_audio("ann", delete_others=True)[0].orphans == []
    monkeypatch.setattr(erasure, "_ORPHAN_SECONDS", -60)
    found, deleted = store.check_audio("ann", delete_others=True)
    assert (found.orphans, found.lost, deleted) == ([digest], [], 1) and not store.audio.exists(digest)
    store.audio.delete(hash_audio(make_audio(2)))
    assert store.check_audio("ann")[0].lost == [store.get(number).digest]
    store.close()


def test_lost_audio_is_named(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.add(make_utterance(1), "ann", "hello")
    store.audio.delete(hash_audio(make_audio(1)))
    assert main(["feedback", "check", str(store.folder)]) == 2
    assert "1 utterances have lost their audio: restore it from a backup" in capsys.readouterr().err


def test_the_newest_consent_counts_and_the_audit_log_has_both(make_store: MakeStore) -> None:
    store = make_store()
    number = store.add(make_utterance(1, consent="Ann, for tests"), "ann", "hello").id
    assert store.add(make_utterance(1, consent="Ann, for tests"), "ann").note is None
    receipt = store.add(make_utterance(1, consent="Ann, for all"), "bob")
    assert receipt.note == f"Utterance {number} has another consent now: the last one counts."
    assert store.get(number).consent == "Ann, for all"
    (step,) = store.audit_log(["consent"])
    assert (step.who, step.subject) == ("bob", f"utterance {number}")
    assert step.details == {"before": "Ann, for tests", "after": "Ann, for all"}
    store.erase([number], "ann")
    assert store.audit_log(["consent"])[0].details == {"forgotten": True}
    if not store.database.is_postgresql:
        assert not search(store.folder, b"Ann, for")


def test_an_import_renews_the_consent(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(make_audio(1))
    (tmp_path / "rows.csv").write_text("file_name,text\na.wav,hello\n")
    command = ["feedback", "import", str(store.folder), str(tmp_path / "rows.csv"), "--who", "ann", "--consent"]
    for consent in ("one", "one", "two"):
        assert main([*command, consent]) == 0
    (utterance,) = store.iterate_corrected()
    assert isinstance(utterance, Utterance) and utterance.consent == "two"
    assert [step.details for step in store.audit_log(["consent"])] == [{"before": "one", "after": "two"}]
    assert json.dumps(store.audit_log(["import"])[1].details) == '{"new": 0, "known": 1, "left_out": 0}'
