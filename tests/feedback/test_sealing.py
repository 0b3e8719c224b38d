"""What is encrypted: keys, wrong keys, other keys, and files without a readable word."""

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from feedback.conftest import make_audio, make_utterance, search
from sqlalchemy import select

from finetune.errors import UserError
from finetune.feedback.audio_files import hash_audio
from finetune.feedback.records import Review
from finetune.feedback.schema import HYPOTHESES
from finetune.feedback.sealing import KEY_VARIABLE, Seal, StaleKey, new_master_key, read_master_key
from finetune.feedback.store import Store

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))


def fill(store: Store) -> int:
    number = store.add(make_utterance(1, "hypothesisword", speaker="speakername"), "ann", "correctedword").id
    store.review(number, Review(reviewer="bob", action="reject", reason="reasonword"))
    return number


def test_no_text_name_or_audio_is_readable_in_an_encrypted_store(tmp_path: Path) -> None:
    words = [b"hypothesisword", b"speakername", b"correctedword", b"reasonword", make_audio(1)[100:200]]
    plain, sealed = Store.create(tmp_path / "plain"), Store.create(tmp_path / "sealed", master_key=KEY)
    for store in (plain, sealed):
        number = fill(store)
    assert all(search(tmp_path / "plain", word) for word in words)  # This test can find them.
    assert not search(tmp_path / "sealed", *words, KEY, base64.b64encode(KEY))
    found = sealed.get(number)
    assert (found.speaker, found.hypotheses[0].text) == ("speakername", "hypothesisword")
    assert found.reviews[1].reason == "reasonword" and sealed.read_audio(number) == make_audio(1)
    for store in (plain, sealed):
        store.close()
    assert not search(tmp_path / "sealed", *words)


def test_without_its_key_or_with_another_a_store_does_not_open(tmp_path: Path) -> None:
    Store.create(tmp_path / "sealed", master_key=KEY).close()
    Store.create(tmp_path / "plain").close()
    with pytest.raises(UserError, match=f"is encrypted: give its key with --key-file FILE or in {KEY_VARIABLE}"):
        Store(tmp_path / "sealed")
    with pytest.raises(UserError, match="The key does not open this store"):
        Store(tmp_path / "sealed", OTHER)
    with pytest.raises(UserError, match="is not encrypted, so no key is expected"):
        Store(tmp_path / "plain", KEY)


def test_a_new_key_opens_what_the_old_one_sealed_and_the_old_one_opens_nothing(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", master_key=KEY)
    number = fill(store)
    store.rotate_key(KEY, OTHER, "ann")
    store.close()
    with pytest.raises(UserError, match="The key does not open this store"):
        Store(tmp_path / "store", KEY)
    store = Store(tmp_path / "store", OTHER)
    assert store.get(number).speaker == "speakername" and store.read_audio(number) == make_audio(1)
    added = store.add(make_utterance(2, "new", speaker="speakername"), "ann").id
    assert store.find_speaker("speakername") == [number, added]
    assert [entry.action for entry in store.audit_log()] == ["rotate key"]
    store.close()


def test_a_wrong_old_key_changes_nothing(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", master_key=KEY)
    with pytest.raises(UserError, match="The key does not open this store"):
        store.rotate_key(OTHER, OTHER, "ann")
    store.close()
    Store(tmp_path / "store", KEY).close()


def test_changed_and_swapped_files_are_refused(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", master_key=KEY)
    numbers = [store.add(make_utterance(i), "ann").id for i in (1, 2)]
    first, second = (
        (tmp_path / "store" / "audio" / str(d)[:2] / str(d)) for d in (store.get(n).digest for n in numbers)
    )
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(UserError, match="damaged data, or data of another store"):
        store.read_audio(numbers[0])
    first.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match="damaged data, or data of another store"):
        store.read_audio(numbers[0])
    first.unlink()
    with pytest.raises(UserError, match=r"has lost the audio .*: restore it from a backup"):
        store.read_audio(numbers[0])
    store.close()


@pytest.mark.parametrize("text", ["short", base64.b64encode(b"x" * 31).decode(), "!" * 44])
def test_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(UserError, match="has no key: expected 32 bytes in base64"):
        read_master_key(tmp_path / "key")


def test_the_key_comes_from_the_file_or_else_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text(first := new_master_key())
    monkeypatch.setenv(KEY_VARIABLE, second := new_master_key())
    assert first != second and read_master_key(tmp_path / "key") == base64.b64decode(first)
    assert read_master_key(None) == base64.b64decode(second)
    monkeypatch.delenv(KEY_VARIABLE)
    assert read_master_key(None) is None


def test_the_same_text_is_sealed_otherwise_each_time() -> None:
    seal = Seal({1: KEY})
    sealed = {seal.seal_text("hello", "text") for _ in range(50)}
    assert len(sealed) == 50 and {seal.open_text(each, "text") for each in sealed} == {"hello"}
    with pytest.raises(UserError, match="damaged data"):
        seal.open_text(sealed.pop(), "reason")


def test_an_open_store_goes_on_after_another_key(tmp_path: Path) -> None:
    """It seals with the new data key from then on, and takes the new master key from where the old one was."""
    file = tmp_path / "key"
    file.write_text(base64.b64encode(KEY).decode())
    running = Store.create(tmp_path / "store", master_key=KEY)
    running.close()
    running = Store(tmp_path / "store", KEY, lambda: read_master_key(file))
    first = fill(running)
    other = Store(tmp_path / "store", KEY)
    other.rotate_key(KEY, OTHER, "ann")
    number = other.add(make_utterance(2, "hello", speaker="speakername"), "ann").id
    file.write_text("half a k")  # As while it is being replaced.
    for refused in (
        lambda: running.get(number),
        lambda: running.read_audio(number),
        lambda: running.add(make_utterance(3), "ann"),
        lambda: running.review(first, Review(reviewer="eve", action="edit", text="word")),
    ):
        with pytest.raises(StaleKey, match=r"The key of .* was changed, and this process has the old one: put the new"):
            refused()
    assert running.get(first).speaker == "speakername" and running.read_audio(first) == make_audio(1)
    assert other.count()["open"]["utterances"] == 1 and not other.audio.exists(hash_audio(make_audio(3)))
    file.write_text(base64.b64encode(OTHER).decode())
    assert running.get(number).hypotheses[0].text == "hello" and running.read_audio(number) == make_audio(2)
    added = running.add(make_utterance(3, "bye", speaker="speakername"), "ann").id
    assert other.get(added).hypotheses[0].text == "bye" and other.find_speaker("speakername") == [first, number, added]
    with other.database.read() as connection:
        sealed = connection.execute(select(HYPOTHESES.c.text).where(HYPOTHESES.c.utterance_id == added)).scalar_one()
    assert base64.b64decode(sealed)[4:8] == (2).to_bytes(4, "big")
    running.close()
    other.close()


def test_a_store_that_changes_its_key_goes_on(tmp_path: Path) -> None:
    running = Store.create(tmp_path / "store", master_key=KEY)
    running.rotate_key(KEY, OTHER, "ann")
    other = Store(tmp_path / "store", OTHER)
    number = other.add(make_utterance(text="hello"), "ann").id
    assert running.get(number).hypotheses[0].text == "hello"


def test_of_two_that_change_the_key_at_once_one_is_refused(make_store: Callable[..., Store]) -> None:
    store, others = make_store(master_key=KEY), (OTHER, bytes(range(2, 34)))
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(store.rotate_key, KEY, other, "ann") for other in others]
        errors = [each.exception() for each in done]
    assert [type(each) for each in errors if each is not None] == [UserError]
    Store(store.folder, others[errors.index(None)]).close()


def test_a_plain_store_has_no_key_to_change(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    with pytest.raises(UserError):
        store.rotate_key(KEY, OTHER, "ann")
