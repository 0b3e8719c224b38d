"""Consent, doubles, conflicts, the queue, forgetting, full disks."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from feedback.conftest import make_audio, make_utterance, new_database, search

from finetune.errors import UserError
from finetune.feedback.records import Remains, Review
from finetune.feedback.store import Store

MakeStore = Callable[..., Store]


def edit(reviewer: str, text: str) -> Review:
    return Review(reviewer=reviewer, action="edit", text=text)


def test_an_utterance_without_consent_is_refused_and_nothing_of_it_stays(store: Store) -> None:
    for consent in ("", "  "):
        with pytest.raises(UserError, match="There is no consent to keep this utterance: nothing was stored"):
            store.add(make_utterance(consent=consent), "eve", "hello")
    assert store.count() == {} and not search(store.folder, make_audio()[100:200])


def test_the_same_audio_is_one_utterance(make_store: MakeStore) -> None:
    store = make_store()
    first = store.add(make_utterance(text="hallo"), "ann", "hello")
    second = store.add(make_utterance(text="hallo"), "ann", "hello")
    assert first.is_new and not second.is_new and first.id == second.id
    assert second.note == f"ann has said the same of utterance {first.id} before: nothing was added."
    found = store.get(first.id)
    assert len(found.hypotheses) == 1 and len(found.reviews) == 1
    assert (found.status, found.text) == ("corrected", "hello")
    assert store.read_audio(first.id) == make_audio()


def test_two_different_corrections_are_a_conflict_that_a_third_reviewer_decides(make_store: MakeStore) -> None:
    store = make_store()
    number = store.add(make_utterance(), "ann", "hello").id
    receipt = store.review(number, edit("bob", "hallo"))
    assert receipt.status == "conflict" and store.get(number).text is None
    assert receipt.note == f"Utterance {number} has different corrections: it waits in the review queue for a decision."
    assert [each.id for each in store.queue()] == [number]
    assert store.review(number, edit("eve", "hello")).status == "corrected"
    assert store.get(number).text == "hello" and store.queue() == []


def test_with_two_reviewers_one_is_not_enough(make_store: MakeStore) -> None:
    store = make_store(reviewers_wanted=2)
    number = store.add(make_utterance(text="hallo"), "ann", "hello").id
    assert store.get(number).status == "open" and store.queue(reviewer="ann") == []
    assert [each.id for each in store.queue(reviewer="bob")] == [number]
    assert store.review(number, edit("ann", "hello ")).status == "open"
    assert store.review(number, edit("bob", " hello")).status == "corrected"


def test_a_rejection_counts_as_a_text_does(store: Store) -> None:
    number = store.add(make_utterance(), "ann").id
    assert store.review(number, Review(reviewer="bob", action="reject", reason="noise")).status == "rejected"
    assert store.get(number).reviews[0].reason == "noise"
    again = store.review(number, Review(reviewer="bob", action="reject", reason="noise "))
    assert again.note == f"bob has said the same of utterance {number} before: nothing was added."
    other = store.review(number, Review(reviewer="bob", action="reject", reason="two speakers"))
    assert other.note == f"This replaces what bob said of utterance {number} before."
    assert [each.reason for each in store.get(number).reviews] == ["noise", "two speakers"]
    assert store.review(number, edit("eve", "hello")).status == "conflict"


def test_what_the_model_doubts_comes_first(make_store: MakeStore) -> None:
    store = make_store()
    plain = store.add(make_utterance(1, signals={"drift": 0.1}), "ann").id
    doubted = store.add(make_utterance(2, "hallo"), "ann").id
    both = store.add(make_utterance(3, "hallo", signals={"drift": 0.3}), "ann").id
    queue = store.queue()
    assert [each.id for each in queue] == [both, doubted, plain]
    assert queue[0].reasons == {"drift": 0.3, "low confidence": 0.5}
    second = store.queue(1, after=queue[0].place)
    assert [each.id for each in second] == [doubted]


def test_a_speaker_is_in_one_split_for_good(store: Store) -> None:
    names = [f"speaker {number % 20}" for number in range(60)]
    splits = [store.get(store.add(make_utterance(i, speaker=name), "ann").id).split for i, name in enumerate(names)]
    assert splits[:20] == splits[20:40] == splits[40:]
    assert set(splits) == {"train", "validation", "test"}
    assert store.find_speaker("speaker 3") == [4, 24, 44]


@pytest.mark.parametrize("sealed", [False, True])
def test_nothing_of_what_is_forgotten_stays_in_any_file(tmp_path: Path, sealed: bool) -> None:
    key = bytes(range(32)) if sealed else None
    store = Store.create(tmp_path / "store", master_key=key)
    for number in range(20):
        store.add(
            make_utterance(number, f"hypothesis{number:02d}x", speaker=f"person{number:02d}x"),
            "ann",
            f"word{number:02d}x",
        )
    store.review(8, edit("bob", "another07x"))
    audio = store.folder / "audio"
    before = len([file for file in audio.rglob("*") if file.is_file()])
    assert store.erase(store.find_speaker("person07x"), "ann") == Remains()
    parts = [f"{word}07x".encode() for word in ("word", "hypothesis", "another", "person")]
    assert not search(store.folder, *parts, make_audio(7)[100:200])
    assert bool(search(store.folder, b"word08x")) is not sealed
    assert len([file for file in audio.rglob("*") if file.is_file()]) == before - 1
    with pytest.raises(UserError, match="Utterance 8 was forgotten: its audio and texts are deleted"):
        store.read_audio(8)
    forgotten = store.get(8)
    assert (forgotten.status, forgotten.text, forgotten.speaker, forgotten.digest) == ("forgotten", None, None, None)
    assert [entry.action for entry in store.audit_log()] == ["forget"]
    assert store.count()["forgotten"]["utterances"] == 1
    store.close()


def test_forgetting_an_unknown_utterance_deletes_nothing(make_store: MakeStore) -> None:
    store = make_store()
    number = store.add(make_utterance(), "ann", "hello").id
    with pytest.raises(UserError, match="has no utterance 99"):
        store.erase([number, 99], "ann")
    assert store.get(number).text == "hello" and store.read_audio(number) == make_audio()


def test_a_full_disk_is_a_sentence_and_leaves_the_store_as_it_was(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(make_utterance(1), "ann", "hello")

    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fill)
        with pytest.raises(UserError, match=r"The audio can't be stored in .*: .*No space left on device"):
            store.add(make_utterance(2), "ann", "bye")
    assert store.count()["corrected"]["utterances"] == 1 and not search(store.folder, make_audio(2)[100:200])


def test_a_database_that_can_not_grow_keeps_what_was_acknowledged(store: Store) -> None:
    """In another process, whose files may not exceed a size: SQLite calls that a full disk or a failed write."""
    code = f"""
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from feedback.conftest import make_utterance
from finetune.errors import UserError
from finetune.feedback.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store(Path({str(store.folder)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
for number in range(1000):
    try:
        store.add(make_utterance(number), "ann", f"text {{number}} " + "long " * 500)
    except UserError as error:
        print(error)
        break
    print(number, flush=True)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[-1].startswith("The store's database failed: ") and said[-1].endswith(". Nothing was changed.")
    acknowledged = len(said) - 1
    assert acknowledged > 5 and store.count()["corrected"]["utterances"] == acknowledged
    assert store.get(acknowledged).text == f"text {acknowledged - 1} " + ("long " * 500).strip()


@pytest.mark.parametrize(
    ("arrange", "words"),
    [
        (lambda folder: None, "is no feedback store: `finetune feedback init"),
        (
            lambda folder: (folder / "store.yaml").write_text("databse: x\n"),
            "has databse; expected the keys",
        ),
        (lambda folder: (folder / "store.yaml").write_text("a: [\n"), "store.yaml can't be read"),
        (lambda folder: (folder / "store.yaml").write_text("database: mysql://me:secret@h/d\n"), "mysql://me@h/d; exp"),
    ],
)
def test_what_is_no_store_is_refused(tmp_path: Path, arrange: Callable[[Path], object], words: str) -> None:
    arrange(tmp_path)
    with pytest.raises(UserError) as refused:
        Store(tmp_path)
    assert words in str(refused.value) and "secret" not in str(refused.value)


def test_no_store_is_made_where_other_files_are(tmp_path: Path, store: Store) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="has other files: expected a new or an empty folder"):
        Store.create(tmp_path / "mine")
    with pytest.raises(UserError, match="is a store already"):
        Store.create(store.folder)
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 65])
def test_names_of_reviewers_are_checked(store: Store, name: str) -> None:
    number = store.add(make_utterance(), "ann").id
    with pytest.raises(UserError, match="expected a name of 1 to 64 characters"):
        store.review(number, edit(name, "hello"))
    assert store.get(number).reviews == ()


def test_pages_of_the_queue_have_each_utterance_once(store: Store) -> None:
    low, high = (store.add(make_utterance(i, signals={"drift": i / 10}), "ann").id for i in (1, 9))
    store.review(low, edit("ann", "one"))
    store.review(low, edit("bob", "two"))
    pages, after = [], None
    while page := store.queue(1, after=after):
        pages += [each.id for each in page]
        after = page[-1].place
    assert pages == [low, high]


def test_a_refused_correction_leaves_no_audio(store: Store) -> None:
    with pytest.raises(UserError, match="has no words"):
        store.add(make_utterance(), "ann", "  ")
    assert store.count() == {} and not search(store.folder, make_audio()[100:200])


def test_a_store_whose_database_can_not_be_reached_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="The database can't be opened"):
        Store.create(tmp_path / "new", database="postgresql://nobody@127.0.0.1:1/none")
    assert not (tmp_path / "new").exists()


def test_forgetting_beside_a_reader_leaves_nothing_in_the_wal_or_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.feedback.erasure._PURGE_SECONDS", 0.2)
    other = Store(store.folder)
    numbers = [other.add(make_utterance(i), "ann", f"secretword{i}").id for i in range(2)]
    with store.database.read() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM utterances").all()
        assert other.erase(numbers[:1], "ann") == Remains(is_in_log=True)
        assert search(store.folder, b"secretword0")
        Store(store.folder).close()  # Nothing can be done yet, and it is not tried for long.
    assert [(each.action, each.who) for each in store.audit_log()] == [("forget", "ann"), ("not deleted yet", "ann")]
    Store(store.folder).close()
    assert not search(store.folder, b"secretword0")
    assert store.audit_log()[-1].action == "deleted later"
    assert other.erase(numbers[1:], "ann") == Remains() and not search(store.folder, b"secretword1")
    other.close()


def test_a_password_is_for_the_owner_alone(tmp_path: Path, postgresql: str, caplog: pytest.LogCaptureFixture) -> None:
    with new_database(postgresql) as url:
        scheme, _, rest = url.partition("://")
        store = Store.create(tmp_path / "plain", database=url)
        store.close()
        assert (tmp_path / "plain" / "store.yaml").stat().st_mode & 0o077
        for name, secret in (("a", f"{scheme}://{rest.replace('@', ':s3cret@')}"), ("b", f"{url}?password=s3cret")):
            store = Store.create(tmp_path / name, database=secret)
            store.close()
            file = tmp_path / name / "store.yaml"
            assert "s3cret" in file.read_text() and file.stat().st_mode & 0o777 == 0o600
            Store(tmp_path / name).close()
            assert "password" not in caplog.text
        file.chmod(0o644)
        Store(tmp_path / "b").close()
        assert f"store.yaml has a password that other users of this machine can read: chmod 600 {file}" in caplog.text
        assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@127.0.0.1:1/none",
        "postgresql://me@127.0.0.1:1/none?password=s3cret",
        "postgresql://me:s3/cret@h/d",
        "postgresql://me:s3cret@h:port/d",
        "postgresql://me:s3cret@h/d?unknown=s3cret",
        "mysql://me@h/d?password=s3cret",
        "mysql://me:s3cret@h/d",
        "postgresql://me:s3cret@h/d: x",
    ],
)
def test_no_error_has_a_password(tmp_path: Path, url: str) -> None:
    (tmp_path / "store.yaml").write_text(f"database: {url}\n")
    with pytest.raises(UserError) as refused:
        Store(tmp_path)
    with pytest.raises(UserError) as refused_too:
        Store.create(tmp_path / "new", database=url)
    for error in (refused.value, refused_too.value):
        assert "s3" not in str(error) and "cret" not in str(error)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0.2), (1.0, 0.0), (float("nan"), 0.1), (0.9, 0.2)])
def test_shares_that_leave_no_training_are_refused(tmp_path: Path, shares: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="expected numbers from 0 that are less than 1 together"):
        Store.create(tmp_path / "new", test_share=shares[0], validation_share=shares[1])
    with pytest.raises(UserError, match="expected 1 or more"):
        Store.create(tmp_path / "new", reviewers_wanted=0)
    assert not (tmp_path / "new").exists()


def test_audio_at_a_relative_place_is_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it is written beside whoever calls, and `forget` leaves the file where it is."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with closing(Store.create(tmp_path / "store", audio="sounds")) as made:
        number = made.add(make_utterance(), "ann", "hello").id
    monkeypatch.chdir(tmp_path / "elsewhere")
    with closing(Store(tmp_path / "store")) as opened:
        assert opened.read_audio(number) == make_audio()
        opened.erase([number], "ann")
    assert not search(tmp_path / "sounds", make_audio()[100:200])


def test_a_folder_with_a_question_mark_has_its_own_database(tmp_path: Path) -> None:
    for name in ("what?", "what?#100%", "what"):
        with closing(Store.create(tmp_path / name)) as made:
            assert made.add(make_utterance(), "ann", "hello").id == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["what", "what?", "what?#100%"]
