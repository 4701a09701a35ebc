"""The people of the demo, simulated and named so in every record they leave: a radiologist at the edge who reviews and
acknowledges, and an expert at the core who labels. They know the truth of the demo's images."""

from __future__ import annotations

from sqlalchemy import select

from edgerad import decisions, ids
from edgerad.database import Database
from edgerad.records import Alert, Assessment, CoreCase, Label, Review, Shipment

RADIOLOGIST, EXPERT = "simulated-radiologist", "simulated-expert"
SOURCE = "simulated"


def review(database: Database, truth: dict[str, str], share: float) -> int:
    """Review a share of the assessed images whose truth is known; return how many are new."""
    with database.read() as session:
        reviewed = select(Review.image_id)
        query = select(Assessment.image_id).where(Assessment.image_id.not_in(reviewed))
        waiting = [image for image in session.scalars(query) if image in truth]
    chosen = [image for image in waiting if ids.share(image, "demo-review") < share]
    for image in chosen:
        decisions.review(database, image, truth[image], RADIOLOGIST, "", source=SOURCE)
    return len(chosen)


def acknowledge(database: Database, keep_open: int) -> int:
    """Acknowledge the oldest open alerts but for `keep_open` of the newest; return how many."""
    with database.read() as session:
        alerts = list(session.scalars(select(Alert.alert_id).where(Alert.state == "open").order_by(Alert.opened_at)))
    done = alerts[: max(len(alerts) - keep_open, 0)]
    for alert in done:
        decisions.acknowledge(database, alert, RADIOLOGIST)
    return len(done)


def label(database: Database, truth: dict[str, str]) -> int:
    """Label the cases at the core that have no label; return how many.

    The expert of the demo finds the truth of a case by way of the edge's records, which no real expert could see.
    """
    with database.read() as session:
        images = dict(session.execute(select(Shipment.parcel_id, Shipment.image_id)).all())
        query = select(CoreCase).where(CoreCase.case_id.not_in(select(Label.case_id)))
        waiting = [(case.case_id, images.get(case.manifest["parcel_id"])) for case in session.scalars(query)]
    known = [(case, truth[image]) for case, image in waiting if image in truth]
    for case, verdict in known:
        decisions.label(database, case, verdict, EXPERT, source=SOURCE)
    return len(known)
