"""The audit: a record that was changed, removed or put elsewhere is found."""

import sqlite3
from pathlib import Path

import pytest

from edgerad import ledger
from edgerad.audit import verify
from edgerad.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """A database with four audit records."""
    database = Database(f"sqlite:///{tmp_path / 'edgerad.db'}")
    database.upgrade()
    with database.write() as session:
        for number in range(4):
            ledger.audit(session, "tester", "did", f"thing-{number}", {"n": number})
    return database


def tamper(tmp_path: Path, *statements: str) -> None:
    """Change the table as someone would who owns the file: triggers away, then the deed."""
    with sqlite3.connect(tmp_path / "edgerad.db") as connection:
        connection.execute("DROP TRIGGER audit_no_update")
        connection.execute("DROP TRIGGER audit_no_delete")
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_an_untouched_chain_holds(database: Database) -> None:
    assert verify(database) == (4, None)


@pytest.mark.parametrize(
    ("statements", "good", "what"),
    [
        (("UPDATE audit SET actor = 'other' WHERE audit_id = 2",), 1, "record 2 was changed"),
        (("UPDATE audit SET detail = '{}' WHERE audit_id = 3",), 2, "record 3 was changed"),
        (("UPDATE audit SET at = '2020-01-01 00:00:00' WHERE audit_id = 1",), 0, "record 1 was changed"),
        (("DELETE FROM audit WHERE audit_id = 2",), 1, "record 3 does not follow"),
        (
            (
                "UPDATE audit SET audit_id = 9 WHERE audit_id = 2",
                "UPDATE audit SET audit_id = 2 WHERE audit_id = 3",
                "UPDATE audit SET audit_id = 3 WHERE audit_id = 9",
            ),
            1,
            "record 2 does not follow",
        ),
    ],
)
def test_tampering_is_found(
    database: Database, tmp_path: Path, statements: tuple[str, ...], good: int, what: str
) -> None:
    database.close()
    tamper(tmp_path, *statements)
    number, wrong = verify(database)
    assert number == good
    assert what in (wrong or "")
