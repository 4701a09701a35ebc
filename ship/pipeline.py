"""The Ray Data job that turns queued shipments into sealed parcels, each file by itself: a bad one spoils nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, select

from edgerad import ids, ledger
from edgerad.database import insert_new
from edgerad.records import Assessment, DeidRecord, Image, Shipment
from ship.forward import retry_after
from ship.parcel import Kept, Order, Sealed, Workplace, outbox_config, seal

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
        .where(Shipment.state == "queued", or_(Shipment.next_attempt_at.is_(None), Shipment.next_attempt_at <= at))
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
            )
            for shipment, image, assessment in session.execute(query)
        ]


class Deidentifier:
    """One actor of the job's pool: holds the text engines and the stores; a batch is one row."""

    def __init__(self, settings: Settings) -> None:
        """Open the stores and read the site secret; without it everything is quarantined."""
        from edgerad.store import ObjectStore, config_from
        from ship.deidentify import Options
        from ship.keys import KeyMissing, SiteKey, site_key

        config = config_from(settings.store)
        key: SiteKey | None
        try:
            key = site_key(settings)
        except KeyMissing:
            key = None
        self._place = Workplace(
            ObjectStore(config),
            ObjectStore(outbox_config(config)),
            key,
            settings.ship.edge_id,
            Options(),
            settings.serve.max_object_bytes,
        )

    def __call__(self, batch: Batch) -> dict[str, list[str]]:
        """Seal each order of the batch; an outcome for each, never an exception."""
        outcomes = []
        for text in batch["order"]:
            order = Order(**json.loads(str(text)))
            result: Sealed | Kept
            try:
                result = seal(order, self._place)
            except Exception:  # noqa: BLE001 - one file must not end the job; its exception's text may quote the patient
                result = Kept(order.shipment_id, "internal-error", retry=False)
            outcomes.append(json.dumps({"kind": type(result).__name__, **asdict(result)}))
        return {"outcome": outcomes}


def run(settings: Settings, orders: Iterable[Order]) -> Iterator[Sealed | Kept]:
    """Run the job; yields outcomes as they come."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = [{"order": json.dumps(asdict(order))} for order in orders]
    actors = min(settings.ship.actors, len(rows))
    dataset = ray.data.from_items(rows, override_num_blocks=max(actors, min(len(rows), 8))).map_batches(
        Deidentifier,
        fn_constructor_args=(settings,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=1,
    )
    for row in dataset.iter_rows():
        yield outcome_of(json.loads(row["outcome"]))


def outcome_of(content: dict[str, Any]) -> Sealed | Kept:
    """Return an outcome from its JSON."""
    kind = content.pop("kind")
    return Sealed(**content) if kind == "Sealed" else Kept(**content)


def record(database: Database, outcome: Sealed | Kept, settings: ShipSettings, at: datetime) -> None:
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
        identity = ids.digest("deid", outcome.shipment_id, digest or "")
        row = {
            "deid_record_id": identity,
            "image_id": shipment.image_id,
            "verified": verified,
            "output_digest": digest,
            "detail": outcome.record,
        }
        insert_new(session, DeidRecord, [row], "deid_record_id")
        shipment.deid_record_id = identity
        shipment.next_attempt_at = None
        if isinstance(outcome, Sealed):
            shipment.state, shipment.reason, shipment.attempts = "sealed", None, 0
            shipment.parcel_id, shipment.parcel_digest, shipment.sealed_at = outcome.parcel_id, digest, at
        else:
            shipment.state, shipment.reason, shipment.closed_at = "quarantined", outcome.reason, at
        detail = {"reason": shipment.reason, "digest": digest, "record": identity}
        ledger.audit(session, f"edge:{settings.edge_id}", f"shipment-{shipment.state}", shipment.shipment_id, detail)
