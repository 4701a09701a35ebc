"""Old receipts: removed from the core's store once the edge that they are for has surely read them."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from edgerad.parcels import RECEIPTS
from edgerad.records import CoreCase

if TYPE_CHECKING:
    from edgerad.database import Database
    from edgerad.store import ObjectStore

READ_WITHIN = timedelta(days=1)
"""How long after a receipt its edge must have sent something else: an edge that sends looks for receipts every few
seconds. One that was off finds all of them, however long that was."""
AT_ONCE = 1000
"""Receipts that are removed in one go, so that taking parcels in does not wait for it."""


def forget(store: ObjectStore, database: Database, at: datetime, keep: float) -> int:
    """Remove receipts older than `keep` seconds; return how many. Raises StoreError, SQLAlchemyError: try again later.

    An edge that misses one all the same (its database was restored from a backup of long ago) sends the parcel once
    more, which the core knows by its id and answers anew.
    """
    with database.read() as session:
        query = select(CoreCase.edge_id, func.max(CoreCase.received_at)).group_by(CoreCase.edge_id)
        heard = [(edge_id, last) for edge_id, last in session.execute(query)]
    old = (
        item.key
        for edge_id, last in heard
        for item in store.list(f"{RECEIPTS}{edge_id}/")
        if (at - item.last_modified).total_seconds() > keep and item.last_modified < last - READ_WITHIN
    )
    keys = list(islice(old, AT_ONCE))
    for key in keys:
        store.delete(key)
    return len(keys)
