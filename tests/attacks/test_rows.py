"""Corpora and recordings of others: nothing is written outside, no row ends a run, no name is obeyed by a terminal."""

import io
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from attacks.limited import Outside, run_limited

CLIPBOARD = "\x1b]52;c;cm0gLXJm\x07"
NAME = f"{CLIPBOARD}\x9b2J\u202e"
TONE = 0.1 * np.sin(np.arange(16000) / 5)


@pytest.fixture
def work(outside: Outside, tmp_path: Path) -> Path:
    return tmp_path / "work"


def write_tone(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    soundfile.write(content, TONE, 16000, format="WAV")
    file.write_bytes(content.getvalue())
    return file


def write_model(model_folder: Path, work: Path) -> Path:
    """The tiny model that writes nothing."""
    (work / "model").symlink_to(model_folder)
    return work / "model"


@pytest.mark.slow
def test_keys_of_a_bucket_write_nothing_outside(outside: Outside, work: Path, model_folder: Path) -> None:
    keys = [
        "good.wav",
        "../../home/evil.wav",
        "a/../../../home/evil.wav",
        "/../evil.wav",
        "a//b.wav",
        "..wav",
        "a\0.wav",
    ]
    keys += ["a\\..\\..\\evil.wav", "C:\\evil.wav", "x" * 300 + ".wav", f"{NAME}.wav", "\udcff.wav", "...wav"]
    (work / "tone").write_bytes(write_tone(work / "tone.wav").read_bytes())
    (work / "python").mkdir()
    # A bucket in memory, in the command's own process.
    (work / "python/sitecustomize.py").write_text(
        "from fsspec.implementations import memory\n"
        "from pathlib import Path\n"
        f"content = Path({str(work / 'tone')!r}).read_bytes()\n"
        "place = memory.MemoryFileSystem()\n"
        "place.pipe('/bucket/good.wav', content)\n"
        f"place.store.update({{'/bucket/' + key: place.store['/bucket/good.wav'] for key in {keys!r}}})\n"
    )
    path = os.pathsep.join([str(work / "python"), os.environ.get("PYTHONPATH", ""), *sys.path[1:2]])
    arguments = ["transcribe", str(write_model(model_folder, work)), "memory://bucket/**/*.wav", "--output", "out"]
    said = run_limited(*arguments, cwd=work, PYTHONPATH=path).require_clean()
    assert "recordings can't be transcribed" in said and "../../home/evil.wav" in said
    written = [file for file in work.parent.rglob("*.txt") if file != outside.text]
    assert work / "out/good.txt" in written and all(file.is_relative_to(work / "out") for file in written)
    outside.require_untouched(work)


@pytest.mark.long
def test_one_row_of_everything_and_the_others_are_used(outside: Outside, work: Path, base_folder: Path) -> None:
    rows = [
        *("[" * 100_000, '{"a":' * 50_000, '["a.wav"]', "\0", "\ud800"),
        '{"file_name": "a.wav", "text": "b", "x": ' + "1" * 5000 + "}",
        *(
            json.dumps({"file_name": "a.wav", "text": "ab", "speaker": "s", **odd})
            for odd in (
                *({"text": text} for text in ("\ud800", "a\0b", {"member": 1}, ["a"], 10**400, f"ab {CLIPBOARD}")),
                *({"file_name": name} for name in ("a\0.wav", ".", "..", {"path": {}}, 7, f"{NAME}.wav", "=1+1.wav")),
                {"offset": 10**400, "duration": 1},
                {"note": {"member": 1}},
                {"unreadable_row": [1]},
                {"audio_channel": "²"},
                {str(number): "" for number in range(3000)},
            )
        ),
    ]  # fmt: skip
    for split in ("train", "validation"):
        write_tone(work / "corpus" / split / "a.wav")
        good = [json.dumps({"file_name": "a.wav", "text": text, "speaker": split}) for text in ("ab", "cab", "bad")]
        for name in ("=1+1.wav", f"{NAME}.wav"):
            (work / "corpus" / split / name).write_text("no audio")
        content = "\n".join([good[0], *rows, *good[1:]])
        (work / "corpus" / split / "metadata.jsonl").write_text(content, errors="surrogatepass")
    (work / "recipe.yaml").write_text(
        json.dumps({"model": {"base": str(base_folder)}, "data": {"root": "corpus"}, "training": {"max_steps": 4}})
    )
    outcome = run_limited("check", "recipe.yaml", "--json", "found.json", "--fix", cwd=work)
    outcome.require_clean(0)
    assert "\x9b" not in outcome.said and "\u202e" not in outcome.said
    found = json.loads((work / "found.json").read_text())
    left_out = [each for each in found["rejected"] if each["split"] == "train"]
    assert found["splits"]["train"]["utterances"] + len(left_out) == len(rows) + 3
    assert found["splits"]["train"]["utterances"] >= 3 and "Error" not in json.dumps(left_out)
    outside.require_untouched(work)


@pytest.mark.slow
def test_tars_whose_members_are_anything(outside: Outside, work: Path, base_folder: Path) -> None:
    names = ["../../evil", "/etc/evil", f"{NAME}", "a/b", "=1+1", "\udcff", "x" * 300]
    descriptions = [b"[" * 100_000, b'{"text": {"member": 1}}', b'{"text": "ab", "note": {"member": 1}}', b"\0", b"{"]
    tone = write_tone(work / "tone.wav").read_bytes()
    for split in ("train", "validation"):
        with tarfile.open(work / f"{split}-0.tar", "w") as archive:
            for number, name in enumerate([*names, *names]):
                for suffix, content in ((".wav", tone), (".json", descriptions[number % len(descriptions)])):
                    add(
                        archive,
                        f"{number}-{name}{suffix}" if number < len(names) else f"{name}{number}{suffix}",
                        content,
                    )
    (work / "tone.wav").unlink()
    recipe = {"model": {"base": str(base_folder)}, "data": {"root": "."}, "training": {"max_steps": 4}}
    (work / "recipe.yaml").write_text(json.dumps(recipe))
    outcome = run_limited("train", "recipe.yaml", "--output", "run", cwd=work)
    outcome.require_clean(0)
    assert "\x9b" not in outcome.said
    for cell in (cell for line in (work / "run/rejected.csv").read_text().splitlines() for cell in line.split(",")):
        assert cell[:1] not in ("=", "+", "-", "@") and "\x1b" not in cell
    outside.require_untouched(work)


@pytest.mark.slow
def test_a_folder_of_recordings_that_are_anything(outside: Outside, work: Path, model_folder: Path) -> None:
    talks = work / "talks"
    write_tone(talks / "good.wav")
    for name in (f"{NAME}.wav", "a\nb.wav", "..wav", "\udcff.wav", "=1+1.wav"):
        write_tone(talks / "odd" / name)
        (talks / f"broken{name}").write_text("no audio")
    for number, value in enumerate((np.nan, np.inf, -np.inf, 1e30, 3e38)):
        for place in (0, 8000, 15 * 16000):
            samples = np.tile(TONE, 20).astype(np.float32)
            samples[place : place + 1 + number] = value
            soundfile.write(talks / f"not-numbers-{number}-{place}.wav", samples, 16000, subtype="FLOAT")
        soundfile.write(talks / f"nothing-else-{number}.wav", np.full(16000, value), 16000, subtype="DOUBLE")
    for rate in (0, 1, 8, 2**31):
        content = bytearray(write_tone(talks / f"rate-{rate}.wav").read_bytes())
        content[24:28] = rate.to_bytes(4, "little")
        (talks / f"rate-{rate}.wav").write_bytes(content)
    (talks / "loop.txt").symlink_to("loop.txt")
    write_tone(talks / "loop.wav")
    said = run_limited("transcribe", str(write_model(model_folder, work)), "talks", cwd=work).require_clean()
    assert " object at 0x" not in said and "Error" not in said and "Warning" not in said
    assert said.count("louder than any sound: ") >= 6 and said.count("not-numbers-") == 15
    assert said.count("nothing-else-") == 5 and said.count("rate-") == 4
    assert {file.name for file in talks.glob("*.txt")} == {"good.txt", "loop.txt"}
    assert len(list(talks.glob("odd/*.txt"))) == 4  # A name that begins with a dot is hidden.
    outside.require_untouched(work)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
