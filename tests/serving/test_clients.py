"""Clients that others wrote, unchanged: OpenAI's, Hugging Face's and one of Vosk's protocol."""

import asyncio
import base64
import io
import json
from itertools import pairwise
from typing import Any

import numpy as np
import openai
import pytest
import soundfile
from conftest import SAMPLING_RATE, speak
from huggingface_hub import InferenceClient
from speech_requests import make_wav


@pytest.fixture
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def test_openai_transcribes_in_every_format(client: openai.OpenAI) -> None:
    wav = make_wav("bad cab")
    ask: Any = client.audio.transcriptions.create
    assert ask(file=("a.wav", wav), model="tones").text == "bad cab"
    assert ask(file=("a.wav", wav), model="tones", response_format="text") == "bad cab\n"
    assert "00:00:00,0" in ask(file=("a.wav", wav), model="tones", response_format="srt")
    assert ask(file=("a.wav", wav), model="tones", response_format="vtt").startswith("WEBVTT")
    verbose = ask(
        file=("a.wav", wav), model="tones", response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert [word.word for word in verbose.words] == ["bad", "cab"]
    assert verbose.words[0].start < verbose.words[0].end <= verbose.words[1].start < verbose.words[1].end
    assert verbose.duration == pytest.approx(0.9) and [each.text for each in verbose.segments] == ["bad cab"]


def make_talk(texts: list[str]) -> np.ndarray:
    """Texts with pauses of 0.8 s between them: (samples,)."""
    rng = np.random.default_rng(1)
    pause = 0.002 * rng.standard_normal(int(0.8 * SAMPLING_RATE))
    parts = [part for text in texts for part in (pause, speak(text, rng))]
    return np.concatenate([*parts, pause]).astype(np.float32)


def to_pcm(samples: np.ndarray) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


TEXTS = ["bad cab add", "dad dab", "cab bad dad add", "add", "dab dab bad", "cab"]


def test_a_stream_begins_before_the_recording_is_done(client: openai.OpenAI) -> None:
    file = io.BytesIO()
    soundfile.write(file, make_talk(TEXTS * 5), SAMPLING_RATE, format="WAV")
    stream: Any = client.audio.transcriptions.create(file=("a.wav", file.getvalue()), model="tones", stream=True)
    events = list(stream)
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    segments = [event for event in events if event.type == "transcript.text.segment"]
    assert "".join(deltas) == " ".join(TEXTS * 5) == events[-1].text
    assert events[-1].type == "transcript.text.done" and len(deltas) == len(segments) == 30
    assert all(one.end <= two.start for one, two in pairwise(segments))
    whole = client.audio.transcriptions.create(file=("a.wav", file.getvalue()), model="tones")
    assert whole.text == events[-1].text


def test_openai_lists_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tones"]
    assert client.models.retrieve("tones").id == "tones"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("whisper-1")
    assert caught.value.code == "model_not_found" and "tones" in caught.value.message


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"include": ["logprobs"]}, "include"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities"),
    ],
)
def test_what_a_ctc_model_cannot_do_is_refused(client: openai.OpenAI, options: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(file=("a.wav", make_wav("bad")), model="tones", **options)
    assert caught.value.param == param


def test_openai_realtime_finds_turns(address: str) -> None:
    talk = make_talk(TEXTS[:3])
    events = asyncio.run(speak_realtime(address, to_pcm(talk), 16000, None))
    kinds = [event.type.rsplit(".", 1)[-1] for event in events]
    assert [event.transcript for event in events if event.type.endswith(".completed")] == TEXTS[:3]
    for item in {event.item_id for event in events if hasattr(event, "item_id")}:
        own = [event.type for event in events if getattr(event, "item_id", None) == item]
        assert own[0] == "input_audio_buffer.speech_started" and own[-1].endswith("completed")
        deltas = "".join(each.delta for each in events if each.type.endswith("delta") and each.item_id == item)
        assert deltas in TEXTS
    assert kinds[:2] == ["created", "updated"]
    started = [event.audio_start_ms for event in events if event.type.endswith("speech_started")]
    assert started[0] < 900 < started[1] < started[2]


@pytest.mark.parametrize(("form", "rate"), [("audio/pcm", 24000), ("audio/pcmu", 8000), ("audio/pcma", 8000)])
def test_openai_realtime_takes_its_formats_in_manual_turns(address: str, form: str, rate: int) -> None:
    from scipy.signal import resample_poly

    samples = resample_poly(make_talk(["bad cab", "dad"]), rate, SAMPLING_RATE)
    if form == "audio/pcm":
        audio = to_pcm(samples)
    else:
        file = io.BytesIO()
        subtype = "ULAW" if form == "audio/pcmu" else "ALAW"
        soundfile.write(file, samples, rate, format="RAW", subtype=subtype)
        audio = file.getvalue()
    events = asyncio.run(speak_realtime(address, audio, rate, form))
    assert [event.transcript for event in events if event.type.endswith(".completed")] == ["bad cab dad"]
    assert not any(event.type.endswith("speech_started") for event in events)


async def speak_realtime(address: str, audio: bytes, rate: int, form: str | None) -> list[Any]:
    """Send audio as OpenAI's client does; with a format turns are manual. Returns all events until the last text."""
    client = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none")
    given: dict[str, Any] = {"format": {"type": form or "audio/pcm"}}
    if (form or "audio/pcm") == "audio/pcm":
        given["format"]["rate"] = rate
    if form:
        given["turn_detection"] = None
    events = []
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        await connection.session.update(session={"type": "transcription", "audio": {"input": given}})
        for place in range(0, len(audio), 4800):
            block = base64.b64encode(audio[place : place + 4800]).decode()
            await connection.input_audio_buffer.append(audio=block)
        await connection.input_audio_buffer.commit()
        await connection.input_audio_buffer.commit()  # There is nothing left: the answer is an error.
        async for event in connection:
            events.append(event)
            if event.type == "error":
                assert event.error.code == "input_audio_buffer_commit_empty"
                return events[:-1]
    raise AssertionError(events)


def test_an_error_in_a_realtime_session_leaves_it_open(address: str) -> None:
    async def run() -> list[dict[str, Any]]:
        from websockets.asyncio.client import connect

        async with connect(f"ws{address[4:]}/v1/realtime?intent=transcription") as socket:
            for message in (
                "{",
                '{"type": "response.create", "event_id": "e1"}',
                '{"type": "input_audio_buffer.append", "audio": "%"}',
                '{"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/mp3"}}}}}',
                '{"type": "session.update", "session": {"audio": {"input": {"transcription": {"model": "x"}}}}}',
                '{"type": "session.update", "session": {"include": ["item.input_audio_transcription.partial"]}}',
            ):
                await socket.send(message)
            return [json.loads(await socket.recv()) for _ in range(7)]

    created, *errors, updated = asyncio.run(run())
    assert created["type"] == "session.created" and updated["type"] == "session.updated"
    assert [error["type"] for error in errors] == ["error"] * 5
    assert errors[1]["error"]["event_id"] == "e1" and all(error["error"]["message"] for error in errors)


@pytest.mark.parametrize("finds_turns", [True, False])
def test_final_texts_have_words_with_times_if_partials_are_wanted(address: str, finds_turns: bool) -> None:
    async def run() -> list[dict[str, Any]]:
        from websockets.asyncio.client import connect

        given: dict[str, Any] = {"format": {"type": "audio/pcm", "rate": 16000}}
        if not finds_turns:
            given["turn_detection"] = None
        session = {"audio": {"input": given}, "include": ["item.input_audio_transcription.partial"]}
        append = {"type": "input_audio_buffer.append", "audio": base64.b64encode(to_pcm(make_talk(TEXTS[:2]))).decode()}
        events = []
        async with connect(f"ws{address[4:]}/v1/realtime?intent=transcription") as socket:
            await socket.send(json.dumps({"type": "session.update", "session": session}))
            for _ in range(2):
                await socket.send(json.dumps(append))
                await socket.send('{"type": "input_audio_buffer.commit"}')
            await socket.send('{"type": "input_audio_buffer.clear"}')
            while not events or events[-1]["type"] != "input_audio_buffer.cleared":
                events.append(json.loads(await socket.recv()))
        return [event for event in events if event["type"].endswith(".completed")]

    finals = asyncio.run(run())
    assert [each["transcript"] for each in finals] == 2 * (TEXTS[:2] if finds_turns else [" ".join(TEXTS[:2])])
    assert all(" ".join(word["word"] for word in each["words"]) == each["transcript"] for each in finals)
    words = [word for each in finals for word in each["words"]]
    assert all(word["start"] < word["end"] and 0 < word["confidence"] <= 1 for word in words)
    # The second turn goes on where the first one ended.
    seconds, half = len(make_talk(TEXTS[:2])) / 16000, len(words) // 2
    for one, other in zip(words[:half], words[half:], strict=True):
        assert other["start"] - one["start"] == pytest.approx(seconds, abs=0.002)


def test_a_vosk_client_gets_one_answer_for_each_message(address: str) -> None:
    async def run() -> list[dict[str, Any]]:
        from websockets.asyncio.client import connect

        audio, answers = to_pcm(make_talk(TEXTS[:3])), []
        async with connect(f"ws{address[4:]}/") as socket:  # As test.py of vosk-server does it.
            await socket.send('{"config": {"sample_rate": 16000}}')
            for place in range(0, len(audio), 6400):
                await socket.send(audio[place : place + 6400])
                answers.append(json.loads(await socket.recv()))
            await socket.send('{"eof" : 1}')
            answers.append(json.loads(await socket.recv()))
        return answers

    answers = asyncio.run(run())
    texts = [answer["text"] for answer in answers if answer.get("text")]
    assert " ".join(texts) == " ".join(TEXTS[:3])
    words = [word for answer in answers for word in answer.get("result", ())]
    assert [word["word"] for word in words] == " ".join(TEXTS[:3]).split()
    assert [word["start"] for word in words] == sorted(word["start"] for word in words)
    assert any(answer.get("partial") for answer in answers)


def test_a_hugging_face_client_transcribes(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    wav = make_wav("bad cab")
    assert InferenceClient(base_url=address).automatic_speech_recognition(wav).text == "bad cab"
    found: Any = InferenceClient(f"{address}/models/tones").automatic_speech_recognition(wav)
    assert found.text == "bad cab" and found.chunks[0].text == "bad cab"
