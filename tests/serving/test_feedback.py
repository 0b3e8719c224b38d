"""Feedback over HTTP: consent, scopes, what the store has afterwards, and reviewers."""

import base64
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import soundfile
from conftest import SAMPLING_RATE, speak
from speech_requests import wait_for

from finetune.errors import UserError
from finetune.feedback.agreement import Agreement, compare_texts, measure_agreement
from finetune.feedback.records import Hypothesis, NewUtterance, Review
from finetune.feedback.sealing import new_master_key
from finetune.feedback.store import Store
from finetune.serving.feedback_forms import find_suffix
from finetune.serving.keys import add_key
from finetune.serving.settings import load_settings

Serve = Callable[..., Any]
WORDS = [["ab", 0.1, 0.3, 0.9], ["cab", 0.4, 0.7, 0.8]]


def make_wav(text: str, seed: int = 0) -> bytes:
    """A recording of one utterance."""
    file = BytesIO()
    soundfile.write(file, speak(text, np.random.default_rng(seed)), SAMPLING_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def ask(address: str, path: str, key: str | None = None, audio: bytes | None = None, **given: Any) -> httpx2.Response:
    """GET without data; POST a form with audio, or JSON."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    headers |= given.pop("headers", {})
    if audio is not None:
        files = {"file": (given.pop("name", "speech.wav"), audio)}
        return httpx2.post(f"{address}{path}", headers=headers, files=files, data=given, timeout=60)
    if given:
        return httpx2.post(f"{address}{path}", headers=headers, json=given, timeout=60)
    return httpx2.get(f"{address}{path}", headers=headers, timeout=60)


class Locked:
    """A service with keys and a store that asks for two reviewers."""

    def __init__(self, address: str, keys: dict[str, str], store: Store, audit: Path) -> None:
        self.address, self.keys, self.store, self.audit = address, keys, store, audit

    def ask(self, name: str, path: str, audio: bytes | None = None, **given: Any) -> httpx2.Response:
        return ask(self.address, path, self.keys[name], audio, **given)

    def add(self, name: str, spoken: str, seed: int, **given: str) -> int:
        answer = self.ask(name, "/v1/feedback", make_wav(spoken, seed), **{"consent": "true", **given})
        assert answer.status_code == 200, answer.text
        return int(answer.json()["id"])


@pytest.fixture(scope="module")
def locked(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    folder = tmp_path_factory.mktemp("feedback")
    scopes = {"anna": ["feedback", "transcribe"], "bob": ["feedback"], "reader": ["transcribe"]}
    keys = {name: add_key(folder / "keys.yaml", name, scopes[name]) for name in scopes}
    master = new_master_key()
    (folder / "master").write_text(master)
    store = Store.create(folder / "store", master_key=base64.b64decode(master), reviewers_wanted=2)
    options = {"keys": folder / "keys.yaml", "audit": folder / "audit.jsonl"}
    with serve(feedback=folder / "store", feedback_key_file=folder / "master", **options) as address:
        yield Locked(address, keys, store, folder / "audit.jsonl")
    store.close()


def test_without_consent_nothing_is_stored(locked: Locked) -> None:
    before = locked.store.count()
    for consent in ({}, {"consent": ""}, {"consent": "false"}, {"consent": " No "}):
        answer = locked.ask("anna", "/v1/feedback", make_wav("ab", 900), text="ab", **consent)
        assert answer.status_code == 422 and answer.json()["error"]["code"] == "consent", answer.text
    form = {"feedback_consent": "false"}
    answer = locked.ask("anna", "/v1/audio/transcriptions", make_wav("ab", 900), **form)
    assert answer.status_code == 200 and "x-feedback-id" not in answer.headers
    assert locked.store.count() == before
    assert [file for file in (locked.store.folder / "audio").rglob("*") if file.is_file()] == []


def test_a_key_without_the_scope_is_refused(locked: Locked) -> None:
    before = locked.store.count()
    for path in ("/v1/feedback/queue", "/v1/feedback/1", "/v1/feedback/1/audio", "/v1/feedback/stats"):
        assert locked.ask("reader", path).status_code == 403
    assert locked.ask("reader", "/v1/feedback/1/review", action="skip").status_code == 403
    assert locked.ask("reader", "/v1/feedback", make_wav("ab", 901), consent="true").status_code == 403
    answer = locked.ask("reader", "/v1/audio/transcriptions", make_wav("ab", 901), feedback_consent="for training")
    assert answer.status_code == 403 and "scope feedback" in answer.json()["error"]["message"]
    assert ask(locked.address, "/v1/feedback/queue").status_code == 401
    assert locked.store.count() == before


def test_a_correction_is_stored_with_what_the_model_wrote(locked: Locked) -> None:
    wav = make_wav("ab cab", 1)
    consent = "Anna, for training"
    given = {"consent": consent, "speaker": "s1", "domain": "tones", "licence": "CC0"}
    answer = locked.ask("anna", "/v1/feedback", wav, text="ab, Dad!", **given)
    assert answer.status_code == 200
    receipt = answer.json()
    assert receipt["is_new"] and receipt["status"] == "open" and receipt["note"] is None
    kept = locked.store.get(receipt["id"])
    assert (kept.consent, kept.speaker, kept.domain, kept.licence, kept.added_by) == (
        consent,
        "s1",
        "tones",
        "CC0",
        "anna",
    )
    assert kept.suffix == ".wav" and kept.seconds == pytest.approx(0.8, abs=0.01)
    (hypothesis,) = kept.hypotheses
    assert hypothesis.text == "ab cab" and [word[0] for word in hypothesis.words] == ["ab", "cab"]
    assert hypothesis.confidence is not None and 0.5 < hypothesis.confidence <= 1
    assert [(each.reviewer, each.action, each.text) for each in kept.reviews] == [("anna", "edit", "ab, Dad!")]
    again = locked.ask("anna", "/v1/feedback", wav, text="ab, Dad!", **given).json()
    assert again["id"] == receipt["id"] and not again["is_new"] and "the same" in again["note"]


def test_a_hypothesis_that_is_sent_is_not_computed(locked: Locked) -> None:
    given = {"hypothesis": "dad", "confidence": "0.25", "words": json.dumps(WORDS)}
    number = locked.add("anna", "ab cab", 2, **given)
    (hypothesis,) = locked.store.get(number).hypotheses
    assert (hypothesis.text, hypothesis.confidence) == ("dad", 0.25)
    assert [list(word) for word in hypothesis.words] == WORDS
    named = [dict(zip(("word", "start", "end", "confidence"), word, strict=True)) for word in WORDS]
    number = locked.add("anna", "ab cab", 3, **given | {"words": json.dumps(named)})
    described = locked.ask("bob", f"/v1/feedback/{number}").json()
    assert described["hypotheses"][0]["words"] == named and described["reviewers_wanted"] == 2
    empty = locked.add("anna", "ab", 4, hypothesis="")
    assert locked.store.get(empty).hypotheses[0].text == ""


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        ({"text": "ab Zürich 5"}, 422, "z ü r i h 5"),
        ({"confidence": "2", "hypothesis": "ab"}, 422, "from 0 to 1"),
        ({"confidence": "nan", "hypothesis": "ab"}, 422, "from 0 to 1"),
        ({"words": "[[1]]", "hypothesis": "ab"}, 422, "words can't be read"),
        ({"words": "[" * 5000, "hypothesis": "ab"}, 422, "words can't be read"),
        ({"text": "a\x00b"}, 422, "control characters"),
        ({"domain": "x" * 65}, 422, "the domain"),
        ({"model": "other"}, 404, "There is no model"),
        ({"audio": b"RIFF, but no sound"}, 422, "can't be"),
        ({"audio": b"RIFF, but no sound", "hypothesis": "ab"}, 422, "can't be read"),
    ],
)
def test_what_cannot_be_used_is_refused(locked: Locked, given: dict[str, Any], status: int, words: str) -> None:
    before = locked.store.count()
    audio = given.pop("audio", None) or make_wav("ab", 902)
    answer = locked.ask("anna", "/v1/feedback", audio, consent="true", **given)
    assert answer.status_code == status, answer.text
    assert words.lower() in answer.json()["error"]["message"].lower()
    assert locked.store.count() == before


def test_limits_are_those_of_transcriptions(serve: Serve, tmp_path: Path) -> None:
    Store.create(tmp_path / "store").close()
    with serve(feedback=tmp_path / "store", max_audio_seconds=0.5) as address:
        for given in ({}, {"hypothesis": "ab cab"}):
            answer = ask(address, "/v1/feedback", None, make_wav("ab cab"), consent="true", **given)
            assert answer.status_code == 413 and answer.json()["error"]["code"] == "audio_too_long"


def test_a_transcription_is_kept_with_consent_only(locked: Locked) -> None:
    path, wav = "/v1/audio/transcriptions", make_wav("bad dad", 5)
    answer = locked.ask("anna", path, wav, feedback_consent="Anna, for training")
    assert answer.status_code == 200 and answer.json()["text"] == "bad dad"
    kept = locked.store.get(int(answer.headers["x-feedback-id"]))
    assert kept.consent == "Anna, for training" and kept.hypotheses[0].text == "bad dad" and kept.status == "open"
    assert "drift" not in kept.reasons and locked.store.read_audio(kept.id) == wav
    quiet = np.zeros(int(1.5 * SAMPLING_RATE), dtype=np.float32)
    rng = np.random.default_rng(0)
    file = BytesIO()
    long = [part for _ in range(4) for part in (speak("dad bad add", rng), quiet)]
    soundfile.write(file, np.concatenate(long), SAMPLING_RATE, format="WAV")
    before = locked.store.count()
    answer = locked.ask("anna", path, file.getvalue(), feedback_consent="Anna, for training")
    assert answer.status_code == 200 and "longer than an utterance" in answer.headers["x-feedback-note"]
    assert "x-feedback-id" not in answer.headers and locked.store.count() == before
    answer = locked.ask("anna", path, wav, feedback_consent="Anna, for training", stream="true")
    assert answer.status_code == 400 and "feedback_consent" in answer.json()["error"]["message"]


def test_a_drift_is_a_reason_to_look(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.create(tmp_path / "store")
    with serve(feedback=tmp_path / "store") as address:
        service = serve.services[-1]  # type: ignore[attr-defined]
        monkeypatch.setattr(service.metrics, "drifts", lambda model: model == "tones")
        answer = ask(address, "/v1/audio/transcriptions", None, make_wav("ab"), feedback_consent="true")
    assert store.get(int(answer.headers["x-feedback-id"])).reasons["drift"] == 1.0
    store.close()


def test_without_a_store_feedback_is_refused(address: str) -> None:
    for answer in (
        ask(address, "/v1/feedback", None, make_wav("ab"), consent="true"),
        ask(address, "/v1/audio/transcriptions", None, make_wav("ab"), feedback_consent="true"),
        ask(address, "/v1/feedback/queue"),
    ):
        assert answer.status_code == 404 and "--feedback STORE" in answer.json()["error"]["message"]


def test_the_store_is_encrypted(locked: Locked) -> None:
    number = locked.add("anna", "dab add", 6, text="dab add", speaker="s-secret")
    wav = locked.ask("bob", f"/v1/feedback/{number}/audio")
    assert wav.content[:4] == b"RIFF" and wav.headers["content-type"] == "audio/wav"
    assert wav.headers["x-content-type-options"] == "nosniff" and wav.headers["cache-control"] == "no-store"
    folder = locked.store.folder
    contents = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    assert len(contents) > 3
    for content in contents:
        assert b"dab add" not in content and b"s-secret" not in content and b"RIFF" not in content
    with pytest.raises(UserError, match="encrypted"):
        Store(folder)


def test_two_reviewers_decide(locked: Locked) -> None:
    number = locked.add("anna", "cab bad", 7)
    queue = locked.ask("bob", "/v1/feedback/queue?limit=100").json()
    assert queue["reviewer"] == "bob" and queue["has_keys"] and number in [each["id"] for each in queue["data"]]
    path = f"/v1/feedback/{number}"
    first = locked.ask("anna", f"{path}/review", action="accept").json()
    assert first["status"] == "open"
    assert number not in [each["id"] for each in locked.ask("anna", "/v1/feedback/queue?limit=100").json()["data"]]
    seen = locked.ask("bob", path).json()  # Bob does not see what Anna has said.
    assert seen["num_reviewers"] == 1 and seen["reviews"] == []
    second = locked.ask("bob", f"{path}/review", action="edit", text="cab dad").json()
    assert second["status"] == "conflict" and "different corrections" in second["note"]
    seen = locked.ask("bob", path).json()
    assert [(each["reviewer"], each["text"]) for each in seen["reviews"]] == [("anna", "cab bad"), ("bob", "cab dad")]
    assert locked.ask("bob", "/v1/feedback/queue").json()["data"][0]["id"] == number
    third = locked.ask("bob", f"{path}/review", action="edit", text="cab bad").json()
    assert third["status"] == "corrected" and locked.store.get(number).text == "cab bad"
    stats = locked.ask("bob", "/v1/feedback/stats").json()
    assert stats["counts"]["corrected"]["utterances"] == 1 and stats["reviewers_wanted"] == 2
    assert stats["agreement"] == {"utterances": 1, "same": 1, "share": 1.0, "word_error_rate": 0.0}


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        ({"action": "reject"}, 422, "no reason"),
        ({"action": "edit"}, 422, "no words"),
        ({"action": "edit", "text": "xyz"}, 422, "x y z"),
        ({"action": "forget"}, 422, "action"),
        ({"action": "skip", "reviewer": "eve"}, 422, "reviewer"),
        ({"action": "edit", "text": "a" * 70000}, 413, "larger"),
    ],
)
def test_a_review_that_cannot_be_used_is_refused(
    locked: Locked, given: dict[str, str], status: int, words: str
) -> None:
    number = locked.add("anna", "ab", 8)
    answer = locked.ask("bob", f"/v1/feedback/{number}/review", **given)
    assert answer.status_code == status and words in answer.json()["error"]["message"], answer.text
    assert locked.store.get(number).reviews == ()


def test_utterances_that_are_not_there(locked: Locked) -> None:
    number = locked.add("anna", "ab", 9)
    locked.store.erase([number], "test")
    for path, status in ((f"/v1/feedback/{number}", 410), ("/v1/feedback/99999", 404), (f"/v1/feedback/{2**62}", 404)):
        for answer in (
            locked.ask("bob", path),
            locked.ask("bob", f"{path}/audio"),
            locked.ask("bob", f"{path}/review", action="skip"),
        ):
            assert answer.status_code == status
            assert str(locked.store.folder) not in answer.text
    assert locked.ask("bob", f"/v1/feedback/{2**64}").status_code == 422
    assert locked.ask("bob", "/v1/feedback/queue?after=x").status_code == 400


def test_each_request_is_in_the_audit_log_without_names_and_texts(locked: Locked) -> None:
    expected = {("anna", "POST /v1/feedback", 16), ("bob", "POST /v1/feedback/{number}/review", 0)}

    def count() -> Counter[tuple[str, str, int]]:
        lines = [json.loads(line) for line in locked.audit.read_text().splitlines()]
        return Counter((line["key"], line["route"], len(line["model"] or "")) for line in lines)

    before = count()
    number = locked.add("anna", "dad dab", 10, text="dad dab", speaker="s-hidden")
    locked.ask("bob", f"/v1/feedback/{number}/review", action="reject", reason="noisy-reason")
    wait_for(lambda: expected <= set(count() - before))  # A line is written after its answer.
    text = locked.audit.read_text()
    assert "dad dab" not in text and "s-hidden" not in text and "noisy-reason" not in text


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.create(tmp_path / "store")
    yield store
    store.close()


def add(store: Store, number: int, confidence: float, correction: str | None = None) -> int:
    hypothesis = Hypothesis(text="ab", model="m", confidence=confidence)
    audio = str(number).encode()
    new = NewUtterance(audio=audio, suffix=".wav", seconds=1, source="test", consent="yes", hypothesis=hypothesis)
    return store.add(new, "anna", correction).id


def test_pages_of_the_queue_have_each_utterance_once(serve: Serve, store: Store) -> None:
    """Conflicts come first, whatever their priority, and a page can end between both."""
    numbers = [
        add(store, number, confidence=number / 10, correction="ab" if number % 3 == 0 else None) for number in range(9)
    ]
    for number in numbers[::3]:
        store.review(number, Review(reviewer="bob", action="edit", text="cab"))
    expected = [each.id for each in store.queue(100, "eve")]
    assert len(expected) == 9 and expected[:3] == numbers[::3]
    with serve(feedback=store.folder) as address:
        for limit in (1, 2, 3, 4, 8, 9):
            found, after = [], ""
            while after is not None:
                query = f"limit={limit}&after={after}&reviewer=eve"
                page = ask(address, f"/v1/feedback/queue?{query}").json()
                assert page["reviewer"] == "eve" and not page["has_keys"]
                found += [each["id"] for each in page["data"]]
                after = page["after"]
            assert found == expected


def test_without_keys_a_reviewer_gives_a_name(serve: Serve, store: Store) -> None:
    number = add(store, 1, 0.5)
    with serve(feedback=store.folder) as address:
        path = f"/v1/feedback/{number}/review"
        named = {"X-Reviewer": "J%C3%BCrgen%20%E4%BD%A0"}
        assert ask(address, path, action="skip").status_code == 200
        assert ask(address, path, action="skip", headers=named).status_code == 200
        assert ask(address, f"{path}?reviewer={'x' * 65}", action="skip").status_code == 422
        assert ask(address, path, action="skip", headers={"X-Reviewer": "a%0Ab"}).status_code == 422
    assert [each.reviewer for each in store.get(number).reviews] == ["anyone", "Jürgen 你"]


def test_a_failed_store_is_answered_without_its_place(serve: Serve, store: Store) -> None:
    with serve(feedback=store.folder) as address:
        with sqlite3.connect(store.folder / "store.sqlite") as connection:
            connection.execute("ALTER TABLE utterances RENAME TO lost")
        answer = ask(address, "/v1/feedback", None, make_wav("ab"), consent="true")
        assert answer.status_code == 503 and "nothing was changed" in answer.json()["error"]["message"]
        assert ask(address, "/v1/feedback/1").status_code == 503
        assert ask(address, "/v1/audio/transcriptions", None, make_wav("ab")).json()["text"] == "ab"
        answer = ask(address, "/v1/audio/transcriptions", None, make_wav("ab"), feedback_consent="true")
        assert answer.status_code == 200 and answer.json()["text"] == "ab"
        assert answer.headers["x-feedback-note"].startswith("The recording was not kept: The feedback store can't")
        assert 'feedback_failures_total{reason="store"} 3.0' in httpx2.get(f"{address}/metrics").text


def test_agreement(store: Store) -> None:
    assert measure_agreement(store) == Agreement() and Agreement().share is None
    assert compare_texts({"anna": "ab cab"}) == Agreement()
    assert compare_texts({"anna": "ab cab", "bob": "ab dad bad"}) == Agreement(utterances=1, errors=2, words=2)
    assert compare_texts({"anna": None, "bob": None}) == Agreement(utterances=1, same=1)
    assert compare_texts({"anna": None, "bob": "ab"}) == Agreement(utterances=1)
    for number, texts in enumerate((("ab cab", "ab  cab"), ("ab cab", "ab dad"), ("ab", None))):
        utterance = add(store, number, 0.5)
        for reviewer, text in zip(("anna", "bob"), texts, strict=True):
            if text is not None:
                store.review(utterance, Review(reviewer=reviewer, action="edit", text="first"))
                store.review(utterance, Review(reviewer=reviewer, action="edit", text=text))
            else:
                store.review(utterance, Review(reviewer=reviewer, action="skip"))
    assert measure_agreement(store) == Agreement(utterances=2, same=1, errors=1, words=4)
    assert measure_agreement(store).word_error_rate == 0.25


def test_the_kind_of_a_file_is_in_its_first_bytes() -> None:
    assert find_suffix(make_wav("ab"), "speech.html") == ".wav"
    assert find_suffix(b"\x00\x00\x00\x20ftypM4A ", None) == ".m4a"
    assert find_suffix(b"?", "speech.MP3") == ".mp3" and find_suffix(b"?", "page.html") == ".mka"


def test_the_store_is_a_setting(tmp_path: Path) -> None:
    environment = {"FINETUNE_SERVE_MODELS": "m", "FINETUNE_SERVE_FEEDBACK": "a"}
    assert load_settings({}, None, environment).feedback == Path("a")
    (tmp_path / "serve.yaml").write_text("models: [m]\nfeedback: b\nfeedback-key-file: key\n")
    assert load_settings({}, tmp_path / "serve.yaml", {}).feedback_key_file == Path("key")
    with pytest.raises(UserError, match="give --feedback STORE"):
        load_settings({"models": ["m"], "feedback_key_file": "key"}, None, {})
