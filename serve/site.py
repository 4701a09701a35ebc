"""A site's own calibration of a model: fitted to its readings, versioned, put into service and taken out again.

The network, its thresholds and what it may be used for stay the bundle's. What differs between hospitals is how sure it
is (prevalence, devices), and that shows in its readings: the newest `positive` or `negative` of a person for each
image that this very model scored.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import func, select

from edgerad import ledger
from edgerad.records import Assessment, Review, SiteCalibration
from serve.calibrate import Calibration, calibration_error, fit_platt, log_losses

if TYPE_CHECKING:
    from edgerad.database import Database

FOLDS = 10
CONFIDENCE_Z = 1.645
"""One-sided 95 %: a refit is better when the mean gain of log loss is this many standard errors above 0."""
AUTOMATIC = "edgerad"
Floats = npt.NDArray[np.float64]


class NotPossible(ValueError):
    """A calibration that cannot be fitted or put into service; the text says why."""


@dataclass(frozen=True)
class Site:
    """Whose calibration of which model."""

    edge_id: str
    finding: str
    model_digest: str


@dataclass(frozen=True)
class Readings:
    """Logits and what people read, newest last."""

    logits: Floats
    labels: Floats


@dataclass(frozen=True)
class Figures:
    """How a refit did against the calibration in service, on readings that it was not fitted to."""

    readings: int
    positives: int
    loss_now: float
    loss_refit: float
    gain: float
    gain_error: float
    error_now: float
    error_refit: float

    @property
    def is_better(self) -> bool:
        """Whether the refit is better with confidence."""
        return self.gain > CONFIDENCE_Z * self.gain_error


@dataclass(frozen=True)
class Proposal:
    """A refit and the figures to judge it by."""

    calibration: Calibration
    figures: Figures


def readings(database: Database, site: Site, *, simulated: bool = False) -> Readings:
    """Return the readings of images that this model scored here; the demo's simulated ones only when asked for."""
    newest = select(func.max(Review.review_id)).group_by(Review.image_id)
    query = (
        select(Assessment.logit, Review.verdict)
        .join(Assessment, Assessment.assessment_id == Review.assessment_id)
        .where(
            Review.review_id.in_(newest),
            Review.verdict.in_(("positive", "negative")),
            Assessment.model_digest == site.model_digest,
            Assessment.finding == site.finding,
        )
        .order_by(Review.review_id)
    )
    if not simulated:
        query = query.where(Review.source != "simulated")
    with database.read() as session:
        rows = [(logit, verdict == "positive") for logit, verdict in session.execute(query)]
    return Readings(np.array([row[0] for row in rows], np.float64), np.array([row[1] for row in rows], np.float64))


def newest_review(database: Database) -> int | None:
    """Return the id of the newest review, whosever it is: while it stays, so do the readings."""
    with database.read() as session:
        return session.scalar(select(func.max(Review.review_id)))


def propose(read: Readings, now: Calibration, bundled: Calibration, least: int) -> Proposal:
    """Fit to the readings, and judge by cross-validation; raises NotPossible for fewer than `least` readings.

    The refit is drawn towards the bundle's calibration, not towards an earlier refit, whose readings it holds as well.
    """
    if len(read.labels) < least:
        raise NotPossible(f"{len(read.labels)} readings; at least {least} are needed")
    try:
        refit = fit_platt(read.logits, read.labels, "refit", bundled)
        outside = _out_of_fold(read, bundled)
    except ValueError as error:
        raise NotPossible(str(error)) from None
    loss_now = log_losses(now, read.logits, read.labels)
    loss_refit = np.array(
        [log_losses(made, x, y) for made, x, y in zip(outside, read.logits, read.labels, strict=True)]
    )
    gain = loss_now - loss_refit
    refitted = np.array([float(made.apply(x)) for made, x in zip(outside, read.logits, strict=True)])
    figures = Figures(
        readings=len(read.labels),
        positives=int(read.labels.sum()),
        loss_now=float(loss_now.mean()),
        loss_refit=float(loss_refit.mean()),
        gain=float(gain.mean()),
        gain_error=float(gain.std(ddof=1) / np.sqrt(len(gain))),
        error_now=calibration_error(now.apply(read.logits), read.labels),
        error_refit=calibration_error(refitted, read.labels),
    )
    return Proposal(refit, figures)


def _out_of_fold(read: Readings, prior: Calibration) -> list[Calibration]:
    """Return for each reading a calibration that was not fitted to it; folds hold both labels in equal shares."""
    folds = np.empty(len(read.labels), np.intp)
    for label in (0, 1):
        places = np.flatnonzero(read.labels == label)
        folds[places] = np.arange(len(places)) % FOLDS
    made = [fit_platt(read.logits[folds != fold], read.labels[folds != fold], "fold", prior) for fold in range(FOLDS)]
    return [made[fold] for fold in folds]


def current(database: Database, site: Site) -> Calibration | None:
    """Return the site's calibration in service; None when it is the bundle's own."""
    with database.read() as session:
        row = session.scalars(_rows(site).limit(1)).first()
    if row is None or row.a is None or row.b is None:
        return None
    return Calibration(row.version, row.a, row.b)


def history(database: Database, site: Site) -> list[SiteCalibration]:
    """Return what was put into service for this model here, the newest first."""
    with database.read() as session:
        return list(session.scalars(_rows(site)))


def put_into_service(database: Database, site: Site, proposal: Proposal, by: str, reason: str) -> Calibration:
    """Record a refit as the calibration in service, under the site's next version."""
    made = proposal.calibration
    return _record(database, site, made, asdict(proposal.figures), by, reason)


def revert(database: Database, site: Site, version: str | None, by: str, reason: str) -> Calibration | None:
    """Put an earlier version, or (None) the bundle's own calibration, back into service. Raises NotPossible."""
    if version is None:
        _record(database, site, None, {}, by, reason)
        return None
    with database.read() as session:
        earlier = session.scalars(_rows(site).where(SiteCalibration.version == version).limit(1)).first()
    if earlier is None or earlier.a is None or earlier.b is None:
        raise NotPossible(f"there is no calibration {version} of model {site.model_digest[:12]} at {site.edge_id}")
    return _record(database, site, Calibration(version, earlier.a, earlier.b), earlier.figures, by, reason, again=True)


def _record(
    database: Database,
    site: Site,
    made: Calibration | None,
    figures: dict[str, Any],
    by: str,
    reason: str,
    *,
    again: bool = False,
) -> Calibration:
    with database.write() as session:
        taken = session.scalar(
            select(func.count(SiteCalibration.version.distinct())).where(
                SiteCalibration.edge_id == site.edge_id,
                SiteCalibration.model_digest == site.model_digest,
                SiteCalibration.a.is_not(None),
            )
        )
        version = "bundle" if made is None else made.version if again else f"{site.edge_id}/{(taken or 0) + 1}"
        row = SiteCalibration(
            **asdict(site),
            version=version,
            a=made.a if made else None,
            b=made.b if made else None,
            readings=int(figures.get("readings", 0)),
            figures=figures,
            decided_by=by,
            reason=reason,
        )
        session.add(row)
        detail = {"version": version, "a": row.a, "b": row.b, "reason": reason}
        ledger.audit(session, by, "calibration", site.model_digest, detail)
    return Calibration(version, made.a, made.b) if made else Calibration(version)


def _rows(site: Site) -> Any:
    return (
        select(SiteCalibration)
        .where(
            SiteCalibration.edge_id == site.edge_id,
            SiteCalibration.finding == site.finding,
            SiteCalibration.model_digest == site.model_digest,
        )
        .order_by(SiteCalibration.site_calibration_id.desc())
    )
