"""The audit: a record that was changed, removed or put elsewhere is found."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from edgerad import audit, ledger
from edgerad.audit import (
    ANCHORS,
    Anchorer,
    AnchorsDamaged,
    anchor_key,
    append_anchor,
    make_anchor,
    read_anchors,
    verify,
)
from edgerad.cli import app
from edgerad.database import Database
from edgerad.records import Audit


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


def test_what_was_cut_from_the_end_is_found_by_an_anchor_and_only_by_it(database: Database, tmp_path: Path) -> None:
    anchor = make_anchor(database, b"k" * 32)
    assert verify(database, [anchor]) == (4, None)
    database.close()
    tamper(tmp_path, "DELETE FROM audit WHERE audit_id >= 3")
    assert verify(database) == (2, None)
    good, wrong = verify(database, [anchor])
    assert good == 2
    assert "the last 2 were removed" in (wrong or "")


def test_a_chain_that_was_computed_anew_is_found_by_an_anchor(database: Database, tmp_path: Path) -> None:
    anchor = make_anchor(database, b"k" * 32)
    with database.read() as session:
        rows = list(session.scalars(select(Audit).order_by(Audit.audit_id)))
    database.close()
    previous, statements = rows[0].hash, []
    for row in rows[1:]:  # whoever owns the database, and knows how the chain is made, has another do it all
        new = ledger.audit_hash(previous, row.at, "other", row.action, row.subject, row.detail)
        values = f"actor = 'other', previous_hash = '{previous}', hash = '{new}'"
        statements.append(f"UPDATE audit SET {values} WHERE audit_id = {row.audit_id}")  # noqa: S608 - ours
        previous = new
    tamper(tmp_path, *statements)
    assert verify(database) == (4, None)
    good, wrong = verify(database, [anchor])
    assert good == 3
    assert "written anew" in (wrong or "")


def test_records_written_after_an_anchor_do_not_break_it(database: Database) -> None:
    anchor = make_anchor(database, b"k" * 32)
    with database.write() as session:
        ledger.audit(session, "tester", "did", "thing-5", {})
    assert verify(database, [anchor, make_anchor(database, b"k" * 32)]) == (5, None)


def test_an_anchor_is_worth_nothing_under_another_key_or_changed(database: Database, tmp_path: Path) -> None:
    path, anchor = tmp_path / "anchors", make_anchor(database, b"k" * 32)
    append_anchor(path, anchor)
    append_anchor(path, anchor)
    assert read_anchors(path, b"k" * 32) == [anchor, anchor]
    with pytest.raises(AnchorsDamaged, match="line 1"):
        read_anchors(path, b"o" * 32)
    lines = path.read_text().splitlines()
    path.write_text(lines[0] + "\n" + lines[1].replace('"records":4', '"records":3') + "\n")
    with pytest.raises(AnchorsDamaged, match="line 2 of anchors was changed"):
        read_anchors(path, b"k" * 32)
    path.write_text("nonsense\n")
    with pytest.raises(AnchorsDamaged, match="no anchor"):
        read_anchors(path, b"k" * 32)
    assert read_anchors(tmp_path / "none", b"k" * 32) == []


def test_the_command_verifies_anchors_and_then_finds_what_was_cut(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGERAD_DATA_DIR", str(tmp_path))
    first = CliRunner().invoke(app, ["audit", "verify"])
    assert first.exit_code == 0
    assert "4 audit records, the chain holds" in first.output
    assert "no anchors yet" in first.output
    again = CliRunner().invoke(app, ["audit"])
    assert (again.exit_code, "no anchors yet" in again.output) == (0, False)
    assert len(read_anchors(tmp_path / ANCHORS, anchor_key(tmp_path))) == 1  # nothing new, no new anchor
    database.close()
    tamper(tmp_path, "DELETE FROM audit WHERE audit_id = 4")
    cut = CliRunner().invoke(app, ["audit", "verify"])
    assert cut.exit_code == 1
    assert "the last 1 were removed" in cut.output
    assert len(read_anchors(tmp_path / ANCHORS, anchor_key(tmp_path))) == 1  # a broken audit is never anchored


def test_while_edgerad_runs_what_has_grown_is_anchored_at_times(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anchorer = Anchorer(database, tmp_path)
    assert anchorer.step()
    with database.write() as session:
        ledger.audit(session, "tester", "did", "thing-5", {})
    assert not anchorer.step()  # not yet
    monkeypatch.setattr(audit, "ANCHOR_EVERY", 0.0)
    assert not Anchorer(database, tmp_path / "edgerad.db").step()  # no folder: said, and survived
    again = Anchorer(database, tmp_path)
    assert again.step()
    assert not again.step()  # nothing new
    anchors = read_anchors(tmp_path / ANCHORS, anchor_key(tmp_path))
    assert [anchor.records for anchor in anchors] == [4, 5]
    database.close()
    tamper(tmp_path, "DELETE FROM audit WHERE audit_id >= 4")
    assert not again.step()  # what was cut is never anchored
    assert verify(database, anchors)[1] == "5 records were anchored: the last 2 were removed"


def test_what_a_full_disk_left_of_an_anchor_is_no_damage(database: Database, tmp_path: Path) -> None:
    path, anchor = tmp_path / "anchors", make_anchor(database, b"k" * 32)
    append_anchor(path, anchor)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    assert read_anchors(path, b"k" * 32) == [anchor]
    append_anchor(path, anchor)
    assert path.read_bytes() == whole * 2
