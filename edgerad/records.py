"""The database's tables (SQLAlchemy); migrations/ creates them, on SQLite and PostgreSQL alike."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Id = String(64)
Identity = BigInteger().with_variant(Integer, "sqlite")

APPEND_ONLY = ("review", "label", "alert_event", "audit", "deid_record", "site_calibration")
"""Tables whose rows a database trigger protects from UPDATE and DELETE (invariant 7)."""


def now() -> datetime:
    """Return the current time, UTC."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time, stored as UTC; SQLite forgets the zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Refuse a time without zone."""
        if value is not None and value.tzinfo is None:
            msg = "a time without zone cannot be stored"
            raise ValueError(msg)
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the time with its zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Record(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UtcDateTime, dict[str, Any]: JSON, list[Any]: JSON}


class Image(Record):
    """One version of an object in the store; `state` is pending, assessed, quarantined or deleted."""

    __tablename__ = "image"
    image_id: Mapped[str] = mapped_column(Id, primary_key=True)
    bucket: Mapped[str] = mapped_column(String(255))
    key: Mapped[str] = mapped_column(Text)
    version_id: Mapped[str | None] = mapped_column(String(255))
    etag: Mapped[str | None] = mapped_column(String(255))
    size: Mapped[int | None] = mapped_column(BigInteger)
    source: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16), index=True)
    reason: Mapped[str | None] = mapped_column(String(64))
    header: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    stored_at: Mapped[datetime | None]
    registered_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]
    __table_args__ = (Index("ix_image_bucket_key", "bucket", "key"), Index("ix_image_registered", "registered_at"))


class Assessment(Record):
    """One model's assessment of one image; `role` is primary (it decided) or shadow (it only watched).

    `activation` holds the rows of the class activation map of the pass that decided: about 200 bytes.
    """

    __tablename__ = "assessment"
    assessment_id: Mapped[str] = mapped_column(Id, primary_key=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("image.image_id"), index=True)
    finding: Mapped[str] = mapped_column(String(64))
    probability: Mapped[float] = mapped_column(Float)
    logit: Mapped[float] = mapped_column(Float)
    activation: Mapped[list[Any] | None]
    triage: Mapped[str] = mapped_column(String(16), index=True)
    model_digest: Mapped[str] = mapped_column(Id, index=True)
    calibration_version: Mapped[str] = mapped_column(String(64))
    threshold_version: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(16), default="primary")
    runtime: Mapped[str] = mapped_column(String(32))
    seconds: Mapped[float] = mapped_column(Float)
    novelty: Mapped[float | None] = mapped_column(Float)
    assessed_at: Mapped[datetime] = mapped_column(default=now, index=True)
    __table_args__ = (UniqueConstraint("image_id", "model_digest"),)


class Review(Record):
    """A person's judgement of a case at the edge; append-only. `verdict` is positive, negative or unsure."""

    __tablename__ = "review"
    review_id: Mapped[int] = mapped_column(Identity, primary_key=True, autoincrement=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("image.image_id"), index=True)
    assessment_id: Mapped[str] = mapped_column(ForeignKey("assessment.assessment_id"))
    verdict: Mapped[str] = mapped_column(String(16))
    reviewer: Mapped[str] = mapped_column(String(64))
    source: Mapped[str] = mapped_column(String(16))
    comment: Mapped[str] = mapped_column(Text, default="")
    reviewed_at: Mapped[datetime] = mapped_column(default=now, index=True)


class Alert(Record):
    """A high assessment that a person must acknowledge; `state` is open or acknowledged."""

    __tablename__ = "alert"
    alert_id: Mapped[str] = mapped_column(Id, primary_key=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("image.image_id"), index=True)
    assessment_id: Mapped[str] = mapped_column(ForeignKey("assessment.assessment_id"), unique=True)
    state: Mapped[str] = mapped_column(String(16), index=True)
    level: Mapped[int] = mapped_column(Integer, default=0)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    opened_at: Mapped[datetime] = mapped_column(default=now)
    next_attempt_at: Mapped[datetime | None]
    acknowledged_at: Mapped[datetime | None]
    acknowledged_by: Mapped[str | None] = mapped_column(String(64))


class AlertEvent(Record):
    """What happened to an alert; append-only.

    `kind` is opened, sent, failed, escalated, acknowledged, reopened (an acknowledgement was withdrawn) or clock (the
    time it was opened at was corrected). `person` took the decision; `comment` is that person's own text, which may
    hold patient data and stays in this database.
    """

    __tablename__ = "alert_event"
    alert_event_id: Mapped[int] = mapped_column(Identity, primary_key=True, autoincrement=True)
    alert_id: Mapped[str] = mapped_column(ForeignKey("alert.alert_id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    channel: Mapped[str] = mapped_column(String(32))
    detail: Mapped[str] = mapped_column(String(255), default="")
    person: Mapped[str | None] = mapped_column(String(64))
    comment: Mapped[str] = mapped_column(Text, default="", server_default="")
    at: Mapped[datetime] = mapped_column(default=now)


class Outbox(Record):
    """An event to publish, written in the transaction of what it tells of; without Kafka it stays the log itself."""

    __tablename__ = "outbox"
    outbox_id: Mapped[int] = mapped_column(Identity, primary_key=True, autoincrement=True)
    event_id: Mapped[str] = mapped_column(Id, unique=True)
    topic: Mapped[str] = mapped_column(String(128))
    key: Mapped[str] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(default=now)
    published_at: Mapped[datetime | None] = mapped_column(index=True)


class DeadLetter(Record):
    """A record or image that could not be processed: reason, attempts and the original record; replayable."""

    __tablename__ = "dead_letter"
    dead_letter_id: Mapped[str] = mapped_column(Id, primary_key=True)
    image_id: Mapped[str | None] = mapped_column(Id, index=True)
    reason: Mapped[str] = mapped_column(String(64))
    detail: Mapped[str] = mapped_column(String(512))
    attempts: Mapped[int] = mapped_column(Integer)
    source: Mapped[str] = mapped_column(String(16))
    position: Mapped[str] = mapped_column(String(128))
    record: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now)
    replayed_at: Mapped[datetime | None] = mapped_column(index=True)


class DeidRecord(Record):
    """What de-identification did to one image and whether verification passed; holds no patient data; append-only."""

    __tablename__ = "deid_record"
    deid_record_id: Mapped[str] = mapped_column(Id, primary_key=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("image.image_id"), index=True)
    verified: Mapped[bool] = mapped_column(Boolean)
    output_digest: Mapped[str | None] = mapped_column(Id)
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Shipment(Record):
    """A case on its way to the core: queued, sealed, sent, received; quarantined or withheld here; refused there.

    `release` are the boxes by which a person released it from quarantine (edgerad/quarantine.py).
    `parcel_digest` is the clean image's, `sealed_digest` that of its encryption to `core_key`.
    """

    __tablename__ = "shipment"
    shipment_id: Mapped[str] = mapped_column(Id, primary_key=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("image.image_id"), unique=True)
    assessment_id: Mapped[str] = mapped_column(ForeignKey("assessment.assessment_id"))
    why: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16), index=True)
    reason: Mapped[str | None] = mapped_column(String(64))
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_attempt_at: Mapped[datetime | None]
    parcel_id: Mapped[str | None] = mapped_column(Id, unique=True)
    parcel_digest: Mapped[str | None] = mapped_column(Id)
    sealed_digest: Mapped[str | None] = mapped_column(Id)
    sealed_bytes: Mapped[int | None] = mapped_column(BigInteger)
    core_key: Mapped[str | None] = mapped_column(String(16))
    refusals: Mapped[int] = mapped_column(Integer, default=0)
    deid_record_id: Mapped[str | None] = mapped_column(ForeignKey("deid_record.deid_record_id"))
    receipt: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    release: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    queued_at: Mapped[datetime] = mapped_column(default=now)
    sealed_at: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]


class CoreCase(Record):
    """A shipment that arrived at the core; `split` is fixed by the patient's pseudonym, for ever."""

    __tablename__ = "core_case"
    case_id: Mapped[str] = mapped_column(Id, primary_key=True)
    edge_id: Mapped[str] = mapped_column(String(32))
    object_key: Mapped[str] = mapped_column(Text)
    object_digest: Mapped[str] = mapped_column(Id)
    media_type: Mapped[str] = mapped_column(String(64))
    patient: Mapped[str] = mapped_column(Id)
    finding: Mapped[str] = mapped_column(String(64))
    probability: Mapped[float] = mapped_column(Float)
    triage: Mapped[str] = mapped_column(String(16))
    model_digest: Mapped[str] = mapped_column(Id)
    why: Mapped[str] = mapped_column(String(16))
    split: Mapped[str] = mapped_column(String(16))
    manifest: Mapped[dict[str, Any]] = mapped_column(JSON)
    received_at: Mapped[datetime] = mapped_column(default=now, index=True)


class Label(Record):
    """An expert's label of a case at the core; append-only, the newest counts. `label` as a review's verdict."""

    __tablename__ = "label"
    label_id: Mapped[int] = mapped_column(Identity, primary_key=True, autoincrement=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("core_case.case_id"), index=True)
    label: Mapped[str] = mapped_column(String(16))
    labeller: Mapped[str] = mapped_column(String(64))
    source: Mapped[str] = mapped_column(String(16))
    labelled_at: Mapped[datetime] = mapped_column(default=now)


class TrainingRun(Record):
    """One retraining: running, succeeded or failed; `progress` holds losses by epoch and figures of the evaluation.

    While it runs, `owner` is the core that does it and `seen_at` that core's last sign of life; `attempts` counts the
    cores that took it up. A finding has at most one running.
    """

    __tablename__ = "training_run"
    training_run_id: Mapped[str] = mapped_column(Id, primary_key=True)
    finding: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16), index=True)
    parent_digest: Mapped[str] = mapped_column(Id)
    candidate_digest: Mapped[str | None] = mapped_column(Id)
    cases: Mapped[int] = mapped_column(Integer)
    last_label_id: Mapped[int] = mapped_column(BigInteger)
    progress: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    error: Mapped[str | None] = mapped_column(Text)
    owner: Mapped[str] = mapped_column(Id)
    attempts: Mapped[int] = mapped_column(Integer, default=1)
    started_at: Mapped[datetime] = mapped_column(default=now)
    seen_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]
    __table_args__ = (
        Index(
            "uq_training_run_running",
            "finding",
            unique=True,
            sqlite_where=text("state = 'running'"),
            postgresql_where=text("state = 'running'"),
        ),
    )


class Model(Record):
    """A bundle in the registry: candidate, promoted, rejected or retired, with the figures that decided."""

    __tablename__ = "model"
    model_digest: Mapped[str] = mapped_column(Id, primary_key=True)
    finding: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    uri: Mapped[str] = mapped_column(Text)
    parent_digest: Mapped[str | None] = mapped_column(Id)
    training_run_id: Mapped[str | None] = mapped_column(Id)
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    reason: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(default=now)
    decided_at: Mapped[datetime | None]


class Rollout(Record):
    """A model put into service at an edge, or refused there with the reason.

    `state` is serving, fallback (it serves because a better one cannot) or refused; the newest serving or fallback one
    is in service.
    """

    __tablename__ = "rollout"
    rollout_id: Mapped[int] = mapped_column(Identity, primary_key=True, autoincrement=True)
    edge_id: Mapped[str] = mapped_column(String(32))
    finding: Mapped[str] = mapped_column(String(64))
    model_digest: Mapped[str] = mapped_column(Id)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text, default="")
    seconds: Mapped[float | None] = mapped_column(Float)
    at: Mapped[datetime] = mapped_column(default=now)


class SiteCalibration(Record):
    """A site's own calibration of a model, put into service; append-only, the newest of a model counts.

    Without `a` and `b` the bundle's own is in service again. `figures` holds what the decision was taken on.
    """

    __tablename__ = "site_calibration"
    site_calibration_id: Mapped[int] = mapped_column(Identity, primary_key=True, autoincrement=True)
    edge_id: Mapped[str] = mapped_column(String(32))
    finding: Mapped[str] = mapped_column(String(64))
    model_digest: Mapped[str] = mapped_column(Id, index=True)
    version: Mapped[str] = mapped_column(String(64))
    a: Mapped[float | None] = mapped_column(Float)
    b: Mapped[float | None] = mapped_column(Float)
    readings: Mapped[int] = mapped_column(Integer)
    figures: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    decided_by: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(Text, default="")
    at: Mapped[datetime] = mapped_column(default=now)


class Audit(Record):
    """Who did what, append-only and hash-chained: each row's hash covers the one before."""

    __tablename__ = "audit"
    audit_id: Mapped[int] = mapped_column(Identity, primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(default=now)
    actor: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(64))
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)
    previous_hash: Mapped[str] = mapped_column(Id)
    hash: Mapped[str] = mapped_column(Id, unique=True)


class ComponentStatus(Record):
    """The last sign of life of a component, with its figures, for the operations page and `edgerad status`."""

    __tablename__ = "component_status"
    component: Mapped[str] = mapped_column(String(64), primary_key=True)
    data: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    at: Mapped[datetime] = mapped_column(default=now)
