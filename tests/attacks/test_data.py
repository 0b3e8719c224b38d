"""Data that others made, through the real command: it reads nothing outside, and takes little memory, disk and time."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from attacks.limited import Outside, run_limited
from encoding import encode

TONE = (0.1 * np.sin(np.arange(16000) / 5)).astype(np.float32)


@pytest.fixture
def work(outside: Outside, tmp_path: Path) -> Path:
    """The folder of an attack, with a recording that is harmless."""
    soundfile.write(tmp_path / "work" / "good.wav", TONE, 16000)
    return tmp_path / "work"


def playlists(place: str) -> dict[str, bytes]:
    """What makes FFmpeg open what it names, by kind."""
    hls = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n"
    kinds = {
        "hls": hls.format(place) + "#EXT-X-ENDLIST\n",
        "live": hls.format(place),  # Without an end: FFmpeg asks for more again and again.
        "hls-file": hls.format(f"file://{place}") + "#EXT-X-ENDLIST\n",
        "hls-crypto": hls.format(f"crypto+file:{place}") + "#EXT-X-ENDLIST\n",
        "hls-subfile": hls.format(f"subfile,,start,0,end,0,,:{place}") + "#EXT-X-ENDLIST\n",
        "hls-http": hls.format("http://127.0.0.1:9/diary.wav") + "#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{place}'\n",
        "concat-file": f"ffconcat version 1.0\nfile 'file://{place}'\n",
        "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="dynamic"><Period>'
        f'<AdaptationSet mimeType="audio/mp4"><Representation id="1"><BaseURL>file://{place}</BaseURL><SegmentList>'
        f'<SegmentURL media="{place}"/></SegmentList></Representation></AdaptationSet></Period></MPD>',
        "metadata": f";FFMETADATA1\ntitle={place}\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        "pls": f"[playlist]\nNumberOfEntries=1\nFile1={place}\n",
        "ram": f"rtsp://127.0.0.1:9/diary\nfile://{place}\n",
        "smil": f'<smil><body><audio src="{place}"/></body></smil>',
        "webm-dash": f'<?xml version="1.0"?><MPD><BaseURL>{place}</BaseURL></MPD>',
        "path": place,
    }
    # QuickTime's data reference to another file, as an alias.
    alias = b"\0" * 4 + place.encode()
    dref = b"\0\0\0\0\0\0\0\1" + (12 + len(alias)).to_bytes(4, "big") + b"alis" + b"\0\0\0\0" + alias
    content = {kind: text.encode() for kind, text in kinds.items()}
    content["quicktime"] = b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + (8 + len(dref)).to_bytes(4, "big") + b"dref" + dref
    return content


@pytest.mark.parametrize("suffix", [".mp3", *(pytest.param(each, marks=pytest.mark.slow) for each in (".m4a", ".wav"))])
def test_a_playlist_under_any_name_reads_nothing(outside: Outside, work: Path, model_folder: Path, suffix: str) -> None:
    lists = playlists(str(outside.audio))
    for kind, content in lists.items():
        (work / f"{kind}{suffix}").write_bytes(content)
    said = run_limited("transcribe", str(model_folder), ".", cwd=work).require_clean()
    assert f"{len(lists)} of {len(lists) + 1} recordings can't be transcribed" in said
    assert all(f"{kind}{suffix}: unreadable audio" in said or f"{kind}{suffix}: " in said for kind in lists)
    assert [file.name for file in work.glob("*.txt")] == ["good.txt"]
    outside.require_untouched(work)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hls", "live", "hls-file", "concat", "dash", "quicktime"])
def test_a_playlist_on_standard_input_reads_nothing(
    outside: Outside, work: Path, model_folder: Path, kind: str
) -> None:
    stdin = playlists(str(outside.audio))[kind]
    said = run_limited("transcribe", str(model_folder), "-", cwd=work, stdin=stdin).require_clean()
    assert "standard input: " in said and "audio" in said
    outside.require_untouched(work)


@pytest.mark.slow
def test_numbered_names_are_no_sequence(outside: Outside, work: Path, model_folder: Path) -> None:
    for name in ("%d.wav", "img%03d.mp3", "[0-9].m4a"):
        (work / name).write_bytes(b"")
    said = run_limited("transcribe", str(model_folder), ".", cwd=work).require_clean()
    assert said.count("the file is empty") == 3
    outside.require_untouched(work)


def write_rows(work: Path, form: str, paths: list[str]) -> None:
    """A test split of one good row, and others that name these paths."""
    good = (work / "good.wav").read_bytes()
    if form == "parquet":
        cells = [{"bytes": good, "path": "good.wav"}, *({"bytes": None, "path": path} for path in paths)]
        columns = {"audio": cells, "text": ["ab"] * len(cells)}
        (work / "corpus").mkdir()
        pyarrow.parquet.write_table(pyarrow.table(columns), work / "corpus" / "test.parquet")
        return
    (work / "corpus").mkdir()
    (work / "corpus" / "good.wav").write_bytes(good)
    if form == "jsonl":
        rows = [{"audio": {"path": path, "bytes": None}, "text": "ab"} for path in ["good.wav", *paths]]
        (work / "corpus" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        lines = "\n".join(f"{path},ab" for path in ["good.wav", *paths])
        (work / "corpus" / "test.csv").write_text(f"file_name,text\n{lines}\n")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
def test_rows_that_name_files_elsewhere_are_not_read(
    outside: Outside, work: Path, model_folder: Path, form: str
) -> None:
    place = str(outside.audio)
    paths = [place, f"file://{place}", os.path.relpath(place, work / "corpus"), "http://127.0.0.1:9/diary.wav"]
    paths += [f"{work}/corpus/../../home/diary.wav", f"zip://a.wav::{place}", f"simplecache::file://{place}"]
    write_rows(work, form, paths)
    options = ["--data", "corpus", "--report", "report", "--audio", "--json", "scores.json"]
    said = run_limited("evaluate", str(model_folder), *options, cwd=work).require_clean(0)
    assert said.count("left out: ") == len(paths) and "outside the corpus" in said
    outside.require_untouched(work)


@pytest.mark.slow
def test_a_check_page_holds_nothing_from_elsewhere(outside: Outside, work: Path, base_folder: Path) -> None:
    write_rows(work, "parquet", [str(outside.audio), f"file://{outside.audio}"])
    (work / "corpus" / "test.parquet").rename(work / "corpus" / "train.parquet")
    recipe = {"model": {"base": str(base_folder)}, "data": {"root": "corpus", "validation_split": "train"}}
    (work / "recipe.yaml").write_text(json.dumps(recipe))
    run_limited("check", "recipe.yaml", "--listen", "--html", "page.html", cwd=work).require_clean(0)
    assert (work / "page.html").stat().st_size > 1000
    outside.require_untouched(work)


@pytest.fixture(scope="module")
def two_hours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hours of nearly nothing, in a few hundred kB."""
    file = tmp_path_factory.mktemp("long") / "long.flac"
    block = np.zeros(16000 * 60, np.int16)
    block[:16000] = (1000 * np.sin(np.arange(16000) / 5)).astype(np.int16)
    with soundfile.SoundFile(file, "w", 16000, 1, format="FLAC") as opened:
        opened.write(block)
        for _ in range(119):
            opened.write(np.zeros_like(block))
    assert file.stat().st_size < 2_000_000
    return file


@pytest.mark.slow
def test_two_hours_are_transcribed_in_constant_memory(
    outside: Outside, work: Path, model_folder: Path, two_hours: Path
) -> None:
    run_limited("transcribe", str(model_folder), str(two_hours), "--output", "out", cwd=work).require_clean(0)
    outside.require_untouched(work)
    assert [file.suffix for file in (work / "out").rglob("*") if file.is_file()] == [".txt"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "check"])
def test_two_hours_as_one_utterance_are_named_before_they_are_decoded(
    work: Path, model_folder: Path, base_folder: Path, two_hours: Path, command: str
) -> None:
    (work / "corpus").mkdir()
    (work / "corpus" / "long.flac").write_bytes(two_hours.read_bytes())
    (work / "corpus" / "good.wav").write_bytes((work / "good.wav").read_bytes())
    (work / "corpus" / "train.csv").write_text("file_name,text\nlong.flac,ab\ngood.wav,ab\n")
    recipe = {"model": {"base": str(base_folder)}, "data": {"root": "corpus", "validation_split": "train"}}
    (work / "recipe.yaml").write_text(json.dumps(recipe))
    arguments = {"evaluate": [str(model_folder), "--data", "corpus"], "check": ["recipe.yaml", "--listen"]}
    said = run_limited(command, *arguments[command], cwd=work).require_clean(0)
    assert "too long" in said


@pytest.mark.slow
def test_holes_in_files_take_no_memory(outside: Outside, work: Path, model_folder: Path) -> None:
    """40 kB on the disk, and gigabytes for who reads them."""
    (work / "corpus").mkdir()
    for name in ("a", "b"):
        info = tarfile.TarInfo(f"{name}.{'txt' if name == 'a' else 'wav'}")
        info.size = 512 * 12_700_000
        file = work / "corpus" / f"test-{name}.tar"
        file.write_bytes(info.tobuf())
        os.truncate(file, 1536 + info.size)
    good = io.BytesIO((work / "good.wav").read_bytes())
    with tarfile.open(work / "corpus" / "test-c.tar", "w") as archive:
        for name, content in (("c.wav", good), ("c.txt", io.BytesIO(b"ab"))):
            info = tarfile.TarInfo(name)
            info.size = len(content.getvalue())
            archive.addfile(info, content)
    said = run_limited("evaluate", str(model_folder), "--data", "corpus", cwd=work).require_clean(0)
    assert said.count("left out: ") == 2
    (work / "list.csv").touch()
    os.truncate(work / "list.csv", 6_500_000_000)
    said = run_limited("evaluate", str(model_folder), "--data", "list.csv", cwd=work).require_clean()
    assert "has more than" in said
    (work / "hole.wav").write_bytes(good.getvalue())
    os.truncate(work / "hole.wav", 4_000_000_000)
    run_limited("transcribe", str(model_folder), "hole.wav", cwd=work).require_clean(0, 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gzip", "line", "gzip of a line", "stdin"])
def test_a_text_that_grows_is_refused(work: Path, kind: str) -> None:
    if kind == "line":
        (work / "text.txt").touch()
        os.truncate(work / "text.txt", 2_000_000_000)
    elif kind != "stdin":
        packed = gzip.compress(b"a b\n" * 2_500_000 if kind == "gzip" else b"a" * 10_000_000, 9)
        (work / "text.txt.gz").write_bytes(packed * 450)
    text = {"line": "text.txt", "stdin": "-"}.get(kind, "text.txt.gz")
    said = run_limited("lm", "build", text, "-o", "lm", cwd=work, stdin=b"a" * 50_000_000).require_clean()
    assert "more than 1,000,000 bytes" in said or "times its size" in said
    assert not [file for file in work.iterdir() if file.name.startswith(("lm", ".lm"))]


@pytest.mark.slow
def test_recipes_that_laugh(work: Path) -> None:
    laughs = "a0: &a0 [ha, ha]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    for text in (laughs, "model: " + "[" * 200_000, "provenance: &p {x: *p}\n"):
        (work / "recipe.yaml").write_text(text)
        assert "is not valid YAML" in run_limited("recipe", "recipe.yaml", cwd=work).require_clean()


@pytest.mark.slow
def test_pipes_and_devices_are_not_waited_for(outside: Outside, work: Path, model_folder: Path) -> None:
    (work / "corpus" / "test").mkdir(parents=True)
    os.mkfifo(work / "corpus" / "test" / "pipe.wav")
    (work / "corpus" / "test" / "zero.wav").symlink_to("/dev/zero")
    (work / "corpus" / "test" / "good.wav").write_bytes((work / "good.wav").read_bytes())
    (work / "corpus" / "test" / "metadata.csv").write_text("file_name,text\npipe.wav,ab\nzero.wav,ab\ngood.wav,ab\n")
    said = run_limited("evaluate", str(model_folder), "--data", "corpus", cwd=work).require_clean(0)
    assert said.count("left out: ") == 2
    manifest = "corpus/test/metadata.csv"
    said = run_limited("transcribe", str(model_folder), manifest, "--output", "out", cwd=work).require_clean()
    assert said.count("no file: a broken link, a pipe or a device") == 2
    for device in ("/dev/zero", "/dev/urandom", "/dev/full"):
        run_limited("transcribe", str(model_folder), device, "--output", "out", cwd=work).require_clean()
    said = run_limited("align", str(model_folder), "good.wav", "/dev/zero", cwd=work).require_clean()
    assert "/dev/zero has more than" in said
    for name in ("train/metadata.csv", "train.tar", "train.parquet", "train.clean.csv", "wav.scp"):
        folder = work / name.replace("/", "-")
        (folder / name).parent.mkdir(parents=True)
        os.mkfifo(folder / name)
        run_limited("evaluate", str(model_folder), "--data", folder.name, cwd=work).require_clean()


@pytest.mark.slow
def test_headers_that_promise_too_much(outside: Outside, work: Path, model_folder: Path) -> None:
    def change(name: str, *changes: tuple[int, int, int]) -> None:
        content = bytearray((work / "good.wav").read_bytes())
        for place, size, value in changes:
            content[place : place + size] = value.to_bytes(size, "little")
        (work / name).write_bytes(content)

    change("channels.wav", (22, 2, 65535), (32, 2, 65534))
    change("many.wav", (22, 2, 1024), (32, 2, 2048))
    change("slow.wav", (24, 4, 1))
    change("fast.wav", (24, 4, 2**31 - 1))
    change("none.wav", (24, 4, 0))
    change("wide.wav", (34, 2, 65535))
    change("long.wav", (40, 4, 2**32 - 2))
    said = run_limited("transcribe", str(model_folder), ".", cwd=work).require_clean(0, 2)
    for name in ("channels", "many", "slow", "fast", "none", "wide"):
        assert f"{name}.wav: " in said
    outside.require_untouched(work)


@pytest.mark.slow
def test_an_index_of_millions_takes_no_memory(work: Path, model_folder: Path) -> None:
    """7 kB of M4A whose index speaks of eighty million samples of one byte, for which FFmpeg takes 3 GB."""
    content, one, many = bytearray(encode(TONE[:, None], 16000, "ipod", "aac")), b"\0\0\0\1", b"\4\xc4\xb4\0"
    for name, value in ((b"stsz", one + many), (b"stsc", one + one + many + one), (b"stts", one + many + b"\0\0\4\0")):
        place = content.index(name) + 8
        content[place : place + len(value)] = value
    (work / "index.m4a").write_bytes(content)
    said = run_limited("transcribe", str(model_folder), "index.m4a", cwd=work).require_clean()
    assert "its index has more samples than the file has bytes" in said
    said = run_limited("transcribe", str(model_folder), "-", cwd=work, stdin=bytes(content)).require_clean()
    assert "its index has more samples than the file has bytes" in said


@pytest.mark.slow
def test_a_pipe_that_never_ends_ends(work: Path, model_folder: Path) -> None:
    """In a process of its own that stops at a file of 1 GB, as a full disk would."""
    command = f"yes | (ulimit -f 1000000; {sys.executable} -m finetune transcribe {model_folder} -)"
    ended = subprocess.run(["bash", "-c", command], cwd=work, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "can't be kept in" in ended.stderr
