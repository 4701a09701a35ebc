"""What people decide: acknowledge an alert or withdraw that, review, label. Append-only and audited."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from sqlalchemy import select, update

from edgerad import ledger
from edgerad.database import Database
from edgerad.records import Alert, AlertEvent, Assessment, CoreCase, Label, Review, now

Verdict = Literal["positive", "negative", "unsure"]
VERDICTS = ("positive", "negative", "unsure")
ACTOR = "person:"
NAME_LIMIT = 64 - len(ACTOR)
"""With the prefix it must fit audit.actor."""
COMMENT_LIMIT = 2000


class DecisionError(ValueError):
    """A decision that cannot be taken; the text says what to do."""


def named(name: str) -> str:
    """Return a person's name as it is recorded; DecisionError when there is none, or it is too long."""
    person = " ".join("".join(sign if sign.isprintable() else " " for sign in name).split())
    if not person or len(person) > NAME_LIMIT:
        msg = f"say who you are (1 to {NAME_LIMIT} characters): a decision is recorded with a name"
        raise DecisionError(msg)
    return person


def _verdict(verdict: str) -> str:
    if verdict not in VERDICTS:
        msg = f"a verdict is one of {', '.join(VERDICTS)}"
        raise DecisionError(msg)
    return verdict


def acknowledge(database: Database, alert_id: str, person: str) -> bool:
    """Acknowledge an alert; return False when somebody had done so before (the first one stays)."""
    person = named(person)
    with database.write() as session:
        statement = update(Alert).where(Alert.alert_id == alert_id, Alert.state == "open")
        changed = session.execute(
            statement.values(
                state="acknowledged", acknowledged_at=now(), acknowledged_by=person, next_attempt_at=None
            ).returning(Alert.alert_id)
        ).scalar_one_or_none()
        if changed is None:
            if session.get(Alert, alert_id) is None:
                msg = "there is no such alert; reload the worklist"
                raise DecisionError(msg)
            return False
        session.add(AlertEvent(alert_id=alert_id, kind="acknowledged", channel="dashboard", person=person))
        ledger.audit(session, ACTOR + person, "alert-acknowledged", alert_id, {})
    return True


def withdraw_acknowledgement(
    database: Database, alert_id: str, person: str, reason: str, *, seen: datetime | None = None
) -> bool:
    """Open an acknowledged alert again; return False, and change nothing, when somebody was faster.

    It escalates as if it had never been acknowledged, by the time since it was opened, and is sent at once. `seen` is
    the time of the acknowledgement that the person saw: another one, given since, stays. The reason is free text that
    may hold patient data: it is kept with the alert's events and not in the audit. Raises DecisionError.
    """
    person, reason = named(person), reason.strip()
    if not reason or len(reason) > COMMENT_LIMIT:
        msg = f"say why you withdraw the acknowledgement (1 to {COMMENT_LIMIT} characters)"
        raise DecisionError(msg)
    with database.write() as session:
        alert = session.get(Alert, alert_id, with_for_update=True)
        if alert is None:
            msg = "there is no such alert; reload the page"
            raise DecisionError(msg)
        if alert.state != "acknowledged" or seen not in (None, alert.acknowledged_at):
            return False
        alert.state, alert.attempts, alert.next_attempt_at = "open", 0, None
        alert.acknowledged_at = alert.acknowledged_by = None
        session.add(AlertEvent(alert_id=alert_id, kind="reopened", channel="dashboard", person=person, comment=reason))
        ledger.audit(session, ACTOR + person, "acknowledgement-withdrawn", alert_id, {})
    return True


def review(
    database: Database,
    image_id: str,
    verdict: str,
    person: str,
    comment: str = "",
    *,
    source: str = "person",
    assessment_id: str | None = None,
) -> bool:
    """Record a judgement of an image; earlier ones stay, the newest counts.

    It is of the assessment that the person saw, `assessment_id`, or else of the newest primary one. Returns False, and
    writes nothing, when the newest review of the image is this very one (a second click).
    """
    person, verdict, comment = named(person), _verdict(verdict), comment.strip()
    if len(comment) > COMMENT_LIMIT:
        msg = f"a comment has at most {COMMENT_LIMIT} characters"
        raise DecisionError(msg)
    with database.write() as session:
        query = select(Assessment.assessment_id).where(Assessment.image_id == image_id)
        if assessment_id is None:
            query = query.where(Assessment.role == "primary").order_by(Assessment.assessed_at.desc())
        else:
            query = query.where(Assessment.assessment_id == assessment_id)
        assessment = session.scalars(query.limit(1)).first()
        if assessment is None:
            msg = "this image has no such assessment to confirm or overrule; wait until it is scored, and reload"
            raise DecisionError(msg)
        last = session.scalars(select(Review).where(Review.image_id == image_id).order_by(Review.review_id.desc()))
        newest = last.first()
        if newest is not None and (
            (newest.assessment_id, newest.verdict, newest.reviewer, newest.source, newest.comment)
            == (assessment, verdict, person, source, comment)
        ):
            return False
        session.add(
            Review(
                image_id=image_id,
                assessment_id=assessment,
                verdict=verdict,
                reviewer=person,
                source=source,
                comment=comment,
            )
        )
        ledger.audit(session, ACTOR + person, "reviewed", image_id, {"verdict": verdict, "source": source})
    return True


def label(database: Database, case_id: str, verdict: str, person: str, *, source: str = "expert") -> bool:
    """Record an expert's label of a case at the core; earlier ones stay, the newest counts.

    Returns False, and writes nothing, when the newest label of the case is this very one (a second click).
    """
    person, verdict = named(person), _verdict(verdict)
    with database.write() as session:
        if session.get(CoreCase, case_id) is None:
            msg = "there is no such case; reload the queue"
            raise DecisionError(msg)
        newest = session.scalars(select(Label).where(Label.case_id == case_id).order_by(Label.label_id.desc())).first()
        if newest is not None and (newest.label, newest.labeller, newest.source) == (verdict, person, source):
            return False
        session.add(Label(case_id=case_id, label=verdict, labeller=person, source=source))
        ledger.audit(session, ACTOR + person, "labelled", case_id, {"label": verdict, "source": source})
    return True
