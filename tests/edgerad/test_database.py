"""The database: one schema on SQLite and PostgreSQL, append-only tables, no parameters in errors."""

import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError

import edgerad
from edgerad import decisions, ledger
from edgerad.database import Database, insert_new
from edgerad.records import APPEND_ONLY, AlertEvent, Audit, ComponentStatus, Image, Record
from edgerad.settings import SettingsError


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Both kinds of database, migrated, empty."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'edgerad.db'}"
    else:
        url = request.getfixturevalue("postgres_url")
    database = Database(url)
    database.upgrade()
    with database.write() as session:
        session.execute(delete(ComponentStatus))
    yield database
    database.close()


def test_upgrading_again_changes_nothing_and_models_match_the_schema(database: Database) -> None:
    database.upgrade()
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Record.metadata) == []


def test_a_filled_database_of_the_version_before_is_upgraded(tmp_database_url: str) -> None:
    before = Database(tmp_database_url)
    migrate(before, "0001")
    with before.write() as session:
        session.execute(
            text(
                "INSERT INTO image (image_id, bucket, key, source, state, header, registered_at)"
                " VALUES ('i', 'b', 'k', 's', 'assessed', '{}', '2026-03-01 00:00:00')"
            )
        )
        session.execute(
            text(
                "INSERT INTO assessment (assessment_id, image_id, finding, probability, logit, triage, model_digest,"
                " calibration_version, threshold_version, role, runtime, seconds, assessed_at)"
                " VALUES ('a', 'i', 'f', 0.9, 2, 'high', 'm', 'c', 't', 'primary', 'r', 1, '2026-03-01 00:00:00')"
            )
        )
        session.execute(
            text(
                "INSERT INTO alert (alert_id, image_id, assessment_id, state, level, attempts, opened_at,"
                " acknowledged_by) VALUES ('x', 'i', 'a', 'acknowledged', 0, 0, '2026-03-01 00:00:00', 'Ada')"
            )
        )
        session.execute(
            text(
                "INSERT INTO alert_event (alert_id, kind, channel, detail, at)"
                " VALUES ('x', 'acknowledged', 'dashboard', '', '2026-03-01 00:00:00')"
            )
        )
    before.upgrade()
    decisions.withdraw_acknowledgement(before, "x", "Ben", "wrong")
    with before.read() as session:
        found = [(row.kind, row.person, row.comment) for row in session.scalars(select(AlertEvent))]
    assert found == [("acknowledged", None, ""), ("reopened", "Ben", "wrong")]
    with pytest.raises(DBAPIError, match="append-only"), before.write() as session:
        session.execute(update(AlertEvent).values(comment="other"))
    before.close()


def migrate(database: Database, revision: str) -> None:
    """Bring an empty database to an older version of the schema."""
    config = Config()
    config.set_main_option("script_location", str(Path(edgerad.__file__).parent / "migrations"))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_append_only_tables_refuse_changes(database: Database) -> None:
    with database.write() as session:
        ledger.audit(session, "tester", "looked", "nothing", {})
    for statement in (update(Audit).values(actor="other"), delete(Audit)):
        with pytest.raises(DBAPIError, match="append-only"), database.write() as session:
            session.execute(statement)
    trigger = "SELECT count(*) FROM sqlite_master WHERE type = 'trigger'"
    if not database.is_sqlite:
        trigger = "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"
    with database.read() as session:
        assert session.scalar(text(trigger)) == 2 * len(APPEND_ONLY)


def test_a_failed_write_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as session:
            session.add(ComponentStatus(component="half", data={}))
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.read() as session:
        assert session.get(ComponentStatus, "half") is None


def test_errors_do_not_quote_parameters(database: Database) -> None:
    row = {"component": "Doe^Jane", "data": {}}
    with pytest.raises(DBAPIError) as caught, database.write() as session:
        session.execute(insert(Image).values(image_id="Doe^Jane", bucket="b"))
    shown = "".join(traceback.format_exception(caught.value))
    assert "Doe^Jane" not in shown.replace('image_id="Doe^Jane"', "")  # the traceback quotes this file's line
    with database.write() as session:
        insert_new(session, ComponentStatus, [row])
        insert_new(session, ComponentStatus, [row | {"data": {"lag": 1}}, row | {"component": "other"}])
    with database.read() as session:
        query = select(ComponentStatus.component, ComponentStatus.data).order_by(ComponentStatus.component)
        assert [tuple(found) for found in session.execute(query)] == [("Doe^Jane", {}), ("other", {})]


def test_times_come_back_in_utc(database: Database) -> None:
    ledger.report(database, "clock", {"lag": 3})
    with database.read() as session:
        row = session.scalars(select(ComponentStatus).where(ComponentStatus.component == "clock")).one()
    assert row.at.utcoffset() is not None
    assert row.at.utcoffset().total_seconds() == 0  # type: ignore[union-attr]


def test_a_database_travels_to_another_process(database: Database) -> None:
    ledger.report(database, "traveller", {})
    other: Database = pickle.loads(pickle.dumps(database))  # noqa: S301 - what we pickled ourselves
    with other.read() as session:
        assert session.get(ComponentStatus, "traveller") is not None
    other.close()


@pytest.mark.parametrize("url", ["mysql://h/d", "nonsense", "oracle://scott:tiger@h"])
def test_an_unsupported_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(SettingsError, match=r"database\.url") as caught:
        Database(url)
    assert "tiger" not in str(caught.value)
