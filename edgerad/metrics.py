"""Prometheus metrics, computed from the database at each scrape; every metric is documented in docs/metrics.md.

The work is spread over many processes that come and go. The database holds what they have durably done, so totals
survive a restart and one scrape of the gateway shows the whole edge.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgerad.queries import newest_drift
from edgerad.records import (
    Alert,
    Assessment,
    Audit,
    ComponentStatus,
    CoreCase,
    DeadLetter,
    DeidRecord,
    Image,
    Outbox,
    Shipment,
    now,
)

if TYPE_CHECKING:
    from edgerad.database import Database

CLOSED = ("received", "refused", "quarantined", "withheld")
LATENCY_WINDOW = timedelta(minutes=15)


class DatabaseCollector:
    """Collects edgerad's metrics from the database."""

    def __init__(self, database: Database) -> None:
        """Keep the database; it is read at each scrape."""
        self._database = database

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics; labels are states, reasons and component names, never patient data."""
        with self._database.read() as session:
            yield from collect(session)


def collect(session: Session) -> Iterable[Metric]:
    """Yield the metrics of one moment."""
    yield _by(session, "edgerad_images", "Images by state.", "state", Image.state)
    yield _by(session, "edgerad_assessments", "Assessments by triage class.", "triage", Assessment.triage)
    yield _by(session, "edgerad_alerts", "Alerts by state.", "state", Alert.state)
    yield _by(session, "edgerad_dead_letters", "Dead letters not yet replayed, by reason.", "reason", DeadLetter.reason)
    yield _by(session, "edgerad_shipments", "Shipments by state.", "state", Shipment.state)
    verdicts = CounterMetricFamily("edgerad_deidentified", "De-identified images by verdict.", labels=["verified"])
    for verified, count in session.execute(select(DeidRecord.verified, func.count()).group_by(DeidRecord.verified)):
        verdicts.add_metric([str(verified).lower()], count)
    yield verdicts
    pending = session.scalar(select(func.count()).where(Outbox.published_at.is_(None)))
    yield GaugeMetricFamily("edgerad_outbox_pending", "Events not yet published.", value=pending or 0)
    oldest = session.scalar(select(func.min(Shipment.queued_at)).where(Shipment.state.not_in(CLOSED)))
    age = (now() - oldest).total_seconds() if oldest else 0.0
    yield GaugeMetricFamily("edgerad_ship_oldest_seconds", "Age of the oldest open shipment, seconds.", value=age)
    yield from _backlog(session)
    yield from _core(session)
    yield _latency(session)
    family = GaugeMetricFamily("edgerad_drift", "Unlikeness of the newest images to the training's, 0 to 1.")
    if (score := newest_drift(session).score) is not None:
        family.add_metric([], score)
    yield family
    figures = GaugeMetricFamily("edgerad_component", "Figures that components report.", labels=["component", "figure"])
    seen = GaugeMetricFamily(
        "edgerad_component_seen_seconds", "Age of a component's last report.", labels=["component"]
    )
    for row in session.scalars(select(ComponentStatus)):
        seen.add_metric([row.component], (now() - row.at).total_seconds())
        for name, value in sorted(row.data.items()):
            if isinstance(value, int | float):
                figures.add_metric([row.component, name], float(value))
    yield figures
    yield seen


def _backlog(session: Session) -> Iterable[Metric]:
    still_open = Shipment.state.not_in(CLOSED)
    count, size = session.execute(select(func.count(), func.sum(Shipment.sealed_bytes)).where(still_open)).one()
    yield GaugeMetricFamily("edgerad_ship_backlog", "Shipments that are not closed.", value=count)
    yield GaugeMetricFamily("edgerad_ship_backlog_bytes", "Size of their sealed parcels, bytes.", value=size or 0)


def _core(session: Session) -> Iterable[Metric]:
    received = session.scalar(select(func.count()).select_from(CoreCase))
    yield CounterMetricFamily("edgerad_parcels_received", "Parcels that the core has taken in.", value=received or 0)
    refused = CounterMetricFamily("edgerad_parcels_refused", "Parcels that the core refused.", labels=["reason"])
    reason = Audit.detail["reason"].as_string()
    query = select(reason, func.count()).where(Audit.action == "parcel-refused").group_by(reason)
    for name, count in session.execute(query):
        refused.add_metric([str(name)], count)
    yield refused


def _by(session: Session, name: str, documentation: str, label: str, column: object) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=[label])
    query = select(column, func.count()).group_by(column)  # type: ignore[call-overload]
    if column is DeadLetter.reason:
        query = query.where(DeadLetter.replayed_at.is_(None))
    for value, count in session.execute(query):
        family.add_metric([str(value)], count)
    return family


def _latency(session: Session) -> Metric:
    query = (
        select(Assessment.assessed_at, Image.stored_at, Image.registered_at)
        .join(Image, Image.image_id == Assessment.image_id)
        .where(Assessment.assessed_at > now() - LATENCY_WINDOW)
    )
    seconds = sorted(
        max((assessed - (stored or registered)).total_seconds(), 0.0)
        for assessed, stored, registered in session.execute(query)
    )
    family = GaugeMetricFamily(
        "edgerad_assessment_latency_seconds",
        "From the object's arrival to its durable assessment, over the last 15 minutes.",
        labels=["quantile"],
    )
    for quantile in (0.5, 0.99):
        if seconds:
            family.add_metric([str(quantile)], seconds[min(int(quantile * len(seconds)), len(seconds) - 1)])
    return family


def render(database: Database) -> bytes:
    """Return the metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(DatabaseCollector(database))
    return generate_latest(registry)
