"""The tables, rows and files of a folder: splits by name, audio near the table, corpora in folders."""

from pathlib import Path

import pytest

from finetune.audio.waveforms import AudioError
from finetune.data.corpus import AudioSpec, prepare_split
from finetune.data.layouts import name_splits, split_name
from finetune.data.sources import Source, load_splits, select_table
from finetune.errors import UserError


def make(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def read(root: Path, **options: str) -> dict[str, list[tuple[str, str | None]]]:
    """Each split's audio, as a path relative to the root or the reason that there is none, and its texts."""
    source = Source(str(root), **options)  # type: ignore[arg-type]
    splits = load_splits(source)
    found: dict[str, list[tuple[str, str | None]]] = {}
    for split in splits:
        table = select_table(splits, split, source)
        for row, text in enumerate(table.texts()):
            try:
                path = Path(str(table.recording(row).path))
                place = str(path.relative_to(root if root.is_dir() else root.parent))
            except AudioError as error:
                place = str(error).partition(":")[0]
            found.setdefault(split, []).append((place, text))
    return found


def test_splits_have_the_names_of_datasets() -> None:
    from datasets.data_files import SPLIT_KEYWORDS

    assert all(split_name(name) == split for split, names in SPLIT_KEYWORDS.items() for name in names)
    names = [name for names in SPLIT_KEYWORDS.values() for name in names]
    assert name_splits(reversed(names)) == {
        name: str(split) if name == ranked[0] else name for split, ranked in SPLIT_KEYWORDS.items() for name in ranked
    }
    assert name_splits(["Dev", "eval92"]) == {"Dev": "validation", "eval92": "eval92"}


TABLE = "file_name,text\ntrain/a.wav,one\ntest/b.wav,two\ntrain/c.wav,three\nbad\n"


@pytest.mark.parametrize("name", ["metadata.csv", "list.csv"])
def test_one_table_for_all_splits_is_divided_by_the_audios_folders(tmp_path: Path, name: str) -> None:
    make(tmp_path, {name: TABLE})
    assert read(tmp_path / name if name == "list.csv" else tmp_path) == {
        "train": [("train/a.wav", "one"), ("train/c.wav", "three"), ("ragged row", None)],
        "test": [("test/b.wav", "two")],
    }


@pytest.mark.parametrize(("folder", "split"), [("dev", "validation"), ("eval", "test"), ("audio/evaluation", "test")])
def test_the_audios_folders_can_have_any_name_of_a_split(tmp_path: Path, folder: str, split: str) -> None:
    make(tmp_path, {"metadata.csv": f"file_name,text\n{folder}/x/a.wav,one\ntrain/b.wav,two\n"})
    assert read(tmp_path)[split] == [(f"{folder}/x/a.wav", "one")]


def test_a_split_column_takes_precedence_over_folders(tmp_path: Path) -> None:
    make(
        tmp_path,
        {"metadata.csv": "file_name,text,split\nval/a.wav,one,train\nval/b.wav,two,dev\nx/c.wav,three,train\n"},
    )
    assert {split: len(rows) for split, rows in read(tmp_path).items()} == {"train": 2, "validation": 1}


def test_a_table_with_only_some_rows_in_a_splits_folder_is_refused(tmp_path: Path) -> None:
    make(tmp_path, {"metadata.csv": "file_name,text\ntest/a.wav,one\nx/b.wav,two\n"})
    with pytest.raises(UserError, match=r"folders of splits \(test\) and 1 outside of them, as .*x/b\.wav: .* split"):
        read(tmp_path)


def test_a_table_named_like_a_split_is_that_split(tmp_path: Path) -> None:
    make(tmp_path, {"train.csv": "file_name,text\ndev/a.wav,one\n", "eval.csv": "file_name,text\ntrain/a.wav,one\n"})
    assert read(tmp_path) == {"train": [("dev/a.wav", "one")], "test": [("train/a.wav", "one")]}
    assert list(read(tmp_path / "train.csv")) == ["train"]


@pytest.mark.parametrize("layout", ["{}/metadata.csv", "{}.tsv", "{}/wav.scp"])
def test_evaluation_folders_are_the_test_split_and_none_is_lost(tmp_path: Path, layout: str) -> None:
    for name in ("train", "test", "eval", "dev", "val"):
        text = "file_name\ttext\na.wav\tone\n" if layout.endswith("tsv") else "file_name,text\na.wav,one\n"
        make(tmp_path, {layout.format(name): "a a.wav\n" if layout.endswith("scp") else text})
        if layout.endswith("scp"):
            make(tmp_path, {f"{name}/text": "a one\n"})
    assert sorted(read(tmp_path)) == ["eval", "test", "train", "val", "validation"]


@pytest.mark.parametrize(
    "names", [("train.csv", "train.jsonl"), ("metadata.csv", "metadata.jsonl"), ("train.csv", "train/metadata.csv")]
)
def test_two_tables_of_one_split_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    make(tmp_path, dict.fromkeys(names, "file_name,text\na.wav,one\n"))
    with pytest.raises(UserError, match=f"{names[0]} and .*{names[1]} are tables of one split"):
        read(tmp_path)


ROWS = "file_name,text\na.wav,one\n"


@pytest.mark.parametrize("other", ["train.csv", "train/metadata.csv", "clips/metadata.csv"])
def test_a_table_for_all_splits_beside_a_table_of_one_is_refused(tmp_path: Path, other: str) -> None:
    make(tmp_path, {"metadata.csv": ROWS, other: ROWS, "test/metadata.json": '{"licence": "CC0"}'})
    with pytest.raises(UserError, match=rf"metadata\.csv would be ignored, because .*{other} .*data\.root=.*metadata"):
        read(tmp_path)
    assert read(tmp_path / "metadata.csv") == {"train": [("a.wav", "one")]}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["train.csv", "old.tar"], r"tables \(train\.csv\) and tars \(old\.tar\): .*data\.root=.*train\.csv"),
        (["metadata.csv", "x/old.parquet"], r"tables \(metadata\.csv\) and Parquet files \(x/old\.parquet\)"),
        (["a.tar", "b.tar", "c.tar", "d.tar", "e.parquet"], r"tars \(a\.tar, b\.tar, c\.tar and 1 more\) and Parquet"),
        (["speech.tar", "speech/metadata.csv"], r"corpora in folders \(speech\) and tars .*data\.root=.*/speech\."),
        (["wav.scp", "text", "train.csv"], r"layout of Kaldi and has tables \(train\.csv\): .*data\.root=.*train\.csv"),
        (["clips/", "train.tsv", "dev.csv"], r"layout of Common Voice and has tables \(dev\.csv\)"),
    ],
)
def test_transcripts_of_two_kinds_in_one_folder_are_refused(tmp_path: Path, files: list[str], sentence: str) -> None:
    (tmp_path / "clips").mkdir()
    make(tmp_path, {file: ROWS for file in files if file[-1] != "/"})
    if "wav.scp" in files:
        make(tmp_path, {"wav.scp": "a a.wav\n", "text": "a one\n"})
    if "train.tsv" in files:
        make(tmp_path, {"train.tsv": "path\tsentence\na.wav\tone\n"})
    with pytest.raises(UserError, match=sentence):
        read(tmp_path)


@pytest.mark.parametrize(
    ("files", "unread"),
    [
        ({"train.csv": ROWS, "extra.csv": ROWS, "about.json": "{}", "train.clean.csv": ROWS}, "extra.csv"),
        ({"train/metadata.csv": ROWS, "test/test.csv": ROWS}, "test/test.csv"),
        ({"wav.scp": "a a.wav\n", "text": "a one\n", "old.tar": "", "x/y.parquet": ""}, "old.tar, x/y.parquet"),
        ({"metadata.csv": ROWS, "about.json": "{}"}, None),
    ],
)
def test_files_that_are_not_read_are_named(
    tmp_path: Path, files: dict[str, str], unread: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert "train" in read(make(tmp_path, files))
    noted = [record.getMessage() for record in caplog.records]
    assert [f"not read in {tmp_path}: {unread}" in message for message in noted] == ([True] if unread else [])


def test_hidden_files_and_folders_are_no_splits_and_no_other_corpora(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hidden = [".trash/metadata.csv", "._metadata.csv", "._x.tar", ".cache/x.parquet", "x/.y/train.csv", ".z/train.csv"]
    make(tmp_path / ".here", {name: "\0" if name.startswith("._") else ROWS for name in hidden})
    for corpus in ({"metadata.csv": ROWS}, {"a/wav.scp": "a a.wav\n", ".b/wav.scp": "a a.wav\n", "a/text": "a one\n"}):
        make(tmp_path / ".here", corpus)
        assert list(read(tmp_path / ".here").values()) == [[(f"{'a/' * ('a/text' in corpus)}a.wav", "one")]]
        (tmp_path / ".here" / next(iter(corpus))).unlink()
    make(tmp_path / ".here", {"own/train.csv": ROWS, ".own/train.csv": ROWS, "own/._train.clean.csv": "\0"})
    assert read(tmp_path / ".here") == {"train": [("own/a.wav", "one")]}
    assert not caplog.records


def test_other_names_in_a_split_column_are_splits_too(tmp_path: Path) -> None:
    rows = "file_name,text,split\na.wav,one,TRAIN\nb.wav,two, test\nc.wav,three,unlabeled\n"
    make(tmp_path, {"metadata.csv": rows})
    assert read(tmp_path) == {
        "train": [("a.wav", "one")],
        "test": [("b.wav", "two")],
        "unlabeled": [("c.wav", "three")],
    }
    make(tmp_path, {"metadata.csv": f"{rows}d.wav,four,\n"})
    with pytest.raises(UserError, match=r"no split for 1 of its rows, as for .*d\.wav: write one in each cell of the"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["metadata", "train"])
def test_a_description_with_the_name_of_a_table_is_ignored(tmp_path: Path, name: str) -> None:
    make(tmp_path, {f"{name}.csv": "file_name,text\na.wav,one\n", f"{name}.json": '{\n"licence": "CC0"\n}\n'})
    assert read(tmp_path) == {"train": [("a.wav", "one")]}
    make(tmp_path, {f"{name}.json": '{"file_name": "a.wav", "text": "one"}\n'})
    with pytest.raises(UserError, match="are tables of one split"):
        read(tmp_path)


AUDIO = {
    "clips/a.mp3": "",
    "audios/b.wav": "",
    "audio/train/c.flac": "",
    "d.1.wav": "",
    "wavs/x/e.ogg": "",
    " spaced.wav": "",
}


@pytest.mark.parametrize(
    ("cell", "place"),
    [
        ("a.mp3", "clips/a.mp3"),
        ("a", "clips/a.mp3"),
        ("b", "audios/b.wav"),
        ("c", "audio/train/c.flac"),
        ("d.1", "d.1.wav"),
        ("x/e", "wavs/x/e.ogg"),
        ("clips/a.mp3", "clips/a.mp3"),
        ("a.wav", "a.wav"),
        ("nowhere", "nowhere"),
        ("y" * 400, "y" * 400),
        (" a.mp3 ", "clips/a.mp3"),
        (" spaced.wav", " spaced.wav"),
    ],
)
def test_audio_is_found_in_usual_folders_and_without_its_suffix(tmp_path: Path, cell: str, place: str) -> None:
    make(tmp_path, {**AUDIO, "train.csv": f"file_name,text\n{cell},one\n"})
    assert read(tmp_path) == {"train": [(place, "one")]}


def test_missing_audio_is_reported_with_the_searched_folders_and_the_key(tmp_path: Path) -> None:
    make(tmp_path, {"deep/down/a.wav": "", "metadata.csv": "file_name,text\na.wav,one\n"})
    source = Source(str(tmp_path))
    table = select_table(load_splits(source), "train", source)
    with pytest.raises(UserError, match=r"1 × no such file\. There is no .*a\.wav, nor .* audio, .*audio_column"):
        prepare_split("train", table, (), AudioSpec(16000, ((10, 5),)))


def test_an_ambiguous_name_is_reported(tmp_path: Path) -> None:
    make(tmp_path, {"clips/a.mp3": "", "wavs/a.wav": "", "metadata.csv": "file_name,text\na,one\nclips/a,two\n"})
    assert read(tmp_path) == {"train": [("ambiguous audio", "one"), ("clips/a.mp3", "two")]}


@pytest.mark.parametrize(
    ("table", "options", "expected"),
    [
        ("clips/a.mp3,one\naudios/b.wav,two\n", {}, [("clips/a.mp3", "one"), ("audios/b.wav", "two")]),
        ("one;a\ntwo;b\n", {}, [("clips/a.mp3", "one"), ("audios/b.wav", "two")]),
        ("a|one, two\nb|two\n", {}, [("clips/a.mp3", "one, two"), ("audios/b.wav", "two")]),
        ("id,text\na,one\n", {}, [("clips/a.mp3", "one")]),
        ("a \t one\nb \t two\n", {}, [("clips/a.mp3", " one"), ("audios/b.wav", " two")]),
        ("id,words\na,one\n", {"text_column": "words"}, [("clips/a.mp3", "one")]),
        ("s1,a.mp3,one,x\n", {"text_column": "column3"}, [("clips/a.mp3", "one")]),
        ("a.mp3,b.wav,one\n", {"audio_column": "column2", "text_column": "column3"}, [("audios/b.wav", "one")]),
    ],
)
def test_tables_without_a_header_or_usual_columns(
    tmp_path: Path, table: str, options: dict[str, str], expected: list[tuple[str, str | None]]
) -> None:
    make(tmp_path, {**AUDIO, "list.csv": table})
    assert read(tmp_path / "list.csv", **options) == {"train": expected}


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("s1,a.mp3,one,x\n", r"no column text .* it has column1, column2, column3, column4, .*data\.text_column=NAME"),
        ("a.mp3,b.wav,one\n", r"no column audio .* it has column1, column2, column3: .*data\.audio_column=NAME"),
        ("name,words\nx,one\n", r"no column audio .* it has name, words: .*data\.audio_column=NAME"),
    ],
)
def test_unrecognised_columns_are_reported_with_the_keys(tmp_path: Path, table: str, sentence: str) -> None:
    make(tmp_path, {**AUDIO, "list.csv": table})
    with pytest.raises(UserError, match=sentence):
        read(tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("files", "audio"),
    [
        ({"cv/de/clips/a.mp3": "", "cv/de/train.tsv": "path\tsentence\na.mp3\tone\n"}, "cv/de/clips/a.mp3"),
        ({"LJ/wavs/a.wav": "", "LJ/metadata.csv": "a|one|one\n"}, "LJ/wavs/a.wav"),
        ({"data/train/wav.scp": "a a.wav\n", "data/train/text": "a one\n"}, "data/train/a.wav"),
        ({"my/metadata.csv": "file_name,text\na.wav,one\n"}, "my/a.wav"),
    ],
)
def test_a_folder_with_one_corpus_is_that_corpus(tmp_path: Path, files: dict[str, str], audio: str) -> None:
    found = read(make(tmp_path, files))
    assert list(found.values()) == [[(audio, "one")]]


def test_a_folder_with_several_corpora_is_refused(tmp_path: Path) -> None:
    text = "file_name,text\na.wav,one\n"
    make(tmp_path, {"x/train.csv": text, "y/test.csv": text})
    with pytest.raises(UserError, match=r"several corpora: .*x, .*y; name one of them, such as data\.root=.*x, or"):
        read(tmp_path)


def test_a_table_with_another_name_is_suggested(tmp_path: Path) -> None:
    make(tmp_path, {"dataset_info.json": '{"license": "CC0"}'})
    with pytest.raises(UserError, match=r"has no transcripts: .*train\.csv and test\.csv\.$"):
        read(tmp_path)
    make(tmp_path, {"transcripts.csv": "file_name,text\na.wav,one\n"})
    with pytest.raises(UserError, match=r"has no transcripts: .*given by its path \(data\.root=.*transcripts\.csv\)"):
        read(tmp_path)
