"""Verification of the audit's hash chain."""

from __future__ import annotations

from sqlalchemy import select

from edgerad.database import Database
from edgerad.ledger import audit_hash
from edgerad.records import Audit


def verify(database: Database) -> tuple[int, str | None]:
    """Walk the chain; return the number of records that hold and what is wrong at the first that does not, or None."""
    previous, good = "", 0
    with database.read() as session:
        for row in session.scalars(select(Audit).order_by(Audit.audit_id).execution_options(yield_per=1000)):
            if row.previous_hash != previous:
                return (
                    good,
                    f"record {row.audit_id} does not follow the one before it: a record was removed or reordered",
                )
            if row.hash != audit_hash(previous, row.at, row.actor, row.action, row.subject, row.detail):
                return good, f"record {row.audit_id} was changed after it was written"
            previous, good = row.hash, good + 1
    return good, None
