"""Snapshots: what recipes read, speakers that never change their split, holes, and what kills leave."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from finetune.data.sources import Source, load_splits, select_table
from finetune.errors import UserError
from finetune.feedback import snapshots
from finetune.feedback.records import NewUtterance, Review
from finetune.feedback.sealing import new_master_key, read_master_key
from finetune.feedback.snapshots import count_new, export_snapshot, forget, list_snapshots
from finetune.feedback.store import Store
from finetune.files import delete


def fill(store: Store, number: int, first: int = 0, **values: str) -> None:
    """Utterances of ten speakers, whose audio are real files with a ramp of their own."""
    for each in range(first, first + number):
        file = store.folder / "new.wav"
        soundfile.write(file, np.linspace(0, (each + 1) / 1000, 1600), 16000)
        details = {"source": "a test", "consent": "yes", "speaker": f"speaker {each % 10}", **values}
        new = NewUtterance(audio=file.read_bytes(), suffix=".wav", seconds=0.1, **details)  # type: ignore[arg-type]
        store.add(new, "me", correction=f"word {each}")


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    key_file = tmp_path / "key"
    key_file.write_text(new_master_key())
    key = read_master_key(key_file) if request.param else None
    return Store.create(tmp_path / "store", master_key=key, test_share=0.3, validation_share=0.2)


def read(folder: Path) -> dict[str, dict[str, list[str]]]:
    """The texts by speaker and split."""
    found: dict[str, dict[str, list[str]]] = {}
    for table in folder.glob("*/metadata.csv"):
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                assert (table.parent / row["file_name"]).is_file()
                found.setdefault(table.parent.name, {}).setdefault(row["speaker"], []).append(row["transcription"])
    return found


def test_recipes_read_a_snapshot(store: Store, tmp_path: Path) -> None:
    fill(store, 20)
    store.review(3, Review(reviewer="you", action="edit", text="something else"))  # A conflict stays out.
    made = export_snapshot(store, tmp_path / "one", "me")
    source = Source(str(tmp_path / "one"), columns=("domain",))
    splits = load_splits(source)
    assert set(splits) == {"train", "validation", "test"}
    texts = [text for name in splits for text in select_table(splits, name, source).texts()]
    assert sorted(texts) == sorted(f"word {each}" for each in range(20) if each != 2)
    with select_table(splits, "train", source).recording(0).open() as file:
        assert soundfile.info(file).frames == 1600
    assert sum(counts["utterances"] for counts in made.splits.values()) == 19
    assert made.domains == {"default": 19} and made.consents == {"yes": 19} and made.licences == {"not stated": 19}
    described = json.loads((tmp_path / "one" / "snapshot.json").read_text())
    assert described["content_hash"] == made.content_hash and described["holes"] == []
    (again,) = list_snapshots(store)
    assert again.content_hash == made.content_hash and again.splits == made.splits


def test_a_speaker_never_changes_its_split(store: Store, tmp_path: Path) -> None:
    fill(store, 30)
    export_snapshot(store, tmp_path / "one", "me")
    fill(store, 100, first=30)
    export_snapshot(store, tmp_path / "two", "me")
    before, after = read(tmp_path / "one"), read(tmp_path / "two")
    places = {speaker: split for split, speakers in before.items() for speaker in speakers}
    assert len(places) == 10 and len(set(places.values())) == 3
    assert {speaker: split for split, speakers in after.items() for speaker in speakers} == places
    assert read(tmp_path / "one") == before


def test_what_a_snapshot_lacks_is_counted(store: Store, tmp_path: Path) -> None:
    assert count_new(store) == 0
    fill(store, 4)
    assert (count_new(store), count_new(store, drifted=True)) == (4, 0)
    export_snapshot(store, tmp_path / "one", "me")
    assert count_new(store) == 0
    fill(store, 3, first=4)
    new = NewUtterance(audio=b"x", suffix=".wav", seconds=1, source="a", consent="yes", signals={"drift": 1.0})
    assert store.queue() == []
    store.review(store.add(new, "me").id, Review(reviewer="you", action="edit", text="word"))
    assert (count_new(store), count_new(store, drifted=True)) == (4, 1)


def test_the_newest_snapshot_is_the_last_one_also_after_the_clock_was_set_back(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise `finetune improve --watch` would train again and again on what the last snapshot has."""
    fill(store, 4)
    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "now", lambda: "2999-01-01T00:00:00.000000Z")
        export_snapshot(store, tmp_path / "one", "me")
    fill(store, 3, first=4)
    export_snapshot(store, tmp_path / "two", "me")
    assert [each.name for each in list_snapshots(store)] == ["one", "two"] and count_new(store) == 0


def test_the_same_corrections_make_the_same_snapshot(tmp_path: Path) -> None:
    hashes = []
    for name in ("a", "b", "c"):
        store = Store.create(tmp_path / name)
        fill(store, 5 if name != "c" else 6)
        hashes.append(export_snapshot(store, tmp_path / f"{name}-snapshot", "me").content_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_what_is_forgotten_leaves_holes_with_a_name(store: Store, tmp_path: Path) -> None:
    fill(store, 20)
    for name in ("one", "two"):
        export_snapshot(store, tmp_path / name, "me")
    (tmp_path / "two").rename(tmp_path / "moved")
    numbers = store.find_speaker("speaker 4")
    assert len(numbers) == 2
    forgotten = forget(store, numbers, "me")
    assert forgotten.snapshots == ("one",) and forgotten.unreachable == (f"two ({tmp_path / 'two'})",)
    texts = [text for speakers in read(tmp_path / "one").values() for said in speakers.values() for text in said]
    assert len(texts) == 18 and not {"word 4", "word 14"} & set(texts)
    assert len(list((tmp_path / "one").rglob("*.wav"))) == 18
    assert json.loads((tmp_path / "one" / "snapshot.json").read_text())["holes"] == numbers
    assert {each.name: list(each.holes) for each in list_snapshots(store)} == {"one": numbers, "two": []}
    (tmp_path / "moved").rename(tmp_path / "two")
    assert forget(store, [], "me").snapshots == ("two",)
    assert len(list((tmp_path / "two").rglob("*.wav"))) == 18
    actions = [entry.action for entry in store.audit_log()]
    assert actions == ["export", "export", "forget", "make hole", "forget", "make hole"]


def test_snapshots_that_were_edited_are_cut_or_named(store: Store, tmp_path: Path) -> None:
    fill(store, 20)
    tables = {}
    for name in ("blank", "latin"):
        export_snapshot(store, tmp_path / name, "me")
        tables[name] = sorted((tmp_path / name).glob("*/metadata.csv"))
    for table in tables["blank"]:
        table.write_text(table.read_text() + "\n\n")
    for table in tables["latin"]:
        table.write_bytes(table.read_bytes() + "audio/x.wav,münchen,,default\n".encode("latin-1"))
    forgotten = forget(store, store.find_speaker("speaker 4"), "me")
    assert forgotten.snapshots == ("blank",) and forgotten.unreachable == (f"latin ({tmp_path / 'latin'})",)
    assert len(list((tmp_path / "blank").rglob("*.wav"))) == 18
    said = read(tmp_path / "blank")
    assert not any("speaker 4" in speakers for speakers in said.values()) and not list(tmp_path.rglob("*.partial"))


def test_an_export_that_was_killed_is_made_again(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, 5)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "link_file", fail)
        patch.setattr(type(store.audio), "get", fail)
        with pytest.raises(KeyboardInterrupt):
            export_snapshot(store, tmp_path / "one", "me")
    assert not (tmp_path / "one").exists() and list_snapshots(store) == []
    first = export_snapshot(store, tmp_path / "one", "me")
    # Killed after the folder took its name, before the database knew it.
    other = Store.create(tmp_path / "other", test_share=0.3, validation_share=0.2)
    fill(other, 7)
    second = export_snapshot(other, tmp_path / "one", "me")
    assert second.content_hash != first.content_hash and len(list((tmp_path / "one").rglob("*.wav"))) == 7


def test_an_utterance_forgotten_meanwhile_is_not_in_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 5)
    describe = snapshots._Writer.describe

    def meanwhile(self: snapshots._Writer, *arguments: str) -> snapshots.Snapshot:
        if store.get(2).status != "forgotten":
            forget(store, [2], "you")
        return describe(self, *arguments)

    monkeypatch.setattr(snapshots._Writer, "describe", meanwhile)
    made = export_snapshot(store, tmp_path / "one", "me")
    assert sum(counts["utterances"] for counts in made.splits.values()) == 4
    assert len(list((tmp_path / "one").rglob("*.wav"))) == 4


def test_what_can_not_be_exported_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is nothing to export"):
        export_snapshot(store, tmp_path / "one", "me")
    assert not (tmp_path / "one").exists()
    fill(store, 2)
    export_snapshot(store, tmp_path / "one", "me")
    with pytest.raises(UserError, match="has a snapshot one already"):
        export_snapshot(store, tmp_path / "elsewhere" / "one", "me")
    with pytest.raises(UserError, match="exists already"):
        export_snapshot(store, tmp_path / "one", "me", "two")
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="exists already"):
        export_snapshot(store, tmp_path / "mine", "me")
    delete(tmp_path / "store" / "audio")
    with pytest.raises(UserError, match="lost the audio"):
        export_snapshot(store, tmp_path / "three", "me")
    assert not (tmp_path / "three").exists()
