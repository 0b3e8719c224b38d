"""Versions of a model: which is the champion, how it changes, and what is refused."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.feedback import versions
from finetune.feedback.store import Store
from finetune.feedback.versions import Versions


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def make_model(folder: Path, content: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(content)
    return folder


def add(versions: Versions, name: str, **values: object) -> None:
    folder = versions.folder.parent.parent / f"model-{name}"
    versions.add(make_model(folder, name), "me", name, **values)  # type: ignore[arg-type]


def read_champion(versions: Versions) -> str:
    return (versions.folder / "champion" / "config.json").read_text()


def test_promotion_and_rollback_switch_the_champion(store: Store) -> None:
    versions = Versions(store)
    assert versions.champion is None
    with pytest.raises(UserError, match="no champion yet: promote a version; it has none"):
        versions.get("champion")
    for name in ("a", "b", "c"):
        add(versions, name)
    assert [versions.promote(name, "me") for name in ("a", "b", "c")] == [None, "a", "b"]
    assert read_champion(versions) == "c" and versions.get("champion").name == "c"
    assert versions.rollback("you") == "b" and read_champion(versions) == "b"
    assert versions.promote("c", "me") == "b" and versions.history() == ["a", "b", "c"]
    assert [versions.rollback("you"), versions.rollback("you")] == ["b", "a"]
    with pytest.raises(UserError, match="no champion before"):
        versions.rollback("you")
    assert read_champion(versions) == "a"
    steps = [(entry.who, entry.action, entry.subject) for entry in store.audit_log() if entry.action != "add version"]
    assert steps[:4] == [
        ("me", "promote", "a"),
        ("me", "promote", "b"),
        ("me", "promote", "c"),
        ("you", "roll back", "b"),
    ]
    assert Versions(Store(store.folder)).champion == "a"


def test_the_newest_candidate_waits_also_after_the_clock_was_set_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Versions(store)
    with monkeypatch.context() as patch:
        patch.setattr(versions, "now", lambda: "2999-01-01T00:00:00.000000Z")
        add(found, "old", gate={"passed": True})
    add(found, "new", gate={"passed": True})
    assert [each.name for each in found.all()] == ["old", "new"] and found.find_waiting() == "new"


def test_a_candidate_needs_its_proof(store: Store) -> None:
    versions = Versions(store)
    add(versions, "a")
    versions.promote("a", "me")
    add(versions, "refused", parent="a", gate={"passed": False, "reasons": ["WER rose by 3 points"]})
    add(versions, "passed", parent="a", gate={"passed": True})
    add(versions, "other", parent="a", gate={"passed": True})
    with pytest.raises(UserError, match=r"refused refused: WER rose by 3 points\. --force"):
        versions.promote("refused", "me")
    assert versions.champion == "a"
    versions.promote("passed", "me")
    with pytest.raises(UserError, match="was compared with a, but the champion is passed now"):
        versions.promote("other", "me")
    with pytest.raises(UserError, match="is the champion already"):
        versions.promote("passed", "me")
    versions.promote("refused", "me", force=True)
    assert store.audit_log(["promote"])[-1].details == {"from": "passed", "forced": True}


def test_bad_names_and_models_are_refused(store: Store, tmp_path: Path) -> None:
    versions = Versions(store)
    add(versions, "a")
    for name in ("champion", "../x", "", "a b"):
        with pytest.raises(UserError, match="expected letters, digits"):
            versions.add(tmp_path / "model-a", "me", name)
    with pytest.raises(UserError, match="has a version a already"):
        versions.add(tmp_path / "model-a", "me", "a")
    with pytest.raises(UserError, match="is no model"):
        versions.add(tmp_path, "me", "b")
    with pytest.raises(UserError, match="no version b; it has a"):
        versions.promote("b", "me")
    assert [version.name for version in versions.all()] == ["a"]


def switch(folder: Path) -> None:
    """Promote and roll back without end."""
    versions = Versions(Store(folder))
    while True:
        versions.promote("b", "me")
        versions.rollback("me")


def test_a_kill_leaves_the_old_champion_or_the_new_one(store: Store) -> None:
    versions = Versions(store)
    for name in ("a", "b"):
        add(versions, name)
    versions.promote("a", "me")
    for trial in range(6):
        process = multiprocessing.get_context("spawn").Process(target=switch, args=(store.folder,))
        process.start()
        known = len(store.audit_log())
        deadline = time.monotonic() + 60
        while len(store.audit_log()) < known + 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.0017 * trial)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert len(store.audit_log()) >= known + 4
        champion = read_champion(versions)
        assert champion in ("a", "b")
        if champion == "b":
            assert versions.rollback("me") == "a"
        else:
            versions.promote("b", "me")
            versions.rollback("me")
        assert versions.history() == ["a"] and read_champion(versions) == "a"
        assert not list(versions.folder.glob(".champion.*"))


def test_a_switch_that_was_killed_is_logged_later(store: Store) -> None:
    versions = Versions(store)
    for name in ("a", "b"):
        add(versions, name)
    versions.promote("a", "me")
    (versions.folder / "champion").unlink()
    (versions.folder / "champion").symlink_to("b")  # As after a kill before the transaction's end.
    with pytest.raises(UserError, match="already"):
        versions.promote("b", "me")
    assert versions.history() == ["a", "b"] and store.audit_log(["promote"])[-1].details == {"completed": True}
    assert versions.rollback("me") == "a"
