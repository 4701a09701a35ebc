"""The database: engine, sessions and migrations, the same on SQLite (WAL) and PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from edgerad import private
from edgerad.records import Record
from edgerad.settings import SettingsError

if TYPE_CHECKING:
    from sqlalchemy.dialects.postgresql import Insert as PostgresInsert
    from sqlalchemy.dialects.sqlite import Insert as SqliteInsert

BUSY_TIMEOUT_MS = 30_000


class Database:
    """A database by its SQLAlchemy URL; connects when first used and can be pickled to Ray actors."""

    def __init__(self, url: str, pool_size: int = 5) -> None:
        """Check the URL; raises SettingsError (without the URL, which may hold a password) when it is none."""
        try:
            parsed = make_url(url)
        except ArgumentError:
            msg = "setting database.url: not an SQLAlchemy URL; write sqlite:////path/file.db or postgresql+psycopg://…"
            raise SettingsError(msg) from None
        if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
            msg = f"setting database.url: {parsed.get_backend_name()} is not supported; use SQLite or PostgreSQL"
            raise SettingsError(msg)
        if parsed.get_backend_name() == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self._url = parsed
        self._pool_size = pool_size
        self._engine: Engine | None = None
        self._writing = threading.Lock()

    def __reduce__(self) -> tuple[type[Database], tuple[str, int]]:
        """Pickle the URL, not the connections."""
        return Database, (self._url.render_as_string(hide_password=False), self._pool_size)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite."""
        return self._url.get_backend_name() == "sqlite"

    @property
    def engine(self) -> Engine:
        """The engine, made on first use; its errors name no parameters, which may be patient data."""
        if self._engine is None:
            if self.is_sqlite:
                if self._url.database and self._url.database != ":memory:":
                    _make_private(Path(self._url.database))
                self._engine = create_engine(
                    self._url, hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}
                )
                event.listen(self._engine, "connect", _prepare_sqlite)
                event.listen(self._engine, "begin", _begin_sqlite)
            else:
                self._engine = create_engine(
                    self._url, hide_parameters=True, pool_size=self._pool_size, pool_pre_ping=True
                )
            event.listen(self._engine, "handle_error", _shorten_error)
        return self._engine

    def upgrade(self) -> None:
        """Bring the schema to this version; runs again without effect."""
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self.engine.begin() as connection:
            if not self.is_sqlite:  # two starters at once: the second waits, then finds nothing to do
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7311)")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a session for writing: committed at the end, rolled back on an exception."""
        # SQLite has one writer at a time, and who finds it busy sleeps up to 100 ms before looking again: within this
        # process the next one is let in at once.
        turn = self._writing if self.is_sqlite else nullcontext()
        with turn, Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session for reading; on SQLite it takes no write lock."""
        engine = self.engine.execution_options(reading=True)
        with Session(engine, expire_on_commit=False) as session:
            yield session

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None


def _make_private(path: Path) -> None:
    """Make an empty database file that only this user may read, and close one that an older version left open.

    SQLite gives the files of the log (-wal, -shm) the mode that the database has when it makes them. What cannot be
    made here is told by SQLite, as an SQLAlchemyError.
    """
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=private.FOLDER)
        private.file(path)
        for suffix in ("-wal", "-shm"):
            private.tighten(path.with_name(path.name + suffix))


def _prepare_sqlite(connection: Any, record: object) -> None:  # noqa: ARG001 - the signature is SQLAlchemy's
    connection.isolation_level = None  # transactions are begun by _begin_sqlite, not by the driver
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # a committed offset must not outlive the results after a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _shorten_error(context: ExceptionContext) -> None:
    # PostgreSQL's second line quotes the row ("DETAIL: Failing row contains …"), which may be patient data.
    for error in (context.original_exception, context.sqlalchemy_exception):
        if error is not None and error.args:
            error.args = (str(error.args[0]).partition("\n")[0], *error.args[1:])


def _begin_sqlite(connection: Connection) -> None:
    # A write transaction takes its lock at once: one that starts reading and writes later fails at once with
    # "database is locked", whatever the busy timeout, when another writer came between.
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def insert(session: Session, table: type[Record]) -> SqliteInsert | PostgresInsert:
    """Return the dialect's INSERT, which knows ON CONFLICT."""
    return _insert(session.get_bind().dialect.name, table)


def insert_new(session: Session, table: type[Record], rows: list[dict[str, Any]]) -> int:
    """Insert the rows that are not there yet, by one statement run for all of them; return how many were inserted.

    All rows have the same columns.
    """
    if not rows:
        return 0
    return session.connection().execute(_insert_new(session.get_bind().dialect.name, table), rows).rowcount


def _insert(dialect: str, table: type[Record]) -> SqliteInsert | PostgresInsert:
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


@cache
def _insert_new(dialect: str, table: type[Record]) -> SqliteInsert | PostgresInsert:
    # Kept, so that it is compiled once.
    return _insert(dialect, table).on_conflict_do_nothing()
