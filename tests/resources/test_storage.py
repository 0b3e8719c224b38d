"""Corpora at URLs, on a real S3 server and a real web server of this machine."""

import functools
import http.server
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from finetune.audio.waveforms import AudioError, read_seconds, read_waveform
from finetune.cli import main
from finetune.data.sources import Source, load_splits, select_table
from finetune.data.streaming import keep_in_memory
from finetune.errors import UserError


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of an S3 server on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket's name, on a server that fsspec finds by its usual environment."""
    import boto3
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    boto3.resource("s3").create_bucket(Bucket="speech")
    boto3.resource("s3").Bucket("speech").objects.delete()
    return "speech"


def upload(folder: Path, bucket: str) -> None:
    import boto3

    for file in folder.rglob("*"):
        if file.is_file():
            boto3.client("s3").upload_file(str(file), bucket, file.relative_to(folder).as_posix())


def test_a_folder_of_a_bucket_is_a_corpus(corpus_folder: Path, bucket: str) -> None:
    upload(corpus_folder, bucket)
    here, there = Source(str(corpus_folder)), Source(f"s3://{bucket}")
    splits = load_splits(there)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 24, "validation": 6, "test": 6}
    local = select_table(load_splits(here), "test", here)
    remote = select_table(splits, "test", there)
    assert remote.texts() == local.texts() and remote.speakers() == local.speakers()
    for row in range(6):
        assert remote.name(row) == local.name(row)
        assert read_seconds(remote.recording(row)) == read_seconds(local.recording(row))
        np.testing.assert_array_equal(
            read_waveform(remote.recording(row), 16000), read_waveform(local.recording(row), 16000)
        )


@pytest.mark.long
def test_training_reads_from_a_bucket_in_its_worker(
    corpus_folder: Path, bucket: str, tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    upload(corpus_folder, bucket)
    recipe = write_recipe(tmp_path, data={"root": f"s3://{bucket}"}, training={"max_steps": 2, "num_workers": 1})
    assert main(["train", str(recipe), "--output", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_tars_in_a_bucket_are_read_in_pieces(corpus_folder: Path, bucket: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for file in sorted((corpus_folder / "test").glob("*.wav")):
            archive.add(file, file.name)
            (tmp_path / "text").write_text("hello")
            archive.add(tmp_path / "text", f"{file.stem}.txt")
    upload(tmp_path, bucket)
    source = Source(f"s3://{bucket}")
    table = select_table(load_splits(source), "train", source)
    assert table.texts() == ["hello"] * 6
    lengths = [read_seconds(table.recording(row)) for row in range(6)]
    assert lengths == [soundfile.info(corpus_folder / "test" / f"{row:02d}.wav").duration for row in range(6)]


def test_a_bucket_of_parquet_is_streamed_and_not_fetched_whole(
    corpus_folder: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    data = (corpus_folder / "test" / "00.wav").read_bytes()
    for shard in range(3):
        rows = [{"bytes": data, "path": f"{shard}-{row}.wav"} for row in range(4)]
        file = tmp_path / "shards" / f"train-{shard}.parquet"
        file.parent.mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table({"audio": rows, "text": ["ab"] * 4}), file)
    upload(tmp_path / "shards", bucket)
    source = Source(f"s3://{bucket}", streaming=True)
    rows = keep_in_memory(load_splits(source)["train"], 5)
    table = select_table({"train": rows}, "train", source)
    assert [table.name(row) for row in range(5)] == ["0-0.wav", "0-1.wav", "0-2.wav", "0-3.wav", "1-0.wav"]
    assert read_seconds(table.recording(4)) > 0.3
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_missing_files_in_a_bucket_are_named(bucket: str, tmp_path: Path, corpus_folder: Path) -> None:
    with pytest.raises(UserError, match="There is no data at s3://speech/nowhere"):
        load_splits(Source("s3://speech/nowhere"))
    (tmp_path / "train.csv").write_text("file_name,text\nnone.wav,hello\n../other/secret.wav,leak\n")
    upload(tmp_path, bucket)
    source = Source(f"s3://{bucket}")
    table = select_table(load_splits(source), "train", source)
    with pytest.raises(AudioError, match="unreadable audio"):
        read_seconds(table.recording(0))
    with pytest.raises(AudioError, match="outside the corpus"):
        table.recording(1)


def test_a_storage_without_its_package_is_named() -> None:
    with pytest.raises(UserError, match=r"gs://bucket/corpus can't be reached: .*gcsfs"):
        load_splits(Source("gs://bucket/corpus"))


def test_a_server_that_does_not_answer_is_a_sentence(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match=r"The data can't be read\. s3://speech: .*connect"):
        load_splits(Source("s3://speech"))


def test_a_manifest_on_a_web_server(corpus_folder: Path) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(corpus_folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = Source(f"http://127.0.0.1:{server.server_port}/test/metadata.csv")
        table = select_table(load_splits(source), "train", source)
        assert len(table) == 6
        assert [0.3 < read_seconds(table.recording(row)) < 2 for row in range(6)] == [True] * 6
        assert len(read_waveform(table.recording(0), 16000)) > 4800
        server.shutdown()
