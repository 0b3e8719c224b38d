"""Folders, CSV and JSONL into a store: what comes in, what is named, and the same import twice."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from feedback.conftest import make_audio

from finetune.cli import main
from finetune.feedback.store import Store

Import = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_import(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Import:
    """`run_import(path, …)` imports into `store`; returns the exit code and what was printed and logged."""

    def run(*arguments: object, consent: str | None = "all/training") -> tuple[int, str, str]:
        capsys.readouterr()
        given = ["--consent", consent] if consent is not None else []
        command = ["feedback", "import", str(store.folder), *map(str, arguments), "--who", "ann", *given]
        code = main(command)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def write_audio(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(make_audio(number))


def write_csv(file: Path, rows: list[dict[str, str]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def read_texts(store: Store) -> list[str | None]:
    return [utterance.text for utterance in store.iterate_corrected()]


def test_audio_with_texts_beside_comes_in_once(run_import: Import, store: Store, tmp_path: Path) -> None:
    write_audio(tmp_path / "in", "a.wav", "b.WAV", "c.wav")
    for name, text in {"a": "alpha", "b": "beta\n", "d": "delta"}.items():
        (tmp_path / "in" / f"{name}.txt").write_text(text)
    code, out, err = run_import(tmp_path / "in")
    assert (code, out) == (2, "4 rows: 2 new, 2 left out\n")
    assert "left out: no text beside it: c.wav" in err and "left out: no audio beside it: d.txt" in err
    assert read_texts(store) == ["alpha", "beta"]
    assert run_import(tmp_path / "in")[:2] == (2, "4 rows: 0 new, 2 known before, 2 left out\n")
    assert read_texts(store) == ["alpha", "beta"] and store.get(1).added_by == "ann"
    assert store.get(1).seconds == pytest.approx(0.1)


def test_all_columns_of_a_table_are_kept(run_import: Import, store: Store, tmp_path: Path) -> None:
    write_audio(tmp_path / "in", "a.wav", "b.wav")
    row = {"speaker": "p1", "domain": "calls", "licence": "CC0", "consent": "p1/training", "confidence": "0.25"}
    rows = [
        {"file_name": "a.wav", "text": "alpha", "hypothesis": "alfa", **row},
        {"file_name": "b.wav", "text": "", "hypothesis": "beeta", **row},
    ]
    write_csv(tmp_path / "in" / "metadata.csv", rows)
    assert run_import(tmp_path / "in", consent=None)[:2] == (0, "2 rows: 2 new\n")
    first, second = store.get(1), store.get(2)
    assert (first.text, first.speaker, first.domain, first.licence) == ("alpha", "p1", "calls", "CC0")
    assert (first.consent, first.hypotheses[0].text, first.hypotheses[0].confidence) == ("p1/training", "alfa", 0.25)
    assert (second.status, second.text, store.queue()[0].id) == ("open", None, 2)


def test_json_lines_with_corrections(run_import: Import, store: Store, tmp_path: Path) -> None:
    write_audio(tmp_path, "a.wav", "b.wav")
    lines = [{"path": "a.wav", "correction": "alpha", "text": "alfa"}, {"path": "b.wav", "transcription": "beta"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert run_import(tmp_path / "rows.jsonl")[0] == 0 and read_texts(store) == ["alpha", "beta"]


def test_each_row_that_can_not_be_used_is_named(run_import: Import, store: Store, tmp_path: Path) -> None:
    write_audio(tmp_path / "in", "a.wav", "b.wav", "c.wav", "cut.wav")
    (tmp_path / "in" / "broken.wav").write_bytes(b"RIFF no audio")
    (tmp_path / "in" / "cut.wav").write_bytes(make_audio(3, 1.0)[:1000])
    write_audio(tmp_path, "outside.wav")
    good = {"text": "alpha", "consent": "x/y", "hypothesis": "", "confidence": ""}
    rows: list[dict[str, Any]] = [
        {"audio": "a.wav", **good},
        {"audio": "none.wav", **good},
        {"audio": "broken.wav", **good},
        {"audio": "cut.wav", **good},
        {"audio": "../outside.wav", **good},
        {"audio": "b.wav", **good, "text": " "},
        {"audio": "b.wav", **good, "consent": ""},
        {"audio": "c.wav", **good, "hypothesis": "x", "confidence": "7"},
        {"audio": "http://127.0.0.1:1/x.wav", **good},
    ]
    table = write_csv(tmp_path / "in" / "rows.csv", rows)
    code, out, err = run_import(table, "--rejected", tmp_path / "rejected.csv")
    assert (code, out) == (2, "9 rows: 1 new, 8 left out\n")
    for words in (
        f"no such file: {tmp_path}/in/none.wav: rows.csv, row 2",
        "unreadable audio: ",
        "truncated audio: ",
        f"outside the folder of its table (--allow-outside reads it): {tmp_path}/in/../outside.wav: rows.csv, row 5",
        "no text: rows.csv, row 6",
        "no consent: nobody may use it: rows.csv, row 7",
        "its confidence is 7; expected a number from 0 to 1: rows.csv, row 8",
        "http://127.0.0.1:1/x.wav",
    ):
        assert words in err
    with (tmp_path / "rejected.csv").open(newline="") as file:
        rejected = list(csv.DictReader(file))
    assert [row["name"] for row in rejected] == [f"rows.csv, row {number}" for number in range(2, 10)]
    assert read_texts(store) == ["alpha"]
    assert store.audit_log()[-1].details == {"new": 1, "known": 0, "left_out": 8}


def test_without_consent_nothing_comes_in(run_import: Import, store: Store, tmp_path: Path) -> None:
    write_audio(tmp_path / "in", "a.wav")
    write_csv(tmp_path / "in" / "metadata.csv", [{"file_name": "a.wav", "text": "alpha"}])
    code, out, err = run_import(tmp_path / "in", consent=None)
    assert (code, out) == (2, "") and "has no column consent: say with --consent WHO/WHAT" in err
    assert store.count() == {} and store.audit_log() == []


def test_thousands_of_equal_reasons_are_one_line(run_import: Import, tmp_path: Path) -> None:
    write_audio(tmp_path / "in", "a.wav")
    rows = [{"file_name": "a.wav", "text": "alpha"}] + [{"file_name": "a.wav", "text": ""}] * 3000
    write_csv(tmp_path / "in" / "metadata.csv", rows)
    code, out, err = run_import(tmp_path / "in")
    assert (code, out) == (2, "3,001 rows: 1 new, 3,000 left out\n")
    assert err.count("\n") == 1 and "no text: 3,000 rows: metadata.csv, row 2" in err
    assert err.endswith("and 2,990 others\n")


def test_a_later_change_of_a_text_survives_the_same_import(run_import: Import, store: Store, tmp_path: Path) -> None:
    write_audio(tmp_path / "in", "a.wav")
    (tmp_path / "in" / "a.txt").write_text("alpha")
    run_import(tmp_path / "in")
    assert main(["feedback", "correct", str(store.folder), "1", "alfalfa", "--who", "ann"]) == 0
    assert run_import(tmp_path / "in")[1] == "1 rows: 0 new, 1 known before\n"
    assert store.get(1).text == "alfalfa"


def test_texts_that_a_model_can_not_write_are_left_out_by_their_letters(
    run_import: Import, store: Store, tmp_path: Path, model_folder: Path
) -> None:
    write_audio(tmp_path / "in", "a.wav", "b.wav", "c.wav")
    for name, text in {"a": "Bad, CAB!", "b": "bad 7é", "c": "dad"}.items():
        (tmp_path / "in" / f"{name}.txt").write_text(text)
    code, out, err = run_import(tmp_path / "in", "--alphabet-of", model_folder)
    assert (code, out) == (2, "3 rows: 2 new, 1 left out\n")
    assert "the model has no 7 é in its alphabet: write the text with its letters: b.wav" in err
    (store.folder / "models").mkdir()
    shutil.copytree(model_folder, store.folder / "models" / "champion")
    assert run_import(tmp_path / "in")[1] == "3 rows: 0 new, 2 known before, 1 left out\n"
    assert main(["feedback", "correct", str(store.folder), "1", "xyz", "--who", "bob"]) == 2
    assert read_texts(store) == ["Bad, CAB!", "dad"]


def test_a_piece_of_a_recording_is_cut_out(run_import: Import, store: Store, tmp_path: Path) -> None:
    (tmp_path / "long.wav").write_bytes(make_audio(0, 2.0))
    rows = [{"audio": "long.wav", "text": "alpha", "start": "0.5", "end": "1.25"}]
    write_csv(tmp_path / "rows.csv", rows)
    assert run_import(tmp_path / "rows.csv")[0] == 0
    found = store.get(1)
    assert (found.suffix, found.seconds) == (".flac", 0.75) and store.read_audio(1)[:4] == b"fLaC"
    assert run_import(tmp_path / "rows.csv")[1] == "1 rows: 0 new, 1 known before\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.csv", None, "There is no "),
        ("notes.txt", "hello", "can't be imported: expected a folder, or a file that ends in"),
        ("rows.csv", "text,speaker\nhello,p1\n", "has no column of audio (speaker, text); expected audio"),
        ("rows.json", "{", "rows.json"),
        ("min.csv", "annotation_id,annotator,audio,text\n1,1,/data/upload/a.wav,x\n", "export the project as JSON"),
    ],
)
def test_what_is_no_table_is_one_sentence(
    run_import: Import, store: Store, tmp_path: Path, name: str, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    code, out, err = run_import(tmp_path / name)
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1
    assert store.count() == {}
