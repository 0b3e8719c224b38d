"""The backup and the restore of OPERATIONS.md on a PostgreSQL server: what was forgotten does not come back."""

from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from feedback.conftest import make_audio, make_utterance, new_database
from operations import block, make_shell

from finetune.errors import UserError
from finetune.feedback.store import Store


def read_counts(url: str) -> dict[str, int]:
    """The rows of each table."""
    with psycopg.connect(url) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return {
            name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # type: ignore[index]
            for (name,) in names
        }


@pytest.mark.slow
def test_a_postgresql_store_comes_back_without_what_was_forgotten(postgresql: str, tmp_path: Path) -> None:
    with new_database(postgresql) as url:
        shell = make_shell(tmp_path, DATABASE=url, DUMP=str(tmp_path / "store.dump"))
        with closing(Store.create(tmp_path / "store", database=url)) as store:
            first, second = (store.add(make_utterance(number), "tester", f"text {number}").id for number in (1, 2))
            counts = read_counts(url)
            shell(block("backup-postgresql"))
            late = store.add(make_utterance(3), "tester", "text 3").id  # Its audio is in the backup, its row is not.
            shell(block("backup"))
            store.erase([first], "tester")
            shell('finetune feedback audit "$STORE" --json > "$AUDIT"; mv "$STORE" "$STORE-lost"')
        assert not (tmp_path / "backup" / "store.sqlite").exists()
        name = url.rpartition("/")[2]
        with psycopg.connect(postgresql, autocommit=True) as server:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")
            server.execute(f"CREATE DATABASE {name}")
        shell(block("restore-postgresql"))
        assert read_counts(url) == counts
        shell(block("restore"))
        with closing(Store(tmp_path / "store")) as store:
            assert [utterance.id for utterance in store.iterate_corrected()] == [second]
            assert store.read_audio(second) == make_audio(2)
            for number in (first, late):
                with pytest.raises(UserError):
                    store.read_audio(number)
            # The numbers go on behind those of the backup: no new row takes the place of an old one.
            assert store.add(make_utterance(4), "tester", "text 4").id > second
