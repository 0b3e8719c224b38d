"""Folders and manifests of every accepted layout become the same table; anything else is refused."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.audio.waveforms import AudioError, Recording, read_seconds
from finetune.data.sources import Source, Table, load_splits, prefix_speakers, select_table
from finetune.errors import UserError

ROWS = [("one.wav", "NA"), ("two.wav", "null"), ("three.wav", "007"), ("four.wav", ""), ("five.wav", 'a, "b" c')]


def write_manifest(file: Path, columns: tuple[str, str] = ("file_name", "text")) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as lines:
        if file.suffix == ".jsonl":
            lines.writelines(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in ROWS)
        else:
            rows = [columns, *ROWS]
            if file.suffix == ".tsv":
                lines.writelines("\t".join(row) + "\n" for row in rows)
            else:
                csv.writer(lines).writerows(rows)
    return file


def table_of(root: Path, split: str = "train", **columns: Any) -> Table:
    source = Source(str(root), **columns)
    return select_table(load_splits(source), split, source)


def texts_of(table: Table) -> list[str | None]:
    return table.texts()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_manifests_cells_are_its_strings(tmp_path: Path, suffix: str) -> None:
    table = table_of(write_manifest(tmp_path / f"list{suffix}"))
    assert texts_of(table) == [text for _, text in ROWS]
    assert table.recording(1) == Recording(path=str(tmp_path / "two.wav"), data=None)


def test_numbers_in_json_become_text(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text('{"file_name": "a.wav", "text": 7}\n\n{"file_name": "b.wav", "text": null}\n')
    assert texts_of(table_of(tmp_path / "list.jsonl")) == ["7", None]


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path) -> None:
    file = write_manifest(tmp_path / "list.csv")
    file.write_text("\ufeff" + file.read_text(), encoding="utf-8")
    assert table_of(file).audio == "file_name"


def test_a_folder_with_a_folder_for_each_split(corpus_folder: Path) -> None:
    source = Source(str(corpus_folder))
    splits = load_splits(source)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 24, "validation": 6, "test": 6}
    table = select_table(splits, "test", source)
    assert (table.text, table.speaker) == ("text", "speaker")
    assert 0.3 < read_seconds(table.recording(0)) < 2


def test_a_folder_with_one_metadata_file_is_all_training(tmp_path: Path, make_corpus: Callable[..., Path]) -> None:
    make_corpus(tmp_path, ["ab", "cab"])
    assert texts_of(table_of(tmp_path)) == ["ab", "cab"]


@pytest.mark.parametrize("layout", ["{}/metadata.csv", "{}/metadata.jsonl", "{}.csv", "{}.tsv"])
def test_splits_have_aliases(tmp_path: Path, layout: str) -> None:
    for name in ("training", "dev", "testing"):
        write_manifest(tmp_path / layout.format(name))
    assert sorted(load_splits(Source(str(tmp_path)))) == ["test", "train", "validation"]


def test_usual_column_names_are_found(tmp_path: Path) -> None:
    table = table_of(write_manifest(tmp_path / "list.csv", ("path", "sentence")))
    assert (table.audio, table.text, table.speaker) == ("path", "sentence", None)


def test_named_columns_are_used_and_their_paths_are_relative_to_the_manifest(tmp_path: Path) -> None:
    file = write_manifest(tmp_path / "list.csv", ("clip", "words"))
    table = table_of(file, audio_column="clip", text_column="words")
    assert table.recording(0).path == str(tmp_path / "one.wav")
    assert texts_of(table)[0] == "NA"


@pytest.mark.parametrize("path", ["/elsewhere/a.wav", "../a.wav", "deep/../../a.wav"])
def test_audio_outside_the_corpus_is_read_only_if_allowed(tmp_path: Path, path: str) -> None:
    (tmp_path / "corpus").mkdir()
    manifest = tmp_path / "corpus" / "list.csv"
    manifest.write_text(f"file_name,text\n{path},ab\ndeep/../b.wav,ab\n")
    for root in (manifest, tmp_path / "corpus"):
        if root.is_dir():
            manifest = manifest.rename(root / "metadata.csv")
        table = table_of(root)
        with pytest.raises(AudioError, match=r"outside the corpus .*data\.allow_outside=true"):
            table.recording(0)
        assert Path(str(table.recording(1).path)).name == "b.wav"
        allowed = table_of(root, allow_outside=True).recording(0).path
        assert allowed == (path if path.startswith("/") else str(tmp_path / "corpus" / path))


@pytest.mark.parametrize("header", ["Path,Transcript,Speaker", "FILE_NAME,text,speaker,Text,SPEAKER"])
def test_usual_names_of_columns_are_found_in_any_case(tmp_path: Path, header: str) -> None:
    (tmp_path / "metadata.csv").write_text(f"{header}\na.wav,one,ann" + 2 * ",x" * (header.count(",") // 4) + "\n")
    table = table_of(tmp_path)
    assert (table.name(0), table.texts(), table.speakers()) == ("a.wav", ["one"], ["ann"])


def test_an_empty_speaker_cell_is_an_unknown_speaker(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("file_name,text,speaker\na.wav,one,\nb.wav,two,  \nc.wav,three,ann\n")
    assert table_of(tmp_path).speakers() == [None, None, "ann"]


def test_a_missing_column_is_reported_with_the_available_ones(tmp_path: Path) -> None:
    file = write_manifest(tmp_path / "list.csv", ("file_name", "words"))
    with pytest.raises(UserError, match=r"no column text or .* for the text; it has file_name, words: .*text_column"):
        table_of(file)
    with pytest.raises(UserError, match="no column spoken for the text; it has file_name, words"):
        table_of(file, text_column="spoken")


def test_a_missing_split_is_reported_with_the_available_ones(corpus_folder: Path) -> None:
    with pytest.raises(UserError, match="has no split 'holdout'; it has test, train, validation"):
        table_of(corpus_folder, "holdout")


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file_name,text\n")
    with pytest.raises(UserError, match=r"The split 'train' .* is empty"):
        table_of(tmp_path / "list.csv")


def test_a_folder_without_transcripts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    with pytest.raises(UserError, match=r"has no transcripts: expected a metadata\.csv"):
        load_splits(Source(str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("list.txt", b"a.wav ab", r"expected a file that ends in \.csv"),
        ("list.jsonl", b"{half", "can't be read as JSONL"),
        ("list.jsonl", b'["a.wav", "ab"]', "one JSON object"),
        ("list.jsonl", b"\xff\xfe{\x00", "can't be read as JSONL: not JSON"),
        ("list.csv", b"file_name,text\na.wav,ab,c\n", "line 2 has 3 cells where the header has 2"),
        ("list.csv", b"file_name,text\na.wav,\xff\xfe", "can't be read: the byte 0xFF in line 2 is not UTF-8"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_splits(Source(str(tmp_path / name)))


def problem_of(table: Table, row: int) -> str | None:
    try:
        table.recording(row)
    except AudioError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (
            "list.csv",
            b"file_name,text\nb.wav,x, y\na.wav,ab\n",
            "ragged row: line 2 has 3 cells where the header has 2",
        ),
        ("list.csv", b"file_name,text\nb.wav\na.wav,ab\n", "ragged row: line 2 has 1 cells where the header has 2"),
        (
            "list.jsonl",
            b'{"file_name": "b.wav", "text": "\\ud83d"}\n{"file_name": "a.wav", "text": "ab"}\n',
            "half a character: ?",
        ),
        (
            "list.csv",
            b"file_name,text\nb.wav," + b"x" * 10_000_000 + b"\na.wav,ab\n",
            "line too long: line 2 has 10000006",
        ),
        ("list.jsonl", b'{"file_name": "b.wav", \n{"file_name": "a.wav", "text": "ab"}\n', "not JSON: line 1: "),
        ("list.jsonl", b'7\n{"file_name": "a.wav", "text": "ab"}\n', "not one JSON object: line 1: 7"),
        (
            "list.jsonl",
            b'{"text": "' + b"x" * 10_000_000 + b'"}\n{"file_name": "a.wav", "text": "ab"}\n',
            "line too long: line 1 has 10000012 characters",
        ),
    ],
    ids=["more cells", "fewer cells", "half a character", "long cell", "not JSON", "no object", "long line"],
)
def test_an_unreadable_line_is_reported_and_the_others_are_used(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    (tmp_path / name).write_bytes(content)
    table = table_of(tmp_path / name)
    assert (problem_of(table, 0) or "").startswith(problem)
    assert problem_of(table, 1) is None and table.texts()[1] == "ab"


def test_a_missing_path_is_refused() -> None:
    with pytest.raises(UserError, match="There is no data at /nowhere/at/all"):
        load_splits(Source("/nowhere/at/all"))


def test_a_hub_name_that_cant_be_loaded_is_refused() -> None:
    with pytest.raises(UserError, match="somebody/speech is neither a folder or file here nor a data set"):
        load_splits(Source("somebody/speech"))


@pytest.mark.parametrize("layout", ["train-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"])
@pytest.mark.parametrize("audio", ["struct", "binary"])
def test_parquet_with_audio_bytes(
    tmp_path: Path, corpus_folder: Path, monkeypatch: pytest.MonkeyPatch, layout: str, audio: str
) -> None:
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    encoded = [(corpus_folder / "test" / f"{i:02d}.wav").read_bytes() for i in range(3)]
    cells = [{"bytes": data, "path": f"{i}.wav"} for i, data in enumerate(encoded)] if audio == "struct" else encoded
    file = tmp_path / "corpus" / layout
    file.parent.mkdir(parents=True)
    columns = {"audio": cells, "transcription": ["one", None, "three"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    table = table_of(tmp_path / "corpus")
    assert table.texts() == ["one", None, "three"]
    assert table.recording(2).data == encoded[2]
    assert table.name(2) == ("2.wav" if audio == "struct" else "row 2")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("[de] a*b?", ["data/train-[0].parquet"]),
        ("-x", ["-train.parquet", "dev/-0.parquet"]),
        ("c", ["train/0.parquet", "train-clean-100/0.parquet", "-x y/0.parquet", "[z]/0.parquet", "all/0.parquet"]),
    ],
)
def test_parquet_files_and_splits_can_have_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, names: list[str], streaming: bool
) -> None:
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name in names:
        file = tmp_path / folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table({"audio": [b"x"], "text": [name]}), file)
    splits = load_splits(Source(str(tmp_path / folder), streaming=streaming))
    assert sorted(row["text"] for rows in splits.values() for row in rows) == sorted(names)
    if folder == "c":
        found = {split: [row["text"] for row in rows] for split, rows in splits.items()}
        assert found == {name.partition("/")[0]: [name] for name in names}


@pytest.mark.parametrize(
    ("names", "noted"),
    [
        (["en/train-0.parquet", "de/train-0.parquet", "de/test-0.parquet"], "the split train is read from several"),
        (["data/train-00000-of-00003.parquet", "data/train-00002-of-00003.parquet"], "only 2 of the 3 files"),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "test/0.parquet"], None),
    ],
)
def test_parquet_files_of_several_folders_and_missing_ones_are_noted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    names: list[str],
    noted: str | None,
) -> None:
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name in names:
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table({"audio": [b"x"], "text": [name]}), tmp_path / "x" / name)
    splits = load_splits(Source(str(tmp_path / "x")))
    assert sorted(row["text"] for rows in splits.values() for row in rows) == sorted(names)
    assert [record.getMessage()[: len(noted or "")] for record in caplog.records] == ([noted] if noted else [])


def test_parquet_reads_no_file_outside_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    cells = [{"bytes": None, "path": "/etc/hostname"}]
    (tmp_path / "corpus").mkdir()
    pyarrow.parquet.write_table(
        pyarrow.table({"audio": cells, "text": ["leak"]}), tmp_path / "corpus" / "train.parquet"
    )
    with pytest.raises(AudioError, match="outside the corpus"):
        table_of(tmp_path / "corpus").recording(0)


def test_a_file_with_only_the_suffix_of_parquet_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "train.parquet").write_text("file_name,text\n")
    with pytest.raises(UserError, match=r"train\.parquet can't be read as Parquet"):
        load_splits(Source(str(tmp_path)))


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (b"", r"train-1\.parquet can't be read as Parquet: Parquet file size is 0 bytes"),
        (b"<html>" * 10, r"train-1\.parquet can't be read as Parquet: Parquet magic bytes not found"),
        (
            ["audio", "text", "extra"],
            r"train-1\.parquet has the columns audio, text, extra, and .*train-0\.parquet audio, ",
        ),
    ],
)
def test_the_parquet_file_that_is_at_fault_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: bytes | list[str], words: str
) -> None:
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    files = [tmp_path / f"train-{number}.parquet" for number in range(2)]
    for file, columns in zip(files, (["audio", "text"], second), strict=True):
        if isinstance(columns, bytes):
            file.write_bytes(columns)
        else:
            pyarrow.parquet.write_table(pyarrow.table({name: ["x"] for name in columns}), file)
    with pytest.raises(UserError, match=words):
        load_splits(Source(str(tmp_path)))


@pytest.mark.parametrize(
    ("roots", "prefixes"),
    [
        (["/data/a"], [""]),
        (["/data/a", "/data/a"], ["", ""]),
        (["/data/a", "/data/b", "/data/a"], ["a/", "b/", "a/"]),
        (["/x/a", "/y/a", "/y/b"], ["x/a/", "y/a/", "y/b/"]),
        (["team/speech", "s3://bucket/speech/"], ["team/speech/", "bucket/speech/"]),
        (["https://h/a.csv?id=1", "https://h/a.csv?id=2"], ["a.csv 1/", "a.csv 2/"]),
    ],
)
def test_each_root_has_a_prefix_of_its_own(roots: list[str], prefixes: list[str]) -> None:
    assert prefix_speakers(roots) == prefixes


def test_tables_in_one_folder_have_the_same_speakers(tmp_path: Path) -> None:
    for name in ("a/train.csv", "a/test.csv", "b/train.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("file_name,text\n", encoding="utf-8")
    tables = [str(tmp_path / name) for name in ("a/train.csv", "a/test.csv", "b/train.csv", "a")]
    assert prefix_speakers(tables) == ["a/", "a/", "b/", "a/"]
    assert prefix_speakers(tables[:2]) == ["", ""]
