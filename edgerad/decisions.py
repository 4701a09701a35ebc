"""What people decide: acknowledge, review, label. Append-only, audited, and the first acknowledgement counts."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import select, update

from edgerad import ledger
from edgerad.database import Database
from edgerad.records import Alert, AlertEvent, Assessment, CoreCase, Label, Review, now

Verdict = Literal["positive", "negative", "unsure"]
VERDICTS = ("positive", "negative", "unsure")
NAME_LIMIT = 64


class DecisionError(ValueError):
    """A decision that cannot be taken; the text says what to do."""


def _person(name: str) -> str:
    person = " ".join(name.split())
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
    person = _person(person)
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
        session.add(AlertEvent(alert_id=alert_id, kind="acknowledged", channel="dashboard"))
        ledger.audit(session, f"person:{person}", "alert-acknowledged", alert_id, {})
    return True


def review(
    database: Database, image_id: str, verdict: str, person: str, comment: str = "", *, source: str = "person"
) -> None:
    """Record a judgement of an image's newest primary assessment; earlier ones stay, the newest counts."""
    person, verdict = _person(person), _verdict(verdict)
    with database.write() as session:
        query = select(Assessment.assessment_id).where(Assessment.image_id == image_id, Assessment.role == "primary")
        assessment = session.scalars(query.order_by(Assessment.assessed_at.desc()).limit(1)).first()
        if assessment is None:
            msg = "this image has no assessment to confirm or overrule; wait until it is scored"
            raise DecisionError(msg)
        session.add(
            Review(
                image_id=image_id,
                assessment_id=assessment,
                verdict=verdict,
                reviewer=person,
                source=source,
                comment=comment.strip(),
            )
        )
        ledger.audit(session, f"person:{person}", "reviewed", image_id, {"verdict": verdict, "source": source})


def label(database: Database, case_id: str, verdict: str, person: str, *, source: str = "expert") -> None:
    """Record an expert's label of a case at the core; earlier ones stay, the newest counts."""
    person, verdict = _person(person), _verdict(verdict)
    with database.write() as session:
        if session.get(CoreCase, case_id) is None:
            msg = "there is no such case; reload the queue"
            raise DecisionError(msg)
        session.add(Label(case_id=case_id, label=verdict, labeller=person, source=source))
        ledger.audit(session, f"person:{person}", "labelled", case_id, {"label": verdict, "source": source})
