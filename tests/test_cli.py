"""Bad input: one sentence that begins with `finetune: `, exit code 2, no traceback, nothing written."""

import csv
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from finetune.cli import main
from finetune.resources.machine import Memory

Refusal = Callable[..., str]


def list_files(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refusal:
    """Runs a command that must be refused, in `tmp_path`; returns the sentence without its beginning."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> str:
        before = list_files(tmp_path)
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        written = capsys.readouterr()
        assert code == 2
        assert written.err.startswith("finetune: ") and written.err.endswith("\n")
        assert written.err.count("finetune: ") == 1 and "Traceback" not in written.err
        assert written.out == ""
        assert list_files(tmp_path) == before
        assert not (tmp_path / "runs").exists()
        return written.err.removeprefix("finetune: ").removesuffix("\n")

    return run


def copy_rows(corpus: Path, folder: Path, split: str, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    """A split's metadata.csv with absolute paths and changed rows."""
    with (corpus / split / "metadata.csv").open(newline="") as file:
        rows = [change({**row, "file_name": str(corpus / split / row["file_name"])}) for row in csv.DictReader(file)]
    (folder / split).mkdir(parents=True)
    with (folder / split / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file_name", "text", "speaker"])
        writer.writeheader()
        writer.writerows(rows)


def write_tone(file: Path, seconds: float = 1.0) -> Path:
    soundfile.write(file, 0.1 * np.sin(np.arange(round(16000 * seconds)) / 5), 16000)
    return file


@pytest.mark.parametrize(
    ("precision", "asked", "gibibytes", "processes", "kept"),
    [
        ("bf16", None, 24, 1, "4000"),
        ("bf16", None, 2, 1, "671"),  # a quarter of the memory, 0.8 MB each
        ("bf16", None, 2, 2, "335"),
        ("no", None, 24, 1, "16"),
        ("bf16", "99", 24, 1, "99"),
    ],
)
def test_training_keeps_the_kernels_of_as_many_shapes_in_bf16_as_fit_unless_told_otherwise(
    refuse: Refusal,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    write_recipe: Callable[..., Path],
    precision: str,
    asked: str | None,
    gibibytes: int,
    processes: int,
    kept: str,
) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    recipe = write_recipe(tmp_path, training={"mixed_precision": precision}, data={"root": "nowhere/at/all"})
    environment = {key: value for key, value in os.environ.items() if key != name}
    environment["LOCAL_WORLD_SIZE"] = str(processes)
    memory = Memory(total=gibibytes * 2**30, available=2**30, limited=True)
    monkeypatch.setattr("finetune.resources.machine.measure_memory", lambda: memory)
    monkeypatch.setattr(os, "environ", environment if asked is None else {**environment, name: asked})
    monkeypatch.setattr("finetune.resources.machine.has_fast_bf16", lambda device: True)
    refuse("train", recipe)
    assert os.environ[name] == kept


def test_no_service_is_asked_to_convert_weights(refuse: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "DISABLE_SAFETENSORS_CONVERSION": ""})
    refuse("check", "none.yaml")
    assert os.environ["DISABLE_SAFETENSORS_CONVERSION"] == "1"


@pytest.mark.parametrize("command", ["train", "check", "recipe"])
def test_a_missing_recipe(refuse: Refusal, command: str) -> None:
    assert "There is no recipe at none.yaml" in refuse(command, "none.yaml")


@pytest.mark.parametrize("command", ["train", "check", "recipe"])
def test_an_unknown_key_and_a_wrong_type(
    refuse: Refusal, tmp_path: Path, write_recipe: Callable[..., Path], command: str
) -> None:
    recipe = write_recipe(tmp_path, training={"max_step": 3})
    sentence = refuse(command, recipe, "training.learning_rate=fast")
    assert "training.max_step: unknown key; did you mean max_steps?" in sentence
    assert "training.learning_rate: found 'fast'" in sentence


@pytest.mark.parametrize("command", ["train", "check"])
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.root=nowhere/at/all", "There is no data at"),
        ("data.root=silent", "has no transcripts"),
        ("data.root=nobody/nothing", "neither a folder or file here nor a data set"),
        ("data.text_column=words", "has no column words for the text; it has file_name, text, speaker"),
        ("data.train_split=tarin", "has no split 'tarin'; it has test, train, validation"),
        ("data.min_seconds=5", "Every utterance of the split 'train' was left out: 24 × too short"),
        ("model.base=nowhere/at/all/", "nowhere/at/all is neither a model folder"),
        ("model.base=nobody/nothing", "nobody/nothing is neither a model folder"),
        ("model.base=silent", "silent is neither a model folder"),
        ("model.base=bert", "is a bert model; expected a wav2vec2"),
        ("model.base=damaged", "'hidden_size' expected int, got str"),
    ],
)
def test_what_a_recipe_asks_for_is_not_there(
    refuse: Refusal, tmp_path: Path, write_recipe: Callable[..., Path], command: str, override: str, words: str
) -> None:
    (tmp_path / "silent").mkdir()
    write_tone(tmp_path / "silent" / "a.wav")
    for name, config in {
        "bert": {"model_type": "bert"},
        "damaged": {"model_type": "wav2vec2", "hidden_size": "x"},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    assert words in refuse(command, write_recipe(tmp_path), override)


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ({"conv_dim": [16, 16]}, "`len(config.conv_dim)` == `len(config.conv_stride)`"),
        ({"hidden_size": "wide"}, "'hidden_size' expected int, got str"),
        ({"hiden_size": 32}, "unknown keys hiden_size; did you mean hidden_size?"),
        ({"type": "lstm", "feature": "mfcc"}, "unknown keys feature; did you mean features?"),
    ],
)
def test_an_architecture_that_cant_be(
    refuse: Refusal, tmp_path: Path, write_recipe: Callable[..., Path], architecture: dict[str, object], words: str
) -> None:
    recipe = write_recipe(tmp_path, model={"base": None, "architecture": architecture})
    assert words in (sentence := refuse("check", recipe)) and sentence.startswith("model.architecture: ")


@pytest.mark.parametrize("command", ["train", "check"])
def test_an_empty_split(
    refuse: Refusal, tmp_path: Path, corpus_folder: Path, write_recipe: Callable[..., Path], command: str
) -> None:
    for split in ("train", "validation"):
        copy_rows(corpus_folder, tmp_path / "speech", split, lambda row: row)
    (tmp_path / "speech" / "test").mkdir()
    (tmp_path / "speech" / "test" / "metadata.csv").write_text("file_name,text\n")
    recipe = write_recipe(tmp_path, data={"root": "speech", "allow_outside": True})
    assert "The split 'test'" in (sentence := refuse(command, recipe)) and "is empty" in sentence
    assert "(train, validation) with data.train_split" in sentence and "to train without a test, move its" in sentence


def test_a_damaged_saved_data_set(refuse: Refusal, tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    import datasets

    datasets.Dataset.from_dict({"audio": ["a.wav"], "text": ["one"]}).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("{}")
    sentence = refuse("check", write_recipe(tmp_path, data={"root": "saved"}))
    assert "saved can't be read as save_to_disk of `datasets` writes it: KeyError '_data_files'; copy the" in sentence


def test_times_that_are_no_segments(refuse: Refusal, tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / "list.csv").write_text("file_name,start_time,text\na.wav,0.2,one\na.wav,0.6,two\n")
    sentence = refuse("check", write_recipe(tmp_path, data={"root": "list.csv"}))
    assert "2 × incomplete segment. The first: a start at 0.2 s, and no column end or duration. Seg" in sentence


@pytest.mark.parametrize("command", ["train", "check"])
def test_every_utterance_rejected_is_counted_by_reason(
    refuse: Refusal, tmp_path: Path, corpus_folder: Path, write_recipe: Callable[..., Path], command: str
) -> None:
    for split in ("train", "validation"):
        copy_rows(corpus_folder, tmp_path / "speech", split, lambda row: {**row, "text": "…!"})
    rows = (tmp_path / "speech" / "train" / "metadata.csv").read_text().replace("00.wav", "none.wav")
    (tmp_path / "speech" / "train" / "metadata.csv").write_text(rows.replace("none.wav,…!", "none.wav,ab"))
    sentence = refuse(command, write_recipe(tmp_path, data={"root": "speech", "allow_outside": True}))
    assert "'train' was left out: 23 × empty transcript, 1 × no such file" in sentence


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["notes.txt"], "exists and is no run"),
        (["recipe.yaml", "report/scores.json"], "holds a finished run"),
    ],
)
def test_an_output_directory_that_is_taken(
    refuse: Refusal, tmp_path: Path, write_recipe: Callable[..., Path], files: list[str], words: str
) -> None:
    recipe, output = write_recipe(tmp_path), tmp_path / "taken"
    for name in files:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(recipe.read_text())
    assert words in refuse("train", recipe, "--output", output)


def test_an_output_directory_with_another_recipes_run(
    refuse: Refusal, tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    recipe, output = write_recipe(tmp_path), tmp_path / "taken"
    output.mkdir()
    (output / "recipe.yaml").write_text(recipe.read_text())
    assert "unfinished run of another recipe" in refuse("train", recipe, "training.seed=5", "--output", output)


def test_an_output_that_is_a_file(refuse: Refusal, tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    recipe = write_recipe(tmp_path)
    assert "exists and is no run" in refuse("train", recipe, "--output", recipe)
    assert f"can't be made: {recipe} is no folder" in refuse("train", recipe, "--output", recipe / "runs" / "one")


@pytest.mark.parametrize("weights", [b"", b"these are no weights", None])
def test_a_base_without_usable_weights(
    refuse: Refusal, tmp_path: Path, base_folder: Path, write_recipe: Callable[..., Path], weights: bytes | None
) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((base_folder / name).read_bytes())
    if weights is not None:
        (tmp_path / "model.safetensors").write_bytes(weights)
    assert f"{tmp_path} can't be loaded as a model: " in refuse(
        "train", write_recipe(tmp_path, model={"base": str(tmp_path)})
    )


def test_an_architecture_whose_parts_dont_fit(
    refuse: Refusal, tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    recipe = write_recipe(tmp_path, model={"base": None, "architecture": {"hidden_size": 32, "num_attention_heads": 5}})
    assert "model.architecture can't be loaded as a model: " in refuse("train", recipe)


def test_half_precision_without_a_gpu(
    refuse: Refusal, tmp_path: Path, write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    recipe = write_recipe(tmp_path, training={"mixed_precision": "fp16"})
    assert "fp16 needs a GPU" in refuse("train", recipe)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nowhere/at/all", "There is no model at"),
        ("nobody/nothing", "nobody/nothing is neither a model folder"),
        ("empty", "empty is neither a model folder"),
        ("base", "has no CTC head (Wav2Vec2Model)"),
    ],
)
def test_a_model_that_cant_transcribe(
    refuse: Refusal, tmp_path: Path, base_folder: Path, corpus_folder: Path, model: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    name = base_folder if model == "base" else model
    assert words in refuse("evaluate", name, "--data", corpus_folder, "--json", tmp_path / "scores.json")
    assert words in refuse("transcribe", name, corpus_folder / "test" / "00.wav")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "expected a file, a folder, a pattern"),
        ("empty", "unreadable audio"),
        ("text", "unreadable audio"),
        ("no samples", "audio of zero length"),
        ("truncated", "unreadable audio"),
        ("click", "too short"),
    ],
)
def test_audio_that_cant_be_transcribed(
    refuse: Refusal, tmp_path: Path, model_folder: Path, kind: str, words: str
) -> None:
    bad = tmp_path / ("bad.wav" if kind == "no samples" else "bad.flac")
    if kind == "empty":
        bad.write_bytes(b"")
    elif kind == "text":
        bad.write_text("words, not audio")
    elif kind == "no samples":
        write_tone(bad, seconds=0.0)
    elif kind == "truncated":
        content = write_tone(bad).read_bytes()
        bad.write_bytes(content[: len(content) // 2])
    elif kind == "click":
        write_tone(bad, seconds=0.01)
    sentence = refuse("transcribe", model_folder, bad)
    assert str(bad) in sentence and words in sentence


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nowhere/at/all"], "There is no data at nowhere/at/all"),
        (["--data", "{corpus}", "--split", "dev"], "has no split 'dev'; it has test, train, validation"),
        (["--data", "{corpus}", "--text-column", "words"], "has no column words for the text"),
        (["--data", "{corpus}", "--json", "no/folder/scores.json"], "no/folder/scores.json can't be written"),
        (["--data", "{corpus}", "--json", "."], "can't be written: expected a file's name"),
    ],
)
def test_evaluation_of_what_is_not_there(
    refuse: Refusal, model_folder: Path, corpus_folder: Path, arguments: list[str], words: str
) -> None:
    assert words in refuse("evaluate", model_folder, *[a.format(corpus=corpus_folder) for a in arguments])


def test_evaluation_where_every_text_normalises_to_nothing(
    refuse: Refusal, tmp_path: Path, model_folder: Path, corpus_folder: Path
) -> None:
    copy_rows(corpus_folder, tmp_path / "speech", "test", lambda row: {**row, "text": "?!"})
    sentence = refuse("evaluate", model_folder, "--data", "speech", "--json", "scores.json", "--allow-outside")
    assert "leaves nothing of any transcript of the split 'test', such as '?!': check" in sentence


def test_evaluation_writes_the_promised_keys_and_lists_what_was_left_out(
    tmp_path: Path, model_folder: Path, corpus_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_rows(corpus_folder, tmp_path, "test", lambda row: row)
    with (tmp_path / "test" / "metadata.csv").open("a") as file:
        file.write("none.wav,ab,x\n")
    command = ["evaluate", str(model_folder), "--data", str(tmp_path), "--allow-outside"]
    assert main([*command, "--json", str(tmp_path / "s.json")]) == 0
    written = capsys.readouterr()
    scores = json.loads((tmp_path / "s.json").read_text())
    promised = {"wer", "cer", "utterances", "words", "substitutions", "deletions", "insertions", "audio_seconds"}
    assert promised <= scores.keys()
    assert scores["utterances"] == 6
    assert written.out.startswith("WER ") and "left out: none.wav: no such file" in written.err
    command = ["compare", str(model_folder), str(model_folder), "--data", str(tmp_path), "--allow-outside"]
    assert main(command) == 0
    written = capsys.readouterr()
    assert written.err.count("left out: none.wav: no such file") == 1 and "of 6 utterances" in written.out


def test_check_says_what_there_is(
    tmp_path: Path, write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(write_recipe(tmp_path))]) == 0
    said = capsys.readouterr().out
    assert "train: 24 utterances" in said and "vocabulary: 4 characters: a b c d" in said
    assert [file.name for file in tmp_path.iterdir()] == ["recipe.yaml"]


def test_recipe_prints_what_loads_back(
    tmp_path: Path, write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipe", str(write_recipe(tmp_path)), "training.seed=3"]) == 0
    (tmp_path / "printed.yaml").write_text(printed := capsys.readouterr().out)
    assert main(["recipe", str(tmp_path / "printed.yaml")]) == 0
    assert capsys.readouterr().out == printed and "seed: 3" in printed


def test_overrides_may_stand_behind_the_output(
    refuse: Refusal, tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    assert "training.max_steps: found 'x'" in refuse(
        "train", write_recipe(tmp_path), "--output", "there", "training.max_steps=x"
    )


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["train"], ["recipe", "a.yaml", "--outptu", "x"], ["evaluate", "m"]]
)
def test_wrong_usage_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
    assert "usage: finetune" in capsys.readouterr().err


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_imports_no_torch() -> None:
    assert run_python("import sys, finetune; print('torch' in sys.modules)") == "False\n"


def test_help_imports_neither_torch_nor_pydantic() -> None:
    code = """
import sys
from finetune.cli import main
try:
    main(["--help"])
except SystemExit as leaving:
    print(leaving.code, [name for name in ("torch", "pydantic", "transformers", "numpy") if name in sys.modules])
"""
    printed = run_python(code)
    assert printed.startswith("usage: finetune") and printed.endswith("0 []\n")


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "finetune", "recipe", str(tmp_path / "none.yaml")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert finished.stderr.startswith("finetune: There is no recipe at")
    assert len(finished.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.txt"], "none.txt can't be read: No such file or directory"),
        (["."], ". can't be read: Is a directory"),
        (["empty.txt"], "empty.txt: found no words; expected text with a sentence on each line."),
        (["text.txt", "--test", "empty.txt"], "empty.txt: found no words"),
        (["text.txt", "latin.txt"], "latin.txt, line 2: it is not UTF-8"),
        (["cut.txt.gz"], "cut.txt.gz can't be read: Compressed file ended"),
        (["text.txt", "--normalization", "lower"], "The normalisation can't be used: unknown transform 'lower'."),
        (["marks.txt", "--normalization", "nfc"], "marks.txt, line 1: found </s>, reserved for the model"),
        (["text.txt", "--model", "nowhere/at/all"], "There is no model at nowhere/at/all: expected a folder"),
        (["text.txt", "--order", "0"], "Found the order 0; expected 1 to 20."),
        (["text.txt", "--prune", "1"], "Found the pruning thresholds 1; expected up to 4, the first 0"),
        (["text.txt", "-o", "full"], "full exists already"),
        (["text.txt", "-o", "no/where"], "no/where can't be made: No such file or directory"),
    ],
)
def test_language_models_that_cannot_be_built(
    refuse: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.setenv("PATH", "")
    (tmp_path / "text.txt").write_text("the cat sat\n")
    (tmp_path / "empty.txt").write_text("\n ...\n")
    (tmp_path / "marks.txt").write_text("the end </s>\n")
    (tmp_path / "latin.txt").write_bytes(b"the caf\xc3\xa9\nthe caf\xe9\n")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"the cat sat\n")[:-9])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    output = [] if "-o" in arguments else ["-o", "lm"]
    assert words in refuse("lm", "build", *arguments, *output)
    assert not (tmp_path / "lm").exists() and not list(tmp_path.glob("*.partial"))
