"""What a command line may name, and the recordings that are found there."""

import json
import os
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.audio.waveforms import AudioError, Recording
from finetune.commands import inputs
from finetune.commands.inputs import Input, find_inputs
from finetune.commands.transcription import plan_jobs
from finetune.errors import UserError

FILES = ("talks/one.wav", "talks/two.MP3", "talks/notes.txt", "talks/._one.wav", "talks/day.2/three.flac", "odd.raw")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, which is the current one, with empty files: here only their names count."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def places(found: list[Input]) -> list[tuple[str, str]]:
    return [(each.name, str(each.relative)) for each in found]


def test_folders_are_searched_for_audio(folder: Path) -> None:
    found = find_inputs(["talks"])
    expected = [("talks/day.2/three.flac", "day.2/three"), ("talks/one.wav", "one"), ("talks/two.MP3", "two")]
    assert places(found) == expected
    assert [each.folder for each in found] == [Path("talks/day.2"), Path("talks"), Path("talks")]
    assert not any(each.alone for each in found)


def test_a_file_that_is_named_is_taken_whatever_its_name(folder: Path) -> None:
    (found,) = find_inputs(["talks/notes.txt"])
    assert found == Input(
        "talks/notes.txt", Recording("talks/notes.txt", None), Path("notes"), Path("talks"), alone=True
    )
    (folder / "what[1]?.wav").touch()  # No pattern, for there is such a file.
    (folder / "~tilde.wav").touch()
    assert places(find_inputs(["what[1]?.wav", "~tilde.wav", str(folder / "odd.raw")])) == [
        ("what[1]?.wav", "what[1]?"),
        ("~tilde.wav", "~tilde"),
        (f"{folder}/odd.raw", "odd"),
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("talks/*", ["one", "two"]),
        ("talks/**", ["day.2/three", "one", "two"]),
        ("talks/*.txt", ["notes"]),
        ("**/*.flac", ["talks/day.2/three"]),
        ("*/o?e.wav", ["talks/one"]),
        ("*.raw", ["odd"]),
    ],
)
def test_patterns(folder: Path, pattern: str, expected: list[str]) -> None:
    assert [relative for _, relative in places(find_inputs([pattern]))] == expected
    assert [relative for _, relative in places(find_inputs([f"{folder}/{pattern}"]))] == expected


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("missing.wav", "There is no missing.wav: expected a file, a folder"),
        ("talks/*.ogg", "There is no audio in talks/*.ogg"),
        ("talks/d*", "There is no audio in talks/d*"),
        ("empty", "There is no audio in empty"),
        ("memory://nowhere/*.wav", "There is no audio in memory://nowhere/*.wav"),
        ("words.csv", "has no column audio or file_name"),
        ("nothing.csv", "is empty"),
        ("nowhere://talk.wav", "What is to be transcribed can't be found. nowhere://talk.wav"),
    ],
)
def test_places_where_nothing_is(folder: Path, place: str, words: str) -> None:
    (folder / "empty").mkdir()
    (folder / "words.csv").write_text("text\nhello\n")
    (folder / "nothing.csv").write_text("file_name\n")
    with pytest.raises(UserError) as refused:
        find_inputs(["talks", place])
    assert words in str(refused.value)


def test_manifests_with_pieces_of_recordings_and_rows_that_cant_be_used(folder: Path) -> None:
    (folder / "calls.csv").write_text(
        "file_name,start,end\ntalks/one.wav,,\ntalks/one.wav,1.5,2.25\ntalks/one.wav,x,2\n/etc/passwd,,\n"
    )
    whole, piece, broken, outside = find_inputs(["calls.csv"])
    assert (whole.relative, piece.relative) == (Path("talks/one"), Path("talks/one_1.50-2.25"))
    assert piece.recording == Recording("talks/one.wav", None, 1.5, 2.25)
    assert piece.name == "calls.csv: one.wav_1.50-2.25" and piece.folder == Path("talks")
    assert isinstance(broken.recording, AudioError) and "its start is 'x'" in str(broken.recording)
    assert isinstance(outside.recording, AudioError) and "--allow-outside reads it" in str(outside.recording)
    *_, outside = find_inputs(["calls.csv"], allow_outside=True)
    assert outside.recording == Recording("/etc/passwd", None) and outside.relative == Path("passwd")
    rows = [{"audio_filepath": "one.wav", "offset": 2.0, "duration": 0.5}, {"audio_filepath": None}]
    (folder / "talks/nemo.jsonl").write_text("\n".join(map(json.dumps, rows)))
    piece, broken = find_inputs(["talks/nemo.jsonl"])
    assert piece.relative == Path("one_2.00-2.50") and isinstance(broken.recording, AudioError)


def test_places_elsewhere(folder: Path) -> None:
    elsewhere = fsspec.filesystem("memory")
    for name in FILES:
        elsewhere.pipe(f"/bucket/{name}", b"")
    try:
        for place in ("memory://bucket/talks", "memory://bucket/talks/**"):
            found = find_inputs([place])
            assert [str(each.relative) for each in found] == ["day.2/three", "one", "two"]
            assert found[1].recording == Recording("memory:///bucket/talks/one.wav", None)
            assert {each.folder for each in found} == {None}
        assert [str(each.relative) for each in find_inputs(["memory://bucket/*/*.txt"])] == ["talks/notes"]
        (alone,) = find_inputs(["memory://bucket/talks/one.wav"])
        assert alone.alone and str(alone.relative) == "one"
    finally:
        elsewhere.rm("/bucket", recursive=True)
    (served,) = find_inputs(["https://example.invalid/talks/one.wav?token=x*"])  # Nobody is asked.
    assert str(served.relative) == "one" and served.alone


def test_names_that_are_no_text(folder: Path) -> None:
    name = os.fsdecode(b"talks/caf\xe9.wav")
    Path(name).touch()
    assert name in [each.name for each in find_inputs(["talks"])]


@pytest.mark.parametrize(
    "key",
    ["../../evil.wav", "a/../../../evil.wav", "a/..\\..\\evil.wav", "a\0b.wav", "..", "../evil.wav"],
)
def test_a_key_that_leads_elsewhere_is_named_and_the_others_are_taken(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["memory://bucket/talks/one.wav", f"memory://bucket/talks/{key}", "memory://bucket/talks/day//two.wav"]
    monkeypatch.setattr(inputs, "list_files", lambda place: ("memory://bucket/talks", keys))
    one, evil, two = find_inputs(["memory://bucket/talks/*.wav"])
    assert isinstance(evil.recording, AudioError) and key in str(evil.recording) and evil.relative == Path()
    assert [str(each.relative) for each in (one, two)] == ["one", "day/two"]


@pytest.mark.parametrize(
    ("name", "relative"),
    [("..wav", "..wav"), ("...wav", "...wav"), ("a..wav", "a."), (" .wav", " "), ("C:a.wav", "C:a")],
)
def test_names_of_dots_are_names(folder: Path, name: str, relative: str) -> None:
    Path("odd").mkdir()
    Path("odd", name).touch()
    (found,) = find_inputs([f"odd/{name}"])
    assert str(found.relative) == relative
    Path("odd/list.csv").write_text(f"file_name\n{name}\n")
    (found,) = find_inputs(["odd/list.csv"])
    assert str(found.relative) == relative
    (elsewhere,) = find_inputs([f"https://example.invalid/{name}?sig=a/b"])
    assert str(elsewhere.relative) == relative


def test_a_pattern_of_steps_back_writes_nothing_elsewhere(folder: Path) -> None:
    (found,) = find_inputs(["talks/*/../../odd.raw"])
    assert str(found.relative) == "odd" or isinstance(found.recording, AudioError)
    assert ".." not in found.relative.parts


def test_rows_of_a_manifest_that_name_no_file_are_named(folder: Path) -> None:
    places = [".", "..", "/", "a\0b.wav", "https://", "https://[/x.wav", "x" * 300 + ".wav", "", "talks/one.wav"]
    rows = [{"file_name": place} for place in places] + [{"file_name": 7}, {"file_name": ["a"]}, {"file_name": {}}]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for allow_outside in (False, True):
        found = find_inputs(["list.jsonl"], allow_outside)
        assert len(found) == len(rows)
        assert all(each.relative.parts and ".." not in each.relative.parts for each in found if usable(each))
        assert any(str(each.relative) == "talks/one" for each in found)


def usable(found: Input) -> bool:
    return isinstance(found.recording, Recording)


def test_no_password_becomes_a_name_of_a_file() -> None:
    (found,) = find_inputs(["https://ann:s3cret@example.invalid"])
    assert str(found.relative) == "example"
    assert found.recording == Recording("https://ann:s3cret@example.invalid", None)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.lists(st.sampled_from(["..", ".", "", "a", "a.wav", "..wav", "\0", "\\", "C:", "\ud800"]), min_size=1))
def test_whatever_a_key_is_what_is_written_of_it_is_below_the_output(key: list[str], tmp_path: Path) -> None:
    keys = [f"memory://bucket/{'/'.join(key)}.wav", f"memory://bucket/{''.join(key)}.wav"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(inputs, "list_files", lambda place: ("memory://bucket", keys))
        found = find_inputs(["memory://bucket/*.wav"])
    assert len(found) == 2
    for each in found:
        (job,) = plan_jobs([each], ["text", "json"], tmp_path / "out")
        assert isinstance(each.recording, AudioError) == (not job.files)
        for file in job.files.values():
            assert os.path.normpath(file).startswith(f"{tmp_path}/out/") and "\0" not in str(file)
