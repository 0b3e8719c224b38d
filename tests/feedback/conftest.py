"""Stores on SQLite and on a real PostgreSQL server, with utterances of tones."""

import io
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from finetune.feedback.records import Hypothesis, NewUtterance
from finetune.feedback.store import Store

_NUMBERS = itertools.count()


def make_audio(number: int = 0, seconds: float = 0.1) -> bytes:
    """The bytes of a WAV file, other ones for each number."""
    samples = np.random.default_rng(number).uniform(-0.5, 0.5, round(16000 * seconds))
    written = io.BytesIO()
    soundfile.write(written, samples, 16000, format="WAV", subtype="PCM_16")
    return written.getvalue()


def make_utterance(number: int = 0, text: str | None = None, **others: object) -> NewUtterance:
    """An utterance to add; `text` is what a model wrote of it."""
    hypothesis = None if text is None else Hypothesis(text=text, model="m1", confidence=0.5)
    values = {"audio": make_audio(number), "suffix": ".wav", "seconds": 0.1, "source": "test", "consent": "all/test"}
    return NewUtterance(**{**values, "hypothesis": hypothesis, **others})  # type: ignore[arg-type]


def search(folder: Path, *parts: bytes) -> list[Path]:
    """The files below a folder that have one of the bytes in them."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [file for file in files if any(part in file.read_bytes() for part in parts)]


def _find_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda each: int(each.parts[-3]))
    return found[-1].parent if found else None


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a server's database `postgres`; the tests are skipped, or fail if FINETUNE_POSTGRES=required."""
    programs = _find_programs()
    if programs is None:
        reason = "PostgreSQL is not installed (Debian: apt-get install postgresql)"
        (pytest.fail if os.environ.get("FINETUNE_POSTGRES") == "required" else pytest.skip)(reason)
    # The server refuses to run as root.
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    as_user = ["runuser", "-u", user, "--"] if os.getuid() == 0 else []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="finetune-postgresql-"))  # Not pytest's, which only root may enter.
    try:
        if as_user:
            shutil.chown(folder, user)
        data = folder / "data"
        run = lambda *command: subprocess.run(  # noqa: E731
            [*as_user, *map(str, command)], check=True, capture_output=True, cwd=folder
        )
        run(programs / "initdb", "-D", data, "-U", "test", "-A", "trust", "-E", "UTF8", "--locale=C")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c max_connections=200"
        run(programs / "pg_ctl", "-D", data, "-l", folder / "log", "-w", "-o", options, "start")
        try:
            yield f"postgresql://test@127.0.0.1:{port}/postgres"
        finally:
            run(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_database(server: str) -> Iterator[str]:
    """The URL of an empty database of a server."""
    import psycopg

    name = f"store_{os.getpid()}_{next(_NUMBERS)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield f"{server.rpartition('/')[0]}/{name}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """`make_store(**options)` makes a store in `tmp_path / "store"`, on both kinds of databases in turn."""
    stores: list[Store] = []

    def make(**options: object) -> Store:
        stores.append(Store.create(tmp_path / "store", **{**places, **options}))  # type: ignore[arg-type]
        return stores[-1]

    if request.param == "sqlite":
        places: dict[str, str] = {}
        yield make
    else:
        with new_database(request.getfixturevalue("postgresql")) as url:
            places = {"database": url}
            yield make
            for store in stores:
                store.close()
    for store in stores:
        store.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store on SQLite."""
    with closing(Store.create(tmp_path / "store")) as made:
        yield made
