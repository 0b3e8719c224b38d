"""A corpus behind a password: training reads it, a run that goes on reads it again, and nothing keeps the password."""

import base64
import csv
import functools
import http.server
import io
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from conftest import write_corpus

from finetune.cli import main
from finetune.recipe.load import load_recipe
from finetune.run.run_directory import check_output

SECRET = "s3cret-of-ann"


class Closed(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self._is_allowed():
            super().do_GET()

    def do_HEAD(self) -> None:
        if self._is_allowed():
            super().do_HEAD()

    def log_message(self, *_: object) -> None:
        pass

    def _is_allowed(self) -> bool:
        expected = "Basic " + base64.b64encode(f"ann:{SECRET}".encode()).decode()
        allowed = self.headers.get("Authorization") == expected
        if not allowed:
            self.send_error(401)
        return allowed


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[str]:
    """The address, with a password, of a table of three splits; one of its files isn't there, one isn't audio."""
    folder = tmp_path / "served"
    rows: list[dict[str, str]] = []
    for split, speaker in (("train", "a"), ("validation", "b"), ("test", "c")):
        write_corpus(folder / split, ["ab", "cab", "bad"], [speaker] * 3)
        with (folder / split / "metadata.csv").open() as file:
            rows += [
                {**row, "file_name": f"{split}/{row['file_name']}", "split": split} for row in csv.DictReader(file)
            ]
    rows += [
        {"file_name": f"train/{name}.wav", "text": "ab", "speaker": "a", "split": "train"} for name in ("no", "bad")
    ]
    (folder / "train/bad.wav").write_text("no audio")
    with (folder / "list.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    handler = functools.partial(Closed, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://ann:{SECRET}@127.0.0.1:{server.server_port}/list.csv"
        server.shutdown()


def test_training_goes_on_by_the_whole_address_and_leaves_none_of_its_secret(
    corpus: str, tmp_path: Path, write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = (
        write_recipe(tmp_path, data={"root": corpus}, training={"trackers": ["tensorboard"]}),
        tmp_path / "run",
    )
    assert main(["train", str(recipe), "--output", str(run)]) == 0
    require_no_secret(run, capsys)
    assert "127.0.0.1" in (run / "recipe.yaml").read_text() and "127.0.0.1" in (run / "model/README.md").read_text()
    assert (run / "rejected.csv").read_text().count("\n") == 3
    (source,) = json.loads((run / "model/training.json").read_text())["sources"]
    assert not source["local"] and f"http://ann:{SECRET}@" + source["root"].removeprefix("http://") == corpus
    # What a run that goes on finds, also one of before, whose recipe has the password.
    shutil.rmtree(run / "report")
    shutil.rmtree(run / "model")
    assert check_output(run, load_recipe(recipe))
    before = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**before, "data": {**before["data"], "root": corpus}}))
    assert check_output(run, load_recipe(recipe))
    (run / "recipe.yaml").write_text(yaml.safe_dump(before))
    assert main(["train", str(recipe), "--output", str(run)]) == 0
    report = ["--report", str(tmp_path / "report"), "--json", str(tmp_path / "scores.json")]
    assert main(["evaluate", str(run / "model"), "--data", corpus, *report]) == 0
    require_no_secret(run, capsys)
    require_no_secret(tmp_path / "report", capsys)
    assert SECRET not in (tmp_path / "scores.json").read_text()


def test_what_goes_wrong_is_said_without_the_secret(
    corpus: str,
    tmp_path: Path,
    write_recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    model_folder: Path,
) -> None:
    for place in (corpus.replace("list", "none"), corpus.replace("127.0.0.1", "127.0.0.1:1/x")):
        assert main(["check", str(write_recipe(tmp_path, data={"root": place}))]) == 2
        for arguments in ([place], [f"{place}?sig={SECRET}", "--output", str(tmp_path / "out")]):
            assert main(["transcribe", str(model_folder), *arguments]) == 2
        assert main(["evaluate", str(model_folder), "--data", place]) == 2
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err and "127.0.0.1" in said.err
    assert not any(SECRET in str(file) for file in tmp_path.rglob("*"))


def require_no_secret(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 2 and not [file for file in files if SECRET.encode() in read(file)]


def read(file: Path) -> bytes:
    import gzip

    content = file.read_bytes()
    return gzip.GzipFile(fileobj=io.BytesIO(content)).read() if file.suffix == ".gz" else content
