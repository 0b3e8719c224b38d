"""Recordings to files: which are written, what bad input does to the others, and what a stop leaves."""

import errno
import functools
import http.server
import io
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from programs import started

from finetune.cli import main

RATE = 16000


def write_noise(file: Path, seconds: float = 1.0, seed: int = 0, channels: int = 1) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(seed).standard_normal((round(RATE * seconds), channels))
    soundfile.write(file, samples, RATE)
    return file


@pytest.fixture
def talks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`talks/` in the current folder, with three recordings."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("one.wav", "day.2/two.flac", "day.2/three.wav")):
        write_noise(tmp_path / "talks" / name, 1 + seed / 2, seed)
    return Path("talks")


def written(folder: Path) -> dict[str, str]:
    """The texts of a folder's files but the audio; hidden ones too."""
    files = [
        file for file in folder.rglob("*") if file.is_file() and file.suffix not in (".wav", ".flac", ".mp4", ".csv")
    ]
    return {file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8") for file in sorted(files)}


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


Transcribe = Callable[..., tuple[int, str, str]]


@pytest.fixture
def transcribe(model: Path, capsys: pytest.CaptureFixture[str]) -> Transcribe:
    """`transcribe(INPUT, …)` runs the command; its exit code and what it printed."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["transcribe", str(model), *map(str, arguments)])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out, printed.err

    return run


def test_the_text_of_a_single_file_is_printed_and_nothing_is_written(talks: Path, transcribe: Transcribe) -> None:
    code, text, said = transcribe(talks / "one.wav")
    assert code == 0 and len(text) > 10 and text.endswith("\n") and said == ""
    assert written(talks) == {}
    assert transcribe(talks / "one.wav", "--format", "text")[0] == 0
    assert written(talks) == {"one.txt": text}


def test_files_are_written_beside_the_recordings_or_in_a_folder_like_theirs(
    talks: Path, transcribe: Transcribe
) -> None:
    code, printed, said = transcribe(talks)
    assert code == 0 and printed == ""
    assert said.startswith("3 of 3 recordings, 4.5 seconds of audio, in ") and "real-time factor 0." in said
    beside = written(talks)
    assert list(beside) == ["day.2/three.txt", "day.2/two.txt", "one.txt"]
    for arguments in ((talks,), (talks / "**",)):
        assert transcribe(*arguments, "--output", "out/here")[0] == 0
        assert written(Path("out")) == {f"here/{name}": text for name, text in beside.items()}
        shutil.rmtree("out")
    assert transcribe(talks / "one.wav", talks / "day.2/two.flac", "--output", "out")[0] == 0
    assert written(Path("out")) == {"one.txt": beside["one.txt"], "two.txt": beside["day.2/two.txt"]}


def test_several_formats(talks: Path, transcribe: Transcribe) -> None:
    formats = ("json", "srt", "vtt", "ctm", "textgrid", "srt")
    code, *_ = transcribe(talks / "one.wav", *(word for form in formats for word in ("--format", form)))
    assert code == 0
    files = written(talks)
    assert set(files) == {"one.json", "one.srt", "one.vtt", "one.ctm", "one.TextGrid"}
    words = json.loads(files["one.json"])["words"]
    assert [line.split()[4] for line in files["one.ctm"].splitlines()] == [word["text"] for word in words]
    assert all(line.startswith("one 1 ") for line in files["one.ctm"].splitlines())
    assert words[0]["start"] >= 0 and words[-1]["end"] <= 1.0


def test_resumed_it_does_what_is_left(talks: Path, transcribe: Transcribe) -> None:
    (talks / "one.txt").write_text("mine")
    before = written(talks)
    code, _, said = transcribe(talks, "--format", "text", "--format", "srt")
    assert code == 2 and "talks/one.txt is there already, and nothing is overwritten: --resume leaves out" in said
    assert written(talks) == before
    code, _, said = transcribe(talks, "--format", "text", "--format", "srt", "--resume")
    assert code == 0 and said.startswith("3 of 3")
    files = written(talks)
    assert len(files) == 6 and files["one.txt"] == "mine" and "-->" in files["one.srt"]
    assert transcribe(talks, "--resume") == (0, "", "everything is transcribed already\n")
    _, _, said = transcribe(talks)
    assert "is there already, as are 2 other files" in said


def test_a_recording_named_twice_is_done_once_and_two_with_one_output_are_refused(
    talks: Path, transcribe: Transcribe
) -> None:
    assert transcribe(talks, talks / "one.wav", "./talks/../talks/one.wav", "--resume")[0] == 2  # Another name of it.
    code, _, said = transcribe(talks, talks / "one.wav")
    assert code == 0 and said.startswith("3 of 3")
    write_noise(talks / "day.2/one.flac")
    for arguments in ((talks / "one.wav", talks / "day.2/one.flac"), (talks / "one.wav", talks / "day.2")):
        code, _, said = transcribe(*arguments, "--output", "out")
        assert code == 2 and "would both be written to out/one.txt: transcribe them one after the other" in said
    write_noise(talks / "day.2/two.wav")
    assert "talks/day.2/two.flac and talks/day.2/two.wav would both be written to" in transcribe(talks, "--resume")[2]
    assert not Path("out").exists()


def test_bad_recordings_are_named_with_their_reasons_and_the_others_are_done(
    talks: Path, transcribe: Transcribe
) -> None:
    (talks / "empty.wav").touch()
    (talks / "words.wav").write_text("words, not audio")
    (talks / "film.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(1000))
    write_noise(talks / "none.wav", 0.0)
    write_noise(talks / "click.wav", 0.01)
    for name in ("cut1.flac", "cut2.wav"):
        whole = write_noise(talks / name, 2.0).read_bytes()
        (talks / name).write_bytes(whole[: len(whole) // 2])
    soundfile.write(talks / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    (talks / "gone.wav").symlink_to("nowhere.wav")
    os.mkfifo(talks / "pipe.wav")
    (talks / "two\nlines.wav").touch()
    (talks / "calls.csv").write_text("file_name\none.wav\n../outside.wav\n")
    code, _, said = transcribe(talks, talks / "calls.csv")
    assert code == 2 and list(written(talks)) == ["day.2/three.txt", "day.2/two.txt", "one.txt"]
    first, *reasons = said.splitlines()[:-1]
    assert first == "finetune: 12 of 15 recordings can't be transcribed:" and len(reasons) == 12
    for name, words in {
        "empty.wav": "unreadable audio: the file is empty",
        "words.wav": "unreadable audio",
        "film.mp4": "unreadable audio",
        "none.wav": "audio of zero length",
        "click.wav": "too short: 0.010 s; expected 0.05 s or more",
        "cut1.flac": "unreadable audio",
        "cut2.wav": "truncated audio",
        "nan.wav": "not numbers",
        "gone.wav": "a broken link",
        "pipe.wav": "a pipe",
        r"two\nlines.wav": "the file is empty",
        "calls.csv: outside.wav": "outside the corpus",
    }.items():
        (reason,) = [reason for reason in reasons if name in reason]
        assert words in reason


def test_folders_behind_links_and_closed_ones(
    talks: Path, transcribe: Transcribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_noise(Path("elsewhere/four.wav"))
    (talks / "link").symlink_to(Path("elsewhere").absolute())
    (talks / "day.2" / "loop").symlink_to(talks.absolute())
    (talks / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:  # Root may look into any folder.
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    code, _, said = transcribe(talks, "--output", "out")
    assert code == 2 and "1 of 5 recordings can't be transcribed" in said
    assert "talks/closed: a folder that can't be looked into: Permission denied" in said
    assert set(written(Path("out"))) == {"one.txt", "day.2/two.txt", "day.2/three.txt", "link/four.txt"}
    assert "An input is empty" in transcribe("")[2]
    code, _, said = transcribe(talks / "closed")
    assert code == 2 and "Permission denied" in said


@pytest.mark.parametrize(
    "name", ["x" * 251, "100 %s %d {0}", "new\nline", "\N{GRINNING FACE}" * 62, "-rf", " ", "ü\u0308"]
)
def test_any_name_of_a_file(talks: Path, transcribe: Transcribe, name: str) -> None:
    write_noise(Path("named") / f"{name}.wav")
    formats = [word for form in ("text", "json", "srt", "vtt", "ctm") for word in ("--format", form)]
    assert transcribe("named", *formats)[0] == (0 if len(f"{name}.json".encode()) <= 255 else 2)
    assert f"{name}.txt" in written(Path("named"))
    assert not [file for file in Path("named").iterdir() if file.name.endswith(".partial")]


def test_a_folder_where_a_file_must_be_is_no_result(talks: Path, transcribe: Transcribe) -> None:
    (talks / "one.txt").mkdir()
    code, _, said = transcribe(talks, "--resume")
    assert code == 2 and "one.wav: can't be written: Is a directory" in said and "2 of 3 recordings, " in said


@pytest.mark.long
def test_who_stops_reading_what_is_printed(talks: Path, model: Path) -> None:
    command = f"{sys.executable} -m finetune transcribe {model} {talks / 'one.wav'}; echo $? >&2"
    with started(["sh", "-c", f"({command}) | true"]) as running:
        said = running.wait(60)
    assert said == "141\n"


def test_one_bad_recording_in_the_middle_of_many(talks: Path, transcribe: Transcribe) -> None:
    many = Path("many")
    first = write_noise(many / "000.wav", 0.1)
    for number in range(1, 200):
        os.link(first, many / f"{number:03d}.wav")
    (many / "100.wav").unlink()
    (many / "100.wav").write_bytes(b"RIFF")
    code, _, said = transcribe(many)
    assert code == 2 and "1 of 200 recordings" in said and "100.wav: unreadable audio" in said
    assert len(written(many)) == 199 and len(set(written(many).values())) == 1


def test_silence_and_music(talks: Path, transcribe: Transcribe) -> None:
    # An hour and a half of silence, of which the disk holds nothing.
    with soundfile.SoundFile("silence.wav", "w", 8000, 1) as file:
        file.write(np.zeros(8000, np.int16))
    samples = 8000 * 5400
    header = bytearray(Path("silence.wav").read_bytes()[:44])
    header[4:8], header[40:44] = ((36 + 2 * samples).to_bytes(4, "little"), (2 * samples).to_bytes(4, "little"))
    Path("silence.wav").write_bytes(header)
    os.truncate("silence.wav", 44 + 2 * samples)
    assert transcribe("silence.wav") == (0, "\n", "")
    seconds = np.arange(60 * RATE) / RATE
    chord = sum(
        np.sin(2 * np.pi * pitch * seconds) * (1 + np.sin(seconds * speed))
        for pitch, speed in ((220, 3), (277, 5), (330, 7))
    )
    soundfile.write("music.flac", 0.1 * chord, RATE)
    code, _, said = transcribe("music.flac", "--format", "srt")
    assert code == 0 and said.startswith("1 of 1 recordings, 60.0 seconds"), said


def test_standard_input_is_printed_or_written(
    talks: Path, transcribe: Transcribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (talks / "one.wav").read_bytes()

    def piped(size: int, *arguments: object) -> tuple[int, str, str]:
        reading, writing = os.pipe()

        def write() -> None:
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(content[:size])

        thread = threading.Thread(target=write)
        thread.start()
        with os.fdopen(reading, "r") as pipe, monkeypatch.context() as patched:
            patched.setattr(sys, "stdin", pipe)
            try:
                return transcribe("-", *arguments)
            finally:
                thread.join(10)

    expected = transcribe(talks / "one.wav")
    assert piped(len(content)) == expected
    assert json.loads(piped(len(content), "--format", "json")[1])["text"] + "\n" == expected[1]
    assert piped(len(content), "--output", "out")[0] == 0 and written(Path("out")) == {"stdin.txt": expected[1]}
    code, printed, said = piped(len(content) // 2)
    assert code == 2 and printed == "" and said.startswith("finetune: standard input: ") and "truncated" in said
    _, _, said = piped(0, "--format", "srt", "--format", "vtt")
    assert said == "finetune: Only one format can be printed, not srt and vtt: add --output DIR.\n"


def test_recordings_on_a_web_server(talks: Path, transcribe: Transcribe) -> None:
    expected = transcribe(talks / "one.wav")
    handler = functools.partial(QuietHandler, directory=talks)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        assert transcribe(f"{root}/one.wav") == expected
        code, _, said = transcribe(f"{root}/one.wav?token=1", f"{root}/none.wav", "--output", "out")
        server.shutdown()
    assert code == 2 and f"{root}/none.wav: unreadable audio: no such file" in said
    assert written(Path("out")) == {"one.txt": expected[1]}


def test_places_that_cant_be_written(talks: Path, transcribe: Transcribe) -> None:
    Path("file").touch()
    code, _, said = transcribe(talks, "--output", "file")
    assert code == 2 and "file is a file: expected a folder for --output" in said
    code, _, said = transcribe("https://example.invalid/talk.wav", "--format", "srt")
    assert code == 2 and "Nothing is written beside https://example.invalid/talk.wav: say where" in said
    Path("out").mkdir()
    Path("out/day.2").touch()  # Where a folder must be.
    code, _, said = transcribe(talks, "--output", "out")
    assert code == 2 and said.count("can't be written: ") == 2 and "1 of 3 recordings, " in said
    assert set(written(Path("out"))) == {"one.txt", "day.2"}


def test_channels_are_transcribed_by_themselves(talks: Path, transcribe: Transcribe) -> None:
    write_noise(Path("call.wav"), 2.0, 5, channels=2)
    assert transcribe("call.wav")[1].count("\n") == 1
    code, printed, _ = transcribe("call.wav", "--channels")
    assert code == 0 and len(set(printed.splitlines())) == 2
    assert transcribe("call.wav", "--channels", "--format", "vtt", "--format", "json")[0] == 0
    assert "<v Channel 2>" in Path("call.vtt").read_text()
    assert {word["channel"] for word in json.loads(Path("call.json").read_text())["words"]} == {1, 2}


def test_hotwords_of_a_file(talks: Path, transcribe: Transcribe) -> None:
    plain = transcribe(talks / "one.wav", "--decoder", "beam")[1]
    Path("words.txt").write_text("dad=300\n\ncab\n")
    assert transcribe(talks / "one.wav", "--hotwords", "words.txt")[1].count("dad") > plain.count("dad")
    Path("words.txt").write_text("dad=much\n")
    assert "words.txt: dad=much: expected WORD or WORD=BOOST" in transcribe(talks, "--hotwords", "words.txt")[2]
    assert "nowhere.txt can't be read: No such file" in transcribe(talks, "--hotwords", "nowhere.txt")[2]
    assert "There is no language model in talks" in transcribe(talks, "--language-model", "talks")[2]


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "many"])
def test_batches_of_no_length(talks: Path, transcribe: Transcribe, seconds: str) -> None:
    with pytest.raises(SystemExit) as ended:
        transcribe(talks, f"--batch-seconds={seconds}")
    assert ended.value.code == 2


def test_the_text_is_that_of_any_batches(talks: Path, transcribe: Transcribe) -> None:
    assert transcribe(talks)[0] == 0
    for seconds in ("auto", "1", "100"):
        assert transcribe(talks, "--batch-seconds", seconds, "--output", seconds)[0] == 0
        assert written(Path(seconds)) == written(talks)


@pytest.mark.long
def test_a_terminal_is_told_how_far_it_is(talks: Path, transcribe: Transcribe, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    first = write_noise(Path("many/00.wav"), 15.0)
    for number in range(1, 60):
        os.link(first, f"many/{number:02d}.wav")
    Path("many/bad.wav").touch()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", terminal)
        assert transcribe("many")[0] == 2
    *shown, rest = terminal.getvalue().split("\r")
    assert shown[1].startswith("0 of 61 recordings   0% |") and ", 0 seconds" in shown[1]
    assert any(
        re.search(r"^[1-9]\d* of .* [1-9]\d%.* minutes of audio, real-time factor 0.\d+, 00:\d\d left", line)
        for line in shown
    )
    assert rest.startswith("finetune: 1 of 61 recordings can't be transcribed:\n  many/bad.wav: unreadable audio")


@pytest.mark.long
def test_a_full_disk_stops_it_and_leaves_nothing_half_written(talks: Path, model: Path, transcribe: Transcribe) -> None:
    write_noise(Path("many/a.wav"), 0.5)
    write_noise(Path("many/b.wav"), 15.0)
    write_noise(Path("many/c.wav"), 0.5)
    program = """
import resource, sys
from finetune.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
code = main(sys.argv[1:])
unwanted = tuple(f"finetune.{room}." for room in ("evaluation", "recipe", "run", "training"))
print([name for name in sys.modules if name.startswith(unwanted)])
sys.exit(code)
"""
    command = [sys.executable, "-c", program, "transcribe", model, "many", "--format", "text", "--format", "json"]
    with started(command) as running:
        said = running.wait(120)
    assert running.process.returncode == 2 and "Traceback" not in said
    assert said.endswith("\n[]\n")  # Of training it needs nothing.
    assert "finetune: What many/b.wav says can't be written: File too large. 1 of 3 recordings are done;" in said
    assert list(written(Path("many"))) == ["a.json", "a.txt", "b.txt"]
    assert transcribe("many", "--format", "text", "--format", "json", "--resume")[0] == 0
    assert len(written(Path("many"))) == 6


@pytest.mark.long
def test_after_ctrl_c_what_is_done_is_there_and_the_rest_follows(
    talks: Path, model: Path, transcribe: Transcribe
) -> None:
    first = write_noise(Path("many/000.wav"), 10.0)
    for number in range(1, 100):
        os.link(first, f"many/{number:03d}.wav")
    os.mkfifo("pipe")
    silent = os.open("pipe", os.O_RDWR)  # Nothing comes through it, and it doesn't end.
    command = [sys.executable, "-m", "finetune", "transcribe", model, "many", "-", "--format", "json"]

    def waits() -> bool:
        """Whether something is done and nothing more comes: it waits for the pipe, with the last few in hand."""
        before = len(list(Path("many").glob("[0-9]*.json")))
        time.sleep(1)
        return 0 < before == len(list(Path("many").glob("[0-9]*.json")))

    with started(["sh", "-c", 'exec "$@" < pipe', "sh", *command]) as running:
        running.wait_for(waits, 120)
        running.process.send_signal(signal.SIGINT)
        said = running.wait(60)
    os.close(silent)
    assert running.process.returncode == 130 and "Traceback" not in said, said
    done = written(Path("many"))
    assert 1 <= len(done) < 100 and not any(name.startswith(".") for name in done)
    assert f"finetune: interrupted; {len(done)} of 101 recordings are done; the same command with --resume" in said
    assert transcribe("many", "--format", "json", "--resume")[0] == 0
    assert len(written(Path("many"))) == 100 and len(set(written(Path("many")).values())) == 1
