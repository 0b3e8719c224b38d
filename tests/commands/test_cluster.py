"""Commands on a Ray cluster of two nodes: the files, texts, scores and exit codes of the plain command."""

import functools
import http.server
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
from programs import started
from ray_nodes import Nodes, started_nodes

from finetune.cli import main


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with started_nodes() as running:
        yield running


def write_noise(file: Path, seconds: float = 1.0, seed: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, 0.1 * np.random.default_rng(seed).standard_normal(round(16000 * seconds)), 16000)
    return file


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    # On a slow machine it says that it is still waiting.
    lines = [line for line in printed.err.splitlines(True) if not line.startswith("note: still waiting")]
    return code, printed.out, "".join(lines)


def read_folder(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in sorted(folder.rglob("*")) if file.is_file()}


def find_actors() -> list[psutil.Process]:
    """The actors that hold a model or load one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found += [process] if "_Actor" in " ".join(process.cmdline()) else []
        except psutil.Error:
            continue
    return found


@pytest.mark.long
def test_files_failures_and_exit_code_are_those_of_the_plain_command(
    nodes: Nodes, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(10):
        write_noise(tmp_path / "talks" / f"{number % 2}" / f"{number}.wav", 1 + number / 4, number)
    (tmp_path / "talks/broken.wav").write_bytes(b"RIFF and no more")
    (tmp_path / "talks/gone.wav").symlink_to("nowhere")
    (tmp_path / "talks/empty.flac").touch()
    common = ("transcribe", model, "talks", "--format", "text", "--format", "json", "--precision", "float32")
    code, _, said = run(capsys, *common, "--output", "plain")
    engine = ("--engine", "ray", "--address", nodes.address)
    on_cluster = run(capsys, *common, "--output", "cluster", *engine)
    assert code == on_cluster[0] == 2 and on_cluster[1] == ""
    assert read_folder(Path("plain")) == read_folder(Path("cluster")) and len(read_folder(Path("plain"))) == 20
    listed = [line for line in said.splitlines() if ": " in line]
    assert [line for line in on_cluster[2].splitlines() if ": " in line][:-1] == listed[:-1] and len(listed) == 5
    (Path("cluster/1/7.txt")).unlink()
    code, _, said = run(capsys, *common[:2], "talks/1", *common[3:], "--output", "cluster/1", *engine, "--resume")
    assert (
        code == 0
        and said.startswith("1 of 1 recordings")
        and read_folder(Path("plain")) == read_folder(Path("cluster"))
    )
    psutil.wait_procs(find_actors(), 30)  # They end after the command.
    assert not find_actors()


@pytest.mark.long
def test_recordings_at_urls_are_fetched_where_they_are_computed(
    nodes: Nodes, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            asked.append(format % arguments)

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """A client that has what it wants closes the connection, which would be written to standard error."""

    for number in range(3):
        write_noise(tmp_path / "web" / f"{number}.wav", 1 + number, number)
    handler = functools.partial(Handler, directory=str(tmp_path / "web"))
    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        urls = [f"{root}/{name}" for name in ("0.wav", "gone.wav", "1.wav", "2.wav")]
        common = ("transcribe", model, *urls, "--precision", "float32", "--output")
        plain = run(capsys, *common, tmp_path / "plain")
        on_cluster = run(capsys, *common, tmp_path / "cluster", "--engine", "ray", "--address", nodes.address)
        server.shutdown()
    assert plain[0] == on_cluster[0] == 2 and len(read_folder(tmp_path / "plain")) == 3
    assert read_folder(tmp_path / "plain") == read_folder(tmp_path / "cluster")
    missing = [[line for line in said.splitlines() if "gone.wav" in line] for _, _, said in (plain, on_cluster)]
    assert missing[0] == missing[1] and len(missing[0]) == 1
    assert len([line for line in asked if "/2.wav" in line and "GET" in line]) >= 2


@pytest.mark.long
def test_bad_input_is_one_sentence(
    nodes: Nodes, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = write_noise(tmp_path / "talk.wav")
    with talk.open() as piped:
        monkeypatch.setattr(sys, "stdin", piped)
        for arguments, sentence in (
            ((model, talk, "--actors", 2), "finetune: --actors are for a cluster: add --engine ray.\n"),
            (
                (model, "-", "--engine", "ray"),
                "finetune: Standard input can't be sent to a cluster: write it to a file",
            ),
            ((model, talk, "--engine", "ray", "--address", "127.0.0.1:1"), "finetune: There is no Ray cluster at 127"),
        ):
            code, printed, said = run(capsys, "transcribe", *arguments)
            assert code == 2 and printed == "" and said.startswith(sentence) and said.count("\n") == 1, said
    # Found on no node: each is left out by its name, and then nothing is left.
    code, printed, said = run(
        capsys, "transcribe", tmp_path / "no", talk, "--engine", "ray", "--address", nodes.address
    )
    assert code == 2 and printed == ""
    assert f"can't be used: There is no model at {tmp_path / 'no'}" in said.splitlines()[-1]
    assert said.splitlines()[-1].startswith("finetune: No node can be used; node ") and len(said.splitlines()) <= 2


@pytest.mark.slow
def test_a_killed_command_and_a_killed_actor_leave_each_file_once(
    nodes: Nodes, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = [write_noise(tmp_path / "clips" / f"{number}.wav", 1 + number / 2, number) for number in range(4)]
    (tmp_path / "talks").mkdir()
    for number in range(400):
        os.link(clips[number % 4], tmp_path / "talks" / f"{number:03d}.wav")
    output = tmp_path / "out"
    common = ["transcribe", model, tmp_path / "talks", "--output", output, "--precision", "float32"]
    common += ["--engine", "ray", "--address", nodes.address]

    def count() -> int:
        return len(list(output.glob("*.txt")))

    with started([sys.executable, "-m", "finetune", *common], PYTHONPATH=os.environ["PYTHONPATH"]) as program:
        program.wait_for(lambda: count() >= 20)
        program.process.send_signal(signal.SIGKILL)
        program.process.wait()
    first = {file.name: file.stat().st_mtime_ns for file in output.glob("*.txt")}
    assert 20 <= len(first) < 400
    deadline = time.monotonic() + 60
    while find_actors():  # The cluster ends what the command has left.
        assert time.monotonic() < deadline
        time.sleep(0.1)
    killed: list[int] = []

    def kill() -> None:
        while count() < len(first) + 40 and count() < 390:
            time.sleep(0.02)
        for actor in find_actors()[:1]:
            actor.kill()
            killed.append(actor.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    code, _, said = run(capsys, *common, "--resume")
    thread.join()
    assert code == 0 and f"{400 - len(first)} of {400 - len(first)} recordings" in said and killed
    assert {name: (output / name).stat().st_mtime_ns for name in first} == first
    assert (
        run(capsys, "transcribe", model, tmp_path / "clips", "--output", tmp_path / "plain", "--precision", "float32")[
            0
        ]
        == 0
    )
    for number in range(400):
        assert (output / f"{number:03d}.txt").read_text() == (tmp_path / f"plain/{number % 4}.txt").read_text()
    assert count() == 400 and len(list(output.iterdir())) <= 401  # The killed command may have left a part of one file.


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["Ctrl-C", "head"])
def test_an_interruption_and_the_end_of_the_head_are_a_sentence_and_lose_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ends: str
) -> None:
    talk = write_noise(tmp_path / "talk.wav", 2)
    (tmp_path / "talks").mkdir()
    for number in range(400):
        os.link(talk, tmp_path / "talks" / f"{number:03d}.wav")
    output = tmp_path / "out"
    common = ["transcribe", model, tmp_path / "talks", "--output", output, "--precision", "float32"]
    command = [sys.executable, "-m", "finetune", *common, "--engine", "ray", "--address"]
    with started_nodes() as own:
        with started([*command, own.address], PYTHONPATH=os.environ["PYTHONPATH"]) as program:
            program.wait_for(lambda: len(list(output.glob("*.txt"))) >= 20)
            if ends == "head":
                own.kill(own.cluster.head_node)
            else:
                program.process.send_signal(signal.SIGINT)
            said = program.wait(120)
        texts = read_folder(output)
        assert 20 <= len(texts) < 400 and "Traceback" not in said
        assert said.splitlines()[-1].startswith(
            "finetune: The Ray cluster is gone" if ends == "head" else "finetune: interrupted"
        )
        assert program.process.returncode == (2 if ends == "head" else 130)
    # The plain command goes on where the cluster ended, and all texts are equal.
    assert run(capsys, *common, "--resume")[0] == 0
    found = read_folder(output)
    assert len(found) == 400 and texts.items() <= found.items() and len(set(found.values())) == 1


@pytest.mark.slow
def test_scores_of_a_cluster_are_those_of_one_process(
    nodes: Nodes, model: Path, corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(corpus_folder / "test", corpus / "test")
    next((corpus / "test").glob("*.wav")).write_bytes(b"RIFF and no more")
    common = ("evaluate", model, "--data", corpus, "--json")
    assert run(capsys, *common, tmp_path / "plain.json")[0] == 0
    assert run(capsys, *common, tmp_path / "cluster.json", "--engine", "ray", "--address", nodes.address)[0] == 0
    plain, cluster = (json.loads((tmp_path / name).read_text()) for name in ("plain.json", "cluster.json"))
    for scores in (plain, cluster):
        scores.pop("speed")
        for result in scores["results"]:
            result["confidence"] = round(result["confidence"], 3)
            result["snr_db"] = result["snr_db"] and round(result["snr_db"], 3)
    assert len(plain["results"]) == 5 and len(plain["rejected"]) == 1
    assert plain == cluster


@pytest.mark.slow
def test_findings_of_a_cluster_are_those_of_one_process(
    nodes: Nodes, write_recipe: Any, corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(corpus_folder, corpus)
    square = np.sign(np.sin(np.arange(32000) / 20 + 0.1))
    soundfile.write(sorted((corpus / "train").glob("*.wav"))[3], square, 16000)
    recipe = write_recipe(tmp_path, data={"root": str(corpus)})
    common = ("check", recipe, "--listen", "--json")
    assert run(capsys, *common, tmp_path / "plain.json")[0] == 0
    assert run(capsys, *common, tmp_path / "cluster.json", "--engine", "ray", "--address", nodes.address)[0] == 0
    plain, cluster = (json.loads((tmp_path / name).read_text()) for name in ("plain.json", "cluster.json"))
    assert plain == cluster and plain["findings"]
    code, _, said = run(capsys, "check", recipe, "--engine", "ray")
    assert code == 2 and said == "finetune: --engine ray is for decoding all audio: add --listen.\n"
