"""Exports of Label Studio, laid out as its documentation and its own exports are, and tasks for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from feedback.conftest import make_audio, make_utterance

from finetune.audio.waveforms import AudioError
from finetune.cli import main
from finetune.feedback.imports.found_audio import FoundAudio, read_name
from finetune.feedback.store import Store

SEGMENTS = """<View>
  <Labels name="who" toName="sound"><Label value="Speech"/><Label value="Noise"/></Labels>
  <Audio name="sound" value="$call"/>
  <TextArea name="said" toName="sound" rows="2" editable="true" perRegion="true" required="true"/>
  <TextArea name="notes" toName="sound"/>
</View>"""

Import = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_import(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Import:
    """`run_import(tasks, …)` imports an export with the audio of `tmp_path / "audio"`; its code, output and log."""
    (tmp_path / "audio" / "calls").mkdir(parents=True)

    def run(tasks: object, *arguments: object) -> tuple[int, str, str]:
        (tmp_path / "export.json").write_text(json.dumps(tasks))
        capsys.readouterr()
        command = ["feedback", "import", store.folder, tmp_path / "export.json", "--who", "ann"]
        command += ["--consent", "callers/training", "--audio-root", tmp_path / "audio", *arguments]
        code = main([str(each) for each in command])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def whole_text(text: str, **others: object) -> dict[str, Any]:
    """A result of a text field for the whole file."""
    return {
        "value": {"text": [text]},
        "id": f"id-{text}",
        "from_name": "transcription",
        "to_name": "audio",
        "type": "textarea",
        "origin": "manual",
        **others,
    }


def region(key: str, start: float, end: float, text: str | None, channel: int = 0) -> list[dict[str, Any]]:
    """The results of a region: its label, and its text with the same id."""
    place = {"start": start, "end": end, "channel": channel}
    shared = {"original_length": 3.0, "id": key, "to_name": "sound", "origin": "manual"}
    results = [{**shared, "value": {**place, "labels": ["Speech"]}, "from_name": "who", "type": "labels"}]
    if text is not None:
        results.append({**shared, "value": {**place, "text": [text]}, "from_name": "said", "type": "textarea"})
    return results


def annotate(results: list[dict[str, Any]], by: object = 1, **others: object) -> dict[str, Any]:
    return {
        "id": 11,
        "completed_by": by,
        "result": results,
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2024-05-02T10:00:00.000000Z",
        "updated_at": "2024-05-02T10:00:00.000000Z",
        "lead_time": 12.5,
        **others,
    }


def make_task(number: int, place: str, *annotations: dict[str, Any], **others: object) -> dict[str, Any]:
    return {
        "id": number,
        "annotations": list(annotations),
        "file_upload": place.rpartition("/")[2],
        "drafts": [],
        "predictions": [],
        "data": {"audio": place},
        "meta": {},
        "inner_id": number,
        "total_annotations": len(annotations),
        "project": 3,
        **others,
    }


def test_texts_of_whole_files_by_several_annotators(run_import: Import, store: Store, tmp_path: Path) -> None:
    for number, name in enumerate(("one.wav", "calls/two words.wav", "three.wav", "four.wav")):
        (tmp_path / "audio" / name).write_bytes(make_audio(number))
    prediction = {"model_version": "v7", "score": 0.4, "result": [whole_text("alfa")]}
    email = {"id": 6, "email": "eve@example.org"}
    first = [annotate([whole_text("alpha")], 5), annotate([whole_text("alpha")], email)]
    second = [annotate([whole_text("beta")], 5), annotate([whole_text("better")], 6)]
    third = [annotate([whole_text("wrong")], 5), annotate([whole_text("gamma")], 6, ground_truth=True)]
    tasks = [
        make_task(1, "/data/upload/3/0a1b2c3d-one.wav", *first, predictions=[prediction]),
        make_task(2, "/data/local-files/?d=calls/two%20words.wav", *second),
        make_task(3, "https://example.org/x/three.wav?X-Amz-Signature=1", *third),
        make_task(4, "s3://bucket/four.wav", predictions=[prediction, 77], drafts=[annotate([whole_text("draft")])]),
    ]
    code, out, err = run_import(tasks)
    assert (code, out) == (2, "7 rows: 6 new, 1 left out\n")
    assert "another annotation of the task is its ground truth: export.json, task 3" in err
    assert "note: Utterance 2 has different corrections" in err
    one, two, three, four = (store.get(number) for number in range(1, 5))
    assert (one.status, one.text, one.hypotheses[0].model, one.hypotheses[0].confidence) == (
        "corrected",
        "alpha",
        "v7",
        0.4,
    )
    assert [review.reviewer for review in one.reviews] == ["label-studio-5", "eve@example.org"]
    assert (two.status, three.text, four.status) == ("conflict", "gamma", "open")
    assert four.hypotheses[0].text == "alfa" and "draft" not in str(four)
    assert run_import(tasks)[1] == "7 rows: 0 new, 6 known before, 1 left out\n"
    assert [len(store.get(number).reviews) for number in range(1, 5)] == [2, 2, 1, 0]


def test_regions_are_cut_out_and_named_by_the_configuration(run_import: Import, store: Store, tmp_path: Path) -> None:
    (tmp_path / "audio" / "call.wav").write_bytes(make_audio(0, 3.0))
    (tmp_path / "labeling.xml").write_text(SEGMENTS)
    note = {**whole_text("nothing special"), "from_name": "notes", "to_name": "sound"}
    results = [*region("a", 0.25, 1.0, "alpha"), *region("b", 1.5, 2.75, None), *region("c", 1.0, 1.5, " beta "), note]
    predicted = {"model_version": "v1", "result": region("p", 0.25, 1.0, "alfa")}
    task = make_task(9, "x", annotate(results), data={"call": "/data/upload/1/call.wav"}, predictions=[predicted])
    code, out, err = run_import([task])
    assert (code, out) == (2, "") and "has the texts said, notes: say which is meant with --text-name NAME" in err
    for given in (["--config", tmp_path / "labeling.xml", "--text-name", "said"], ["--text-name", "said"]):
        code, out, err = run_import([task], *given)
        assert code == 2 and "a region without a text: export.json, task 9" in err
    assert out == "3 rows: 0 new, 2 known before, 1 left out\n"
    first, second = store.get(1), store.get(2)
    assert [(each.text, each.seconds, each.suffix) for each in (first, second)] == [
        ("alpha", 0.75, ".flac"),
        ("beta", 0.5, ".flac"),
    ]
    assert first.hypotheses[0].text == "alfa" and second.hypotheses == ()


def test_thousands_of_cancelled_annotations_are_one_line(run_import: Import, store: Store, tmp_path: Path) -> None:
    (tmp_path / "audio" / "one.wav").write_bytes(make_audio())
    cancelled = [make_task(number, "one.wav", annotate([], was_cancelled=True)) for number in range(2, 3002)]
    code, out, err = run_import([make_task(1, "one.wav", annotate([whole_text("alpha")])), *cancelled])
    assert (code, out) == (2, "3,001 rows: 1 new, 3,000 left out\n")
    assert err.startswith("finetune: left out: cancelled by its annotator: 3,000 rows: export.json, task 2, ")
    assert err.count("\n") == 1 and store.get(1).text == "alpha"


def test_broken_tasks_are_named_and_the_others_come_in(run_import: Import, store: Store, tmp_path: Path) -> None:
    (tmp_path / "audio" / "one.wav").write_bytes(make_audio())
    for folder in ("calls", ""):
        (tmp_path / "audio" / folder / "twice.wav").write_bytes(make_audio(1))
    good = annotate([whole_text("alpha")])
    bad_region = {**whole_text("x"), "value": {"start": "soon", "end": 1, "text": ["x"]}}
    tasks = [
        make_task(1, "one.wav", good),
        make_task(2, "none.wav", good),
        make_task(3, "twice.wav", good),
        make_task(4, "one.wav", annotate([])),
        make_task(5, "one.wav", annotate([bad_region])),
        make_task(6, "one.wav", annotate([whole_text("x", value={"text": [{"a": 1}]})])),
        make_task(7, "one.wav"),
        make_task(8, "one.wav", good, data={"other": 1}),
        make_task(9, "one.wav", annotations="none"),
        "no task",
    ]
    code, out, err = run_import(tasks)
    assert (code, out) == (2, "10 rows: 1 new, 9 left out\n")
    for words in (
        f"no file named none.wav below {tmp_path}/audio: export.json, task 2",
        "2 files named twice.wav below",
        "an annotation without a text: export.json, task 4",
        "a region from soon to 1; expected seconds: export.json, task 5",
        "its text is not text: export.json, task 6",
        "no annotation: 2 rows: export.json, task 7, export.json, task 9",
        "no audio: its data have no audio: 2 rows: export.json, task 8, export.json, task 10",
    ):
        assert words in err
    assert "Error" not in err and store.count()["corrected"]["utterances"] == 1


@pytest.mark.parametrize(
    ("data", "results", "words"),
    [
        (
            {"image": "a.jpg"},
            [{"type": "rectanglelabels", "value": {}}],
            "without audio with rectanglelabels;",
        ),
        ({"text": "hello"}, [], "is an export of a project without audio; expected texts (TextArea) of audio."),
        ({"audio": "a.wav"}, [{"type": "choices", "value": {"choices": ["x"]}}], "has choices and no texts; expected"),
        (
            {"left": "a.wav", "right": "b.wav"},
            [whole_text("x")],
            "has audio in left, right: give the project's",
        ),
    ],
)
def test_an_export_of_another_project_is_one_sentence(
    run_import: Import, store: Store, data: dict[str, str], results: list[dict[str, Any]], words: str
) -> None:
    code, out, err = run_import([make_task(1, "x", annotate(results), data=data)])
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1 and store.count() == {}


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        ("<View", "is no labeling configuration"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><View/>', "is no labeling configuration: it has a DOCTYPE"),
        ('<View><Image name="i" value="$image"/></View>', "has no TextArea for an Audio"),
        ('<View><Audio name="a" value="x"/><TextArea name="t" toName="a"/></View>', "has the audio 'x'; expected a $"),
    ],
)
def test_configurations_without_a_text_of_audio(
    run_import: Import, tmp_path: Path, configuration: str, words: str
) -> None:
    (tmp_path / "labeling.xml").write_text(configuration)
    code, _, err = run_import([make_task(1, "x.wav")], "--config", tmp_path / "labeling.xml")
    assert code == 2 and words in err and err.count("\n") == 1


def test_a_channel_of_a_region_is_taken_where_channels_are_split(
    run_import: Import, store: Store, tmp_path: Path
) -> None:
    import io

    import numpy as np
    import soundfile

    sound = np.stack([np.full(16000, 0.25), np.full(16000, -0.5)], axis=1)
    soundfile.write(tmp_path / "audio" / "call.wav", sound, 16000)
    results = [*region("a", 0, 0.5, "left"), *region("b", 0, 0.5, "right", channel=1)]
    code, out, _ = run_import([make_task(1, "call.wav", annotate(results))])
    assert (code, out) == (0, "2 rows: 2 new\n")
    means = [round(float(soundfile.read(io.BytesIO(store.read_audio(number)))[0].mean()), 3) for number in (1, 2)]
    assert means == [0.25, -0.5]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("/data/upload/12/ab12cd34-a%20b.wav", "ab12cd34-a b.wav"),
        ("/data/local-files/?d=calls/2024/a%26b.wav", "a&b.wav"),
        ("https://h/x/y.mp3?sig=1&d2=z", "y.mp3"),
        ("gs://bucket/deep/y.flac", "y.flac"),
        ("/data/local-files/?d=../../etc/passwd", "passwd"),
    ],
)
def test_names_of_files_in_tasks(place: str, name: str) -> None:
    assert read_name(place) == name


def test_no_file_outside_the_audio_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "secret.wav").write_bytes(make_audio())
    (tmp_path / "audio" / "link.wav").symlink_to(tmp_path / "secret.wav")
    for name in ("../secret.wav", "link.wav", "/data/local-files/?d=../secret.wav", "..", ""):
        with pytest.raises(AudioError, match="no file"):
            FoundAudio(tmp_path / "audio").find(name)


def test_tasks_go_out_and_come_back_as_the_same_utterances(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        store.add(make_utterance(number, f"heard {number}"), "ann")
    out = tmp_path / "out"
    assert main(["feedback", "review-queue", str(store.folder), "--label-studio", str(out), "--who", "ann"]) == 0
    tasks = json.loads((out / "tasks.json").read_text())
    assert len(tasks) == 3 and len(list((out / "audio").iterdir())) == 3
    for task in tasks:
        [prediction] = task["predictions"]
        assert prediction["score"] == 0.5 and prediction["model_version"] == "m1"
        [result] = prediction["result"]
        assert result["value"]["text"] == [f"heard {task['data']['utterance'] - 1}"]
        task["annotations"] = [annotate([{**result, "value": {"text": ["said"]}}], 4)]
    (tmp_path / "back.json").write_text(json.dumps(tasks))
    command = ["feedback", "import", str(store.folder), str(tmp_path / "back.json"), "--who", "ann"]
    command += ["--audio-root", str(out), "--config", str(out / "labeling.xml")]
    assert main(command) == 0
    assert store.count()["corrected"]["utterances"] == 3 and "open" not in store.count()
    assert all(len(utterance.hypotheses or ("",)) == 1 for utterance in store.iterate_corrected())
    assert [entry.action for entry in store.audit_log()] == ["label studio", "import"]
    capsys.readouterr()
    assert main(["feedback", "review-queue", str(store.folder), "--label-studio", str(out), "--who", "ann"]) == 2
    assert "exists already, and nothing is overwritten" in capsys.readouterr().err
