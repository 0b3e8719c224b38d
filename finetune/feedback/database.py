"""The database of a store: SQLite in its folder, or PostgreSQL by URL, brought to the tables of this version."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError

from finetune.errors import UserError, format_error

NEWEST = "0002"
"""The name of the last file in migrations/versions."""

# A writer waits so long for another one, in seconds.
_LOCK_SECONDS = 60
_PURGE_STEP_SECONDS = 0.05
# Any number, so that one process at a time changes the tables in PostgreSQL.
_ADVISORY_LOCK = 7_240_118
_SCHEMES = ("postgresql", "postgres")
_SQLITE = "sqlite:///"
_EXPECTED = "postgresql://USER@HOST/NAME"


class Database:
    """Connections to the database of a store, each for one transaction."""

    def __init__(self, url: str) -> None:
        """Connect, and upgrade the tables; raises UserError where that can't be done."""
        self.url = url
        self._engine = _create_engine(url)
        try:
            upgrade(self._engine)
        except SQLAlchemyError as error:
            raise UserError(f"The database can't be opened: {describe_error(error)}.") from error

    @property
    def is_postgresql(self) -> bool:
        """Whether it is a PostgreSQL server."""
        return self._engine.dialect.name == "postgresql"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads; raises UserError where the database fails."""
        with _named(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self, alone: str | None = None) -> Iterator[Connection]:
        """A transaction that writes: all of it, and only after it reached the disk, or nothing.

        Of those with the same name `alone` there is one at a time; SQLite has one of all. Raises UserError where the
        database fails, for example on a full disk.
        """
        with _named(), self._engine.connect().execution_options(writes=True) as connection, connection.begin():
            if alone is not None and self.is_postgresql:
                connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": alone})
            yield connection

    def purge(self, seconds: float) -> bool:
        """Have SQLite empty its log, which has texts that were deleted since, and return whether that could be done.

        It can't be while another connection reads what was before; this waits up to so many seconds for its end. In
        PostgreSQL the vacuum deletes such texts later by itself. Raises UserError where the database fails.
        """
        if self.is_postgresql:
            return True
        deadline = time.monotonic() + seconds
        with _named(), self._engine.connect() as connection:
            raw = connection.connection.driver_connection  # Outside of any transaction.
            assert raw is not None
            # One that waited would keep all writers out in the meantime.
            raw.execute(f"PRAGMA busy_timeout={_PURGE_STEP_SECONDS * 1000:.0f}")
            try:
                while raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    if time.monotonic() >= deadline:
                        return False
                    time.sleep(_PURGE_STEP_SECONDS)
            finally:
                raw.execute(f"PRAGMA busy_timeout={_LOCK_SECONDS * 1000:.0f}")
        return True

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def sqlite_url(file: Path) -> str:
    """The URL of an SQLite file, whose path may have a ? in it."""
    return f"{_SQLITE}{file.absolute()}"


def check_url(url: str) -> None:
    """Raise UserError unless it is the URL of a PostgreSQL database."""
    if url.partition(":")[0].partition("+")[0] not in _SCHEMES:
        raise UserError(f"The database is {_hide(url)}; expected {_EXPECTED}.")


def _create_engine(url: str) -> Engine:
    if url.startswith(_SQLITE):
        place = URL.create("sqlite", database=url.removeprefix(_SQLITE))
        engine = create_engine(place, connect_args={"timeout": _LOCK_SECONDS})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    check_url(url)
    rest = url.partition("://")[2]
    try:
        return create_engine(f"postgresql+psycopg://{rest}", pool_pre_ping=True, pool_size=8)
    except (ArgumentError, ValueError):
        # Their messages have parts of the URL, also of its password.
        raise UserError(f"The URL of the database can't be read; expected {_EXPECTED}.") from None


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # We begin transactions, not Python's module.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes its lock first: two that read before they write would refuse each other."""
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def upgrade(engine: Engine) -> None:
    """Bring the tables to this version; raises UserError for those of a newer one."""
    with engine.connect() as connection:
        found = _find_version(connection)
    if found == NEWEST:
        return
    if found is not None and found > NEWEST:
        raise UserError(f"The store has tables of a newer version ({found}; this one knows {NEWEST}): update finetune.")
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "finetune.feedback:migrations")
    config.set_main_option("path_separator", "os")
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        config.attributes["connection"] = connection
        command.upgrade(config, NEWEST)


def _find_version(connection: Connection) -> str | None:
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


@contextmanager
def _named() -> Iterator[None]:
    """Name what a database says as an error of the user."""
    try:
        yield
    except (OperationalError, DBAPIError) as error:
        raise UserError(f"The store's database failed: {describe_error(error)}. Nothing was changed.") from error


def describe_error(error: SQLAlchemyError) -> str:
    """What the database said, without the statement and its values."""
    return format_error(error.orig if isinstance(error, DBAPIError) and isinstance(error.orig, Exception) else error)


def has_password(url: str) -> bool:
    """Whether a URL may have a password in it."""
    try:
        parts = urlsplit(url)
        return parts.password is not None or "password" in parse_qs(parts.query)
    except ValueError:
        return True


def _hide(url: str) -> str:
    """A URL without the password in it, and without what may be one."""
    scheme, marks, rest = url.partition("?")[0].partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}{marks}{user.partition(':')[0]}{at}{place}"
