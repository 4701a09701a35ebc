"""The Ray Data job that turns queued shipments into sealed parcels, each file by itself: a bad one spoils nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select

from edgerad import ids, ledger
from edgerad.database import insert_new
from edgerad.records import Assessment, DeidRecord, Image, Shipment
from ship.forward import due, retry_after
from ship.orders import Kept, Order, Outcome, Sealed
from ship.worker import COMMAND, Worker, content_of, outcome_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgerad.database import Database
    from edgerad.sections import ShipSettings
    from edgerad.settings import Settings

Batch = dict[str, "npt.NDArray[np.object_]"]


def queued(database: Database, at: datetime, limit: int) -> list[Order]:
    """Return the shipments that are queued and due, the oldest first."""
    query = (
        select(Shipment, Image, Assessment)
        .join(Image, Image.image_id == Shipment.image_id)
        .join(Assessment, Assessment.assessment_id == Shipment.assessment_id)
        .where(Shipment.state == "queued", due(at))
        .order_by(Shipment.queued_at)
        .limit(limit)
    )
    with database.read() as session:
        return [
            Order(
                shipment.shipment_id,
                image.image_id,
                image.key,
                image.etag,
                assessment.finding,
                assessment.probability,
                assessment.triage,  # type: ignore[arg-type]
                assessment.model_digest,
                assessment.calibration_version,
                assessment.threshold_version,
                shipment.why,
                shipment.release,
            )
            for shipment, image, assessment in session.execute(query)
        ]


class Deidentifier:
    """One actor of the job's pool: a process of its own de-identifies for it; a batch is one row."""

    def __init__(self, settings: Settings, command: Sequence[str]) -> None:
        """Keep the settings; the process starts with the first image."""
        self._worker = Worker(settings.environment(), settings.ship.image_timeout, command)

    def __call__(self, batch: Batch) -> dict[str, list[str]]:
        """Seal each order of the batch; an outcome for each, never an exception."""
        outcomes = [self._worker.seal(Order(**json.loads(str(text)))) for text in batch["order"]]
        return {"outcome": [json.dumps(content_of(outcome)) for outcome in outcomes]}


def run(settings: Settings, orders: Iterable[Order], command: Sequence[str] = COMMAND) -> Iterator[Outcome]:
    """Run the job; yields outcomes as they come. `command` starts an actor's process."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = [{"order": json.dumps(asdict(order))} for order in orders]
    actors = min(settings.ship.actors, len(rows))
    # A row a block: what an actor that dies has to do again is one image.
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Deidentifier,
        fn_constructor_args=(settings, tuple(command)),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=1,
    )
    for row in dataset.iter_rows():
        yield outcome_of(json.loads(row["outcome"]))


def record(database: Database, outcome: Outcome, settings: ShipSettings, at: datetime) -> None:
    """Write an outcome: the de-identification record and the shipment's new state, in one transaction."""
    with database.write() as session:
        shipment = session.get(Shipment, outcome.shipment_id, with_for_update=True)
        if shipment is None or shipment.state != "queued":
            return
        if isinstance(outcome, Kept) and outcome.retry:
            shipment.attempts += 1
            shipment.reason = outcome.reason
            shipment.next_attempt_at = at + retry_after(shipment.attempts, settings)
            return
        verified = isinstance(outcome, Sealed)
        digest = outcome.object_sha256 if isinstance(outcome, Sealed) else None
        # Of what it says as well: a release by hand can end in quarantine again, with other boxes.
        identity = ids.digest("deid", outcome.shipment_id, digest or "", json.dumps(outcome.record, sort_keys=True))
        row = {
            "deid_record_id": identity,
            "image_id": shipment.image_id,
            "verified": verified,
            "output_digest": digest,
            "detail": outcome.record,
        }
        insert_new(session, DeidRecord, [row])
        shipment.deid_record_id = identity
        shipment.next_attempt_at = None
        if isinstance(outcome, Sealed):
            shipment.state, shipment.reason, shipment.attempts = "sealed", None, 0
            shipment.parcel_id, shipment.parcel_digest, shipment.sealed_at = outcome.parcel_id, digest, at
            shipment.sealed_digest, shipment.sealed_bytes = outcome.sealed_sha256, outcome.sealed_bytes
            shipment.core_key = outcome.core_key
        else:
            shipment.state, shipment.reason, shipment.closed_at = "quarantined", outcome.reason, at
        detail = {"reason": shipment.reason, "digest": digest, "sealed": shipment.sealed_digest, "record": identity}
        ledger.audit(session, f"edge:{settings.edge_id}", f"shipment-{shipment.state}", shipment.shipment_id, detail)
