"""The migrations make the tables of `schema.py`, on both kinds of databases, and refuse those of a newer version."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from feedback.conftest import new_database
from sqlalchemy import text

from finetune.errors import UserError
from finetune.feedback.database import NEWEST, Database
from finetune.feedback.schema import METADATA
from finetune.feedback.store import Store


def test_the_migrations_make_the_tables_of_the_schema(make_store: Callable[..., Store]) -> None:
    with make_store().database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_the_newest_version_is_the_last_file() -> None:
    import finetune.feedback.migrations as migrations

    files = sorted((Path(str(migrations.__file__)).parent / "versions").glob("v*.py"))
    assert files[-1].name.startswith(f"v{NEWEST}_")


def test_tables_of_a_newer_version_are_refused(make_store: Callable[..., Store]) -> None:
    store = make_store()
    with store.database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UserError, match=r"tables of a newer version \(9999; this one knows .*\): update finetune"):
        Store(store.folder)


def test_processes_that_begin_at_once_make_the_tables_once(tmp_path: Path, postgresql: str) -> None:
    with new_database(postgresql) as server:
        for url in (f"sqlite:///{tmp_path}/new.sqlite", server):
            with ThreadPoolExecutor(8) as pool:
                for database in pool.map(lambda url: Database(url), [url] * 8):
                    with database.read() as connection:
                        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
                    database.close()
