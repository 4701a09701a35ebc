"""What the loop writes: the ledger's transactions with this edge's policy and topics, as plain blocking calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from edgerad import ledger
from edgerad.database import Database
from edgerad.ledger import Letter, NewImage, Recorded, ShipPolicy
from edgerad.records import Image
from edgerad.scoring import Outcome, Refused
from edgerad.settings import Settings

UNRECORDABLE = "unrecordable"


def is_outage(error: Exception) -> bool:
    """Return whether a database error tells of the database (down, locked, full) and not of the data written."""
    if isinstance(error, DataError | IntegrityError):
        return False
    if isinstance(error, StatementError) and not isinstance(error, DBAPIError):
        return False  # a value that cannot be bound
    return isinstance(error, SQLAlchemyError | OSError)


@dataclass(frozen=True)
class Books:
    """The ledger as the ingest loop uses it."""

    database: Database
    policy: ShipPolicy
    topic_assessed: str
    topic_deadletter: str

    @classmethod
    def of(cls, settings: Settings) -> Books:
        """Return the books by the settings."""
        return cls(
            Database(settings.database_url, settings.database.pool_size),
            ShipPolicy(settings.ship.enabled, settings.ship.random_share),
            settings.kafka.topic_assessed,
            settings.kafka.topic_deadletter,
        )

    def register(self, images: Sequence[NewImage]) -> dict[str, str]:
        """Register images; return the state of each by image_id. One that cannot be stored is left out."""
        try:
            return ledger.register(self.database, images)
        except Exception as error:
            if is_outage(error):
                raise
            if len(images) == 1:
                return {}
            return {key: state for image in images for key, state in self.register([image]).items()}

    def record(self, outcomes: Sequence[Outcome], letters: Mapping[str, Letter]) -> Recorded:
        """Write outcomes in one transaction; if one of them cannot be stored, each in its own and that one refused."""
        try:
            return ledger.record(
                self.database, outcomes, dict(letters), self.policy, self.topic_assessed, self.topic_deadletter
            )
        except Exception as error:
            if is_outage(error):
                raise
            kind = type(error).__name__
        if len(outcomes) > 1:
            total = Recorded()
            for outcome in outcomes:
                one = self.record([outcome], letters)
                total.assessed += one.assessed
                total.quarantined += one.quarantined
                total.alerts += one.alerts
                total.shipments += one.shipments
            return total
        header = outcomes[0].header
        if isinstance(outcomes[0], Refused) and outcomes[0].reason == UNRECORDABLE:
            if not header:
                msg = f"the database does not take even a refusal ({kind}); is its schema of this version?"
                raise RuntimeError(msg) from None
            header = {}  # then it is the header that it does not take
        detail = f"the database refused the outcome ({kind})"
        refused = Refused(outcomes[0].image_id, UNRECORDABLE, detail, header=header)
        return self.record([refused], letters)

    def write_letters(self, letters: Iterable[tuple[Letter, str]]) -> None:
        """Write records that make no sense as dead letters, each with its reason."""
        with self.database.write() as session:
            for letter, reason in letters:
                ledger.write_dead_letter(session, letter, reason, "", topic=self.topic_deadletter)

    def pending_keys(self, bucket: str, keys: Sequence[str]) -> list[str]:
        """Return those of the keys that have pending images."""
        with self.database.read() as session:
            query = select(Image.key).where(Image.bucket == bucket, Image.key.in_(keys), Image.state == ledger.PENDING)
            return list(session.execute(query.distinct()).scalars())

    def revive(self, image_id: str) -> bool:
        """Put an image that was deleted back to pending; return whether it was deleted."""
        with self.database.write() as session:
            return ledger.reopen(session, image_id, was=ledger.DELETED)

    def deleted(self, bucket: str, key: str, keep_etag: str | None) -> int:
        """Mark the pending images of a key as deleted, or as replaced where the key now holds another content."""
        reason = "object-replaced" if keep_etag is not None else "object-deleted"
        return ledger.mark_deleted(self.database, bucket, key, keep_etag, reason)
