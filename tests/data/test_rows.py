"""Every line of a corpus is a used row or a reported one: none is merged, truncated or lost.

Lines are counted here on the file's bytes, by nothing that the readers use.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.data.clean_manifests import write_clean_manifests
from finetune.data.corpus import AudioSpec, SkippedUtterance, Split, prepare_split, write_rejected
from finetune.data.manifests import format_csv
from finetune.data.rows import build_typed_dataset
from finetune.data.sources import Source, Table, load_splits, select_table
from finetune.errors import UserError

LIMITS = AudioSpec(16000, ((10, 5),))

# What has glued or cut rows: quotation marks, delimiters, what `str.splitlines` splits at, a byte order mark, accents.
TEXTS = st.text("ab \"',;\u2028\u2029\x85\x0b\x0c\x1c\x1e\ufeffé字\u3000", min_size=1, max_size=12)
LINE_ENDS = st.sampled_from(["\n", "\r\n"])
GAPS = st.sampled_from(["", "", "", "\n", "\r\n\n"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one second of audio under several names."""
    folder = tmp_path_factory.mktemp("rows")
    for name in ("a.wav", "wavs/a.wav", "clips/a.wav", "train-clean/1/2/1-2-0000.flac"):
        write_tone(folder / name)
    return folder


def read(root: Path, split: str = "train", **options: str | bool) -> Split:
    table = table_of(root, split, **options)
    prepared = prepare_split(split, table, (), LIMITS, require=False)
    assert len(prepared.utterances) + len(prepared.rejected) == len(table)
    return prepared


def table_of(root: Path, split: str = "train", **options: str | bool) -> Table:
    source = Source(str(root), **options)  # type: ignore[arg-type]
    return select_table(load_splits(source), split, source)


def write_tone(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, 0.1 * np.sin(np.arange(16000) / 5), 16000)


def texts_of(split: Split) -> list[str]:
    return [utterance.raw_transcript for utterance in split.utterances]


def count_lines(file: Path) -> int:
    return sum(bool(line.strip(b" \r")) for line in file.read_bytes().split(b"\n"))


def write_lines(file: Path, lines: list[str], end: str, gap: str, mark: bool, last: bool) -> None:
    text = end.join([*lines[:1], gap + lines[1], *lines[2:]] if len(lines) > 1 else lines)
    file.write_bytes((b"\xef\xbb\xbf" if mark else b"") + text.encode() + (end.encode() if last else b""))


form = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FORM = {"end": LINE_ENDS, "gap": GAPS, "mark": st.booleans(), "last": st.booleans()}


@form
@given(texts=st.lists(TEXTS, min_size=1, max_size=6), **FORM)
def test_each_line_of_a_tsv_is_a_row_with_any_quotation_marks(
    folder: Path, texts: list[str], end: str, gap: str, mark: bool, last: bool
) -> None:
    file = folder / "list.tsv"
    write_lines(file, ["file_name\ttext", *(f"a.wav\t{text}" for text in texts)], end, gap, mark, last)
    split = read(file)
    assert texts_of(split) == texts and not split.rejected
    assert len(texts) == count_lines(file) - 1


@form
@given(texts=st.lists(TEXTS, min_size=1, max_size=6), **FORM)
def test_each_line_of_a_csv_is_a_row_or_is_reported(
    folder: Path, texts: list[str], end: str, gap: str, mark: bool, last: bool
) -> None:
    file = folder / "list.csv"
    # The first is written by the rules, the others as somebody's program would that knows none.
    escaped = texts[0].replace('"', '""')
    lines = ["file_name,text", f'a.wav,"{escaped}"', *(f"a.wav,{text}" for text in texts[1:])]
    write_lines(file, lines, end, gap, mark, last)
    split = read(file)
    assert len(split.utterances) + len(split.rejected) == count_lines(file) - 1
    assert texts_of(split)[0] == texts[0]
    plain = [text for text in texts[1:] if not re.search('[",]', text)]
    assert [text for text in texts_of(split)[1:] if text in plain] == plain


@form
@given(rows=st.lists(TEXTS, min_size=1, max_size=6), array=st.booleans(), **FORM)
def test_each_object_of_a_json_file_is_a_row(
    folder: Path, rows: list[str], array: bool, end: str, gap: str, mark: bool, last: bool
) -> None:
    file = folder / "list.json"
    objects = [json.dumps({"file_name": "a.wav", "text": text}, ensure_ascii=False) for text in rows]
    if array:
        objects = [f"{object}," for object in objects[:-1]] + objects[-1:]
        objects = ["[", *objects, "]"]
    write_lines(file, objects, end, gap, mark, last)
    split = read(file)
    assert texts_of(split) == rows and not split.rejected
    assert len(rows) == count_lines(file) - 2 * array


@form
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=6),
    blank=st.sampled_from([" ", "\t", " \t ", "\t\t"]),
    unknown=TEXTS,
    **FORM,
)
def test_each_line_of_a_kaldi_folder_is_an_utterance_or_is_reported(
    folder: Path, texts: list[str], blank: str, unknown: str, end: str, gap: str, mark: bool, last: bool
) -> None:
    kaldi = folder / "kaldi"
    kaldi.mkdir(exist_ok=True)
    ids = [f"u{number}" for number in range(len(texts))]
    for name, values in {
        "wav.scp": ["../a.wav"],
        "segments": [f"r{blank}0{blank}{0.5 + number / 100}" for number in range(len(texts))],
        "text": [*texts, unknown, unknown],
        "utt2spk": [f"s{number}" for number in range(len(texts))],
    }.items():
        keys = {"wav.scp": ["r"], "text": [*ids, "nobody", "nobody"]}.get(name, ids)
        lines = [f"{key}{blank}{value}" for key, value in zip(keys, values, strict=True)]
        write_lines(kaldi / name, lines, end, gap, mark, last)
    split = read(kaldi, allow_outside=True)
    assert texts_of(split) == [text.strip(" \t\r") for text in texts]
    assert [utterance.speaker for utterance in split.utterances] == [f"s{number}" for number in range(len(texts))]
    assert [rejection.reason for rejection in split.rejected] == ["no audio", "no audio", "duplicate id"]
    assert len(split.utterances) == count_lines(kaldi / "segments") == count_lines(kaldi / "text") - 2


@form
@given(texts=st.lists(TEXTS, min_size=1, max_size=6), **FORM)
@pytest.mark.parametrize("layout", ["ljspeech", "common voice", "librispeech"])
def test_each_line_of_a_public_corpus_is_a_row(
    tmp_path: Path, layout: str, texts: list[str], end: str, gap: str, mark: bool, last: bool
) -> None:
    name, lines = {
        "ljspeech": ("metadata.csv", [f"a|{text}" for text in texts]),
        "common voice": ("train.tsv", ["client_id\tpath\tsentence", *(f"c\ta.wav\t{text}" for text in texts)]),
        "librispeech": ("train-clean/1/2/1-2.trans.txt", [f"1-2-{n:04}\t{text}" for n, text in enumerate(texts)]),
    }[layout]
    for below in ("wavs", "clips"):
        (tmp_path / below).mkdir(exist_ok=True)
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    write_lines(file, lines, end, gap, mark, last)
    table = table_of(tmp_path)
    expected = [text.strip(" ") for text in texts] if layout == "librispeech" else texts
    assert table.texts() == expected and len(table) == count_lines(file) - (layout == "common voice")


def test_an_unclosed_quotation_mark_does_not_affect_other_rows(tmp_path: Path) -> None:
    words = ["one", '"two', "three", "four", '"five"', 'six"', '"seven', "eight"]
    for suffix, blank in ((".tsv", "\t"), (".csv", ",")):
        (tmp_path / f"list{suffix}").write_text("".join(f"a.wav{blank}{word}\n" for word in ["text", *words]))
        text = (tmp_path / f"list{suffix}").read_text().replace("a.wav", "file_name", 1)
        (tmp_path / f"list{suffix}").write_text(text)
    write_tone(tmp_path / "a.wav")
    assert texts_of(read(tmp_path / "list.tsv")) == words
    split = read(tmp_path / "list.csv")
    assert texts_of(split) == ["one", "three", "four", "five", 'six"', "eight"]
    assert [f"{each.reason}: {each.detail}" for each in split.rejected] == [
        f"unclosed quotation mark: line {line} ends inside a cell; expected each row on one line" for line in (3, 8)
    ]


@pytest.mark.parametrize(("name", "blank"), [("list.tsv", "\t"), ("list.csv", "|")])
def test_a_fully_quoted_table_is_read_without_quotation_marks(tmp_path: Path, name: str, blank: str) -> None:
    write_tone(tmp_path / "a.wav")
    rows = [["file_name", "text"], ["a.wav", f"one{blank}two"], ["a.wav", '""three""'], ["a.wav", "four"]]
    lines = [blank.join(f'"{cell}"' for cell in row) for row in rows]
    (tmp_path / name).write_text("\n".join([*lines, f'"a.wav"{blank}"five', lines[-1]]))
    split = read(tmp_path / name)
    assert texts_of(split) == [f"one{blank}two", '"three"', "four", "four"]
    assert [each.reason for each in split.rejected] == ["unclosed quotation mark"]


def test_line_ends_doubled_by_python_on_windows_are_line_ends(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / "list.csv").write_bytes(b"text,file_name\r\r\none,a.wav\r\r\ntwo,a.wav\r\r\n")
    assert texts_of(read(tmp_path / "list.csv")) == ["one", "two"]


def test_json_texts_and_paths_of_other_types_are_reported(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    objects = [{"text": ["one", "two"]}, {"text": {"a": 1}}, {"text": 7}, {"text": "one", "file_name": "a\0.wav"}]
    lines = [json.dumps({"file_name": "a.wav", **each}) for each in objects]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    split = read(tmp_path / "list.jsonl")
    assert texts_of(split) == ["7"]
    assert [each.reason for each in split.rejected] == ["no text", "no text", "no such file"]


def test_rows_that_would_be_truncated_or_lost_are_reported(tmp_path: Path) -> None:
    write_tone(tmp_path / "wavs" / "a.wav")
    (tmp_path / "metadata.csv").write_text("a|one|one\na|two\na\na|x|y|z\n")
    split = read(tmp_path)
    assert texts_of(split) == ["one", "two"]
    assert [each.detail for each in split.rejected] == [
        f"line {line} has {cells} cells; expected 2 or 3" for line, cells in ((3, 1), (4, 4))
    ]
    (tmp_path / "metadata.csv").rename(tmp_path / "train.tsv")
    (tmp_path / "clips").mkdir()
    (tmp_path / "train.tsv").write_text("path\tsentence\nb.mp3\tone\ttwo\nb.mp3\tone\n")
    assert [each.reason for each in read(tmp_path).rejected] == ["ragged row", "no such file"]


ENCODED = 'file_name,text\na.wav,Grüße\na.wav,"öde, ja"\n'


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_text_with_a_byte_order_mark_is_read(tmp_path: Path, encoding: str) -> None:
    write_tone(tmp_path / "a.wav")
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    (tmp_path / "list.csv").write_bytes((mark + ENCODED.replace("\n", "\r\n")).encode(encoding))
    assert texts_of(read(tmp_path / "list.csv")) == ["Grüße", "öde, ja"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (ENCODED.encode("latin-1"), "the byte 0xFC in line 2 is not UTF-8; expected UTF-8: convert it"),
        (b"\xef\xbb\xbf" + ENCODED.encode("latin-1"), "the byte 0xFC in line 2 is not UTF-8"),
        (ENCODED.encode("utf-16-le"), "the byte 0x00 in line 1 is not text, perhaps UTF-16 without a byte order mark"),
        (ENCODED.encode("utf-16") + b"\x00", "the byte 0x00 in line 4 is not UTF-16"),
        ("file_name;Gr\xf6\xdfe\n".encode("latin-1"), "the byte 0xF6 in line 1 is not UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.jsonl", "metadata.csv", "wav.scp", "x.trans.txt"])
def test_text_in_another_encoding_is_refused_with_one_sentence(
    tmp_path: Path, name: str, content: bytes, found: str
) -> None:
    file = tmp_path / ("train-clean/1/2" if name.endswith(".txt") else "") / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    if name == "wav.scp":
        (tmp_path / "text").write_text("a one\n")
    with pytest.raises(UserError, match=f"{name} can't be read: {found}"):
        load_splits(Source(str(file if name.startswith("list") else tmp_path)))


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('[\n  {"file_name": "a.wav", "text": "one"},\n  {"file_name": "a.wav", "text": "two"}\n]', ["one", "two"]),
        ('[{"file_name": "a.wav", "text": "one"}, 7]\n', ["one"]),
        ('{"file_name": "a.wav", "text": "one"}\n{"file_name": "a.wav", "text": NaN}', ["one"]),
        ('{"audio": {"bytes": null, "path": "a.wav"}, "text": "one"}\n', ["one"]),
        (
            '{"file_name": "a.wav", "text": "one", "x": {}}\n{"file_name": "a.wav", "text": "two", "x": [1]}',
            ["one", "two"],
        ),
        ('{"file_name": "a.wav", "text": "one"}\n' + "[" * 100_000, ["one"]),
    ],
)
def test_json_as_other_programs_write_it(tmp_path: Path, content: str, texts: list[str]) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / "list.json").write_text(content)
    assert texts_of(read(tmp_path / "list.json")) == texts


def test_a_damaged_json_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text('[{"file_name": "a.wav"},\n {"file_name": }]')
    with pytest.raises(UserError, match=r"begins with \[ and is not a JSON array: .* line 2 column"):
        load_splits(Source(str(tmp_path / "list.json")))


def test_a_duplicate_column_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file_name, text,text,,\na.wav,b,c,,\n")
    with pytest.raises(UserError, match="has text more than once in its first line"):
        load_splits(Source(str(tmp_path / "list.csv")))


# What has ended runs when it stood in one row.
ODD = [
    "\ud800",
    "a\0b",
    10**400,
    -(10**30),
    1e308,
    True,
    None,
    {"member": 1},
    {"path": {"path": []}},
    ["a"],
    {"bytes": "a"},
    "=1+1",
    "://",
    "x" * 5000,
]
KEYS = [
    "file_name",
    "text",
    "start",
    "end",
    "offset",
    "duration",
    "speaker",
    "audio_channel",
    "unreadable_row",
    "note",
    "",
    "\0",
    "\ud800",
]
ODD_ROWS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(ODD), min_size=1)


@pytest.mark.long
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(odd=st.lists(ODD_ROWS, max_size=3), array=st.booleans())
def test_any_content_of_one_object_leaves_the_others_usable(
    folder: Path, odd: list[dict[str, object]], array: bool
) -> None:
    file = folder / "odd.jsonl"
    good = [{"file_name": "a.wav", "text": text, "start": "", "end": ""} for text in ("one", "two")]
    rows = [good[0], *({"file_name": "a.wav", "text": "odd", **row} for row in odd), good[1]]
    file.write_text(json.dumps(rows) if array else "\n".join(map(json.dumps, rows)))
    split = read(file)
    assert len(split.table) == len(rows)
    assert texts_of(split)[0] == "one" and texts_of(split)[-1] == "two"
    write_rejected(folder / "rejected.csv", split.rejected)
    assert len((folder / "rejected.csv").read_text().splitlines()) == len(split.rejected) + 1


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '["a.wav"]',
        '{"file_name": "a.wav", "text": "b", "note": ' + "[" * 900 + "]" * 900 + "}",
        '{"file_name": "a.wav", "text": "b", "note": ' + "9" * 5000 + "}",
        '{"file_name": "a.wav", "text": "b"',
        json.dumps({"file_name": "a.wav", "text": "b", **{str(number): "" for number in range(2000)}}),
        "\ud800",
        "\0",
    ],
    ids=["array", "object", "list", "cell", "number", "cut", "wide", "half", "null"],
)
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("array", [False, True])
def test_one_bad_line_of_json_is_reported(tmp_path: Path, line: str, place: int, array: bool) -> None:
    write_tone(tmp_path / "a.wav")
    lines = [json.dumps({"file_name": "a.wav", "text": text}) for text in ("one", "two")]
    closed = line.startswith("[" * 9) and array
    lines.insert(place, line + "]" * 100_000 if closed else line)
    is_json = closed or (line[0] in "[{" and line[-1] in "]}")
    if array and not is_json:
        return  # Where the row ends only a line says.
    content = f"[{', '.join(lines)}]" if array else "\n".join(lines)
    (tmp_path / "list.jsonl").write_text(content, errors="surrogatepass")
    split = read(tmp_path / "list.jsonl")
    assert [text for text in texts_of(split) if text != "b"] == ["one", "two"] and len(split.table) == 3


@pytest.mark.parametrize("name", ["list.csv", "list.tsv"])
def test_a_null_character_affects_only_its_row(tmp_path: Path, name: str) -> None:
    write_tone(tmp_path / "a.wav")
    blank = "\t" if name.endswith("tsv") else ","
    rows = [("file_name", "text"), ("a\0.wav", "one"), ("a.wav", "t\0wo"), ("a.wav", "three"), ("a.wav", "\0")]
    (tmp_path / name).write_text("".join(f"{blank.join(row)}\n" for row in rows))
    split = read(tmp_path / name)
    assert texts_of(split) == ["three"]
    assert [each.reason for each in split.rejected] == ["no such file", "no text", "no text"]
    rejected = tmp_path / "rejected.csv"
    write_rejected(rejected, split.rejected)
    assert r"a\x00.wav" in rejected.read_text() and "\0" not in rejected.read_text()


def test_an_invalid_name_affects_only_its_row(tmp_path: Path) -> None:
    write_tone(tmp_path / "train-clean/1/2/1-2-0000.flac")
    lines = ["1-2-0000 one", "../../../../etc/passwd two", ". three", "a/b four", f"{'x' * 400} five"]
    (tmp_path / "train-clean/1/2/1-2.trans.txt").write_text("\n".join(lines))
    split = read(tmp_path)
    assert texts_of(split) == ["one"] and len(split.rejected) == 4


@pytest.mark.parametrize("rate", [0, 1, 7, 8, 9, 999, 200_000, 2**32 - 1])
def test_an_impossible_sampling_rate_is_reported(tmp_path: Path, rate: int) -> None:
    for name in ("a.wav", "b.wav"):
        write_tone(tmp_path / name)
    content = bytearray((tmp_path / "b.wav").read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    (tmp_path / "b.wav").write_bytes(content)
    (tmp_path / "list.csv").write_text("file_name,text\nb.wav,one\na.wav,two\n")
    split = read(tmp_path / "list.csv")
    assert texts_of(split) == ["two"] and split.rejected[0].name == "b.wav"


def test_formulas_are_escaped_when_written_and_read_back_unchanged(tmp_path: Path) -> None:
    texts = ["=HYPERLINK(1)", "+1", "-2+3", "@SUM(1)", "'=x", "''-y", "'tis", "＝1", "\ttab", "plain"]
    for text in texts:
        written = format_csv([["text", 7], [text, -7]]).splitlines()[1]
        assert written[0] not in '=+-@\t\r＝"' and written.endswith(",-7")
    write_tone(tmp_path / "=a.wav")
    lines = [json.dumps({"file_name": "=a.wav", "text": text}) for text in texts]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    write_clean_manifests({"train": read(tmp_path)}, [])
    assert texts_of(read(tmp_path, "train.clean")) == texts
    rejected = [SkippedUtterance("train", 1, "=evil()", "-1", "@a\x1b]52;c;\x07\nb", "+c")]
    write_rejected(tmp_path / "rejected.csv", rejected)
    assert (tmp_path / "rejected.csv").read_text().splitlines()[1:] == [
        r"train,1,'=evil(),'-1,'@a\x1b]52;c;\x07\nb,'+c,0"
    ]


def test_rows_of_a_stream_can_have_cells_of_any_types() -> None:
    audio = {"bytes": b"a", "path": None}
    rows = [
        {"audio": audio, "text": text, "n": n} for text, n in (("a", 1), (2, "b"), (None, [1]), ({"x": 1}, 10**400))
    ]
    table = build_typed_dataset(rows)
    assert table["text"] == ["a", "2", None, '{"x": 1}'] and list(table["audio"]) == [audio] * 4
    assert build_typed_dataset(rows[:1])[0] == rows[0]


def test_invalid_bytes_affect_only_their_row(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / "list.csv").write_bytes(
        b"file_name,text\na.wav,one\na.wav,\xed\xa0\x80\n\xed\xa0\x80.wav,x\na.wav,two\n"
    )
    split = read(tmp_path / "list.csv")
    assert texts_of(split) == ["one", "two"]
    assert [each.reason for each in split.rejected] == ["half a character"] * 2


def test_a_url_is_reported_without_its_secrets(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    place = "https://ann:s3cret@example.invalid/b.wav?sig=s3cret"
    (tmp_path / "list.csv").write_text(f"file_name,text\na.wav,one\n{place},two\n")
    split = read(tmp_path / "list.csv")
    assert split.rejected == (
        SkippedUtterance(
            "train",
            1,
            "b.wav",
            "outside the corpus (data.allow_outside=true or --allow-outside reads it)",
            "https://example.invalid/b.wav",
            str(tmp_path / "list.csv"),
        ),
    )
    table = table_of(tmp_path / "list.csv", allow_outside=True)
    assert table.recording(1).path == place


def test_an_unexpected_exception_affects_only_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / "list.csv").write_text("file_name,text\na.wav,one\na.wav,bad\na.wav,two\n")
    monkeypatch.setattr("finetune.data.folders.place_in_time", lambda row, _: 1 // (row["text"] != "bad"))
    split = read(tmp_path / "list.csv")
    assert texts_of(split) == ["one", "two"] and "ZeroDivisionError in finetune/" in split.rejected[0].reason


def test_thousands_of_columns_are_read_and_more_are_reported(tmp_path: Path) -> None:
    def read(columns: int, cell: str = "1") -> Table:
        names = ["file_name", "text", *(f"x{number}" for number in range(columns))]
        (tmp_path / "metadata.csv").write_text(",".join(names) + "\na.wav,words" + f",{cell}" * columns + "\n")
        source = Source(str(tmp_path))
        return select_table(load_splits(source), "train", source)

    assert len(read(3000)) == 1
    assert read(1, '"' + "n" * 200_000 + '"').recording(0).path == str(tmp_path / "a.wav")
    with pytest.raises(UserError, match=r"No row of the split 'train' .* can be used: too many columns"):
        read(10_001)
