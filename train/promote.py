"""Whether a candidate replaces the model in service, and the record of it; the registry's pointer follows the record.

The rule (docs/core.md), on the frozen set, both models on the same cases:
1. the candidate's Brier score is lower with `train.promote_confidence` (paired, one-sided), and
2. its AUROC is not inferior by more than 0.02 (DeLong's paired test), and its sensitivity and its specificity at
   probability 0.5 are each not by more than 0.05 (Bonett and Price's adjusted Wald interval for paired proportions),
   with the same confidence, and
3. it has not learnt to live on frames: from images of which nothing but the frame is left its AUROC is not above 0.65
   with the whole of its 95% interval, unless that of the model in service is as high.

Labelled cases of patients that are never trained on are described beside: they are no frozen set and decide nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import floor, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import select, text

from edgerad import decisions, ledger, registry
from edgerad.records import Model, now
from train.evaluate import auroc, compare_auroc, compare_brier, evaluate

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgerad.database import Database
    from edgerad.store import ObjectStore
    from serve.bundle import Bundle
    from train.cases import Reference

OPERATING_POINT = 0.5
"""Probability from which on a case counts as positive: the middle of the triage band, as in the published figures."""
MARGIN = 0.05
"""Largest loss of sensitivity or specificity that still counts as not inferior."""
AUROC_MARGIN = 0.02
"""Largest loss of AUROC that still counts as not inferior."""
FRAME_LIMIT = 0.65
"""Highest AUROC from frames alone of a model that does not live on them."""

ACTOR = "core"
REASON_LIMIT = 500
LOOKS = 5
CANDIDATE, PROMOTED, REJECTED, RETIRED = "candidate", "promoted", "rejected", "retired"


class NotPossible(Exception):
    """A model can't be put into service or taken out of it; the text says why and what to do."""


@dataclass(frozen=True)
class Decision:
    """Whether the candidate is promoted, why, in words, and the figures that decided."""

    promoted: bool
    reason: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PairedChange:
    """The change of a proportion from one model to the other on the same cases, with a one-sided lower bound."""

    before: float
    after: float
    low: float

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before


def decide(
    labels: npt.ArrayLike,
    current: npt.ArrayLike,
    candidate: npt.ArrayLike,
    confidence: float,
    frames: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
) -> Decision:
    """Apply the rule to labels 0/1 and the calibrated probabilities of both models on the same cases.

    `frames` are both models' probabilities of the same cases' frames alone; without them the third part is not asked.
    """
    truth, old, new = np.asarray(labels), np.asarray(current, float), np.asarray(candidate, float)
    positives, negatives = int((truth == 1).sum()), int((truth == 0).sum())
    needed = fewest_cases(confidence)
    if min(positives, negatives) < needed:
        return Decision(
            False,
            f"not promoted: the frozen set has {positives} positive and {negatives} negative cases, at least {needed}"
            " of each are needed to tell a difference from chance",
        )
    brier, ranking = compare_brier(truth, old, new), compare_auroc(truth, old, new)
    sensitivity = paired_change((old >= OPERATING_POINT)[truth == 1], (new >= OPERATING_POINT)[truth == 1], confidence)
    specificity = paired_change((old < OPERATING_POINT)[truth == 0], (new < OPERATING_POINT)[truth == 0], confidence)
    figures = {
        "current": evaluate(truth, old, threshold=OPERATING_POINT).as_dict(),
        "candidate": evaluate(truth, new, threshold=OPERATING_POINT).as_dict(),
        "brier": {"current": round(brier.current, 4), "candidate": round(brier.candidate, 4)},
        "confidence_better": round(brier.confidence, 4),
        "auroc_difference": _rounded(ranking.gain, ranking.low(confidence)),
        "sensitivity_difference": _rounded(sensitivity.difference, sensitivity.low),
        "specificity_difference": _rounded(specificity.difference, specificity.low),
    }
    against = []
    if not brier.confidence >= confidence:
        against.append(f"better with {brier.confidence:.1%} confidence, {confidence:.0%} are needed")
    if not ranking.low(confidence) > -AUROC_MARGIN:
        against.append(f"AUROC may be lower by {-ranking.low(confidence):.3f}, {AUROC_MARGIN} is the most allowed")
    for name, change in (("sensitivity", sensitivity), ("specificity", specificity)):
        if not change.low > -MARGIN:
            against.append(
                f"{name} may be lower by {-change.low:.3f} ({change.before:.3f} to {change.after:.3f}),"
                f" {MARGIN} is the most allowed"
            )
    if frames is not None:
        of_frames = [auroc(truth, np.asarray(part, float)) for part in frames]
        figures["frames_alone"] = {
            name: round(found.value, 4) for name, found in zip(("current", "candidate"), of_frames, strict=True)
        }
        if of_frames[1].low > FRAME_LIMIT and of_frames[1].value > of_frames[0].value:
            against.append(
                f"it tells {of_frames[1].value:.3f} (AUROC) from frames alone, which are no evidence;"
                f" {FRAME_LIMIT} is the most allowed"
            )
    shown = (
        f"Brier score {brier.current:.4f} to {brier.candidate:.4f},"
        f" AUROC {ranking.current:.4f} to {ranking.candidate:.4f}"
    )
    if against:
        return Decision(False, f"not promoted: {shown}; " + "; ".join(against), figures)
    sure = f"better with {brier.confidence:.1%} confidence"
    reason = f"promoted: {shown}, {sure}; AUROC, sensitivity and specificity not inferior"
    return Decision(True, reason, figures)


def fewest_cases(confidence: float) -> int:
    """Return how many cases of a label the second rule needs: below, it refuses even a model that differs in none.

    With no discordant pair among n cases the lower bound is -z * sqrt(2) / (n + 2).
    """
    return max(20, floor(NormalDist().inv_cdf(confidence) * sqrt(2) / MARGIN) - 1)


def describe(labels: npt.ArrayLike, current: npt.ArrayLike, candidate: npt.ArrayLike) -> dict[str, Any]:
    """Return the figures of two models on the same cases, for people to look at; they decide nothing."""
    truth = np.asarray(labels)
    figures: dict[str, Any] = {"cases": len(truth), "positives": int((truth == 1).sum())}
    if 0 < figures["positives"] < len(truth):
        figures["current"] = evaluate(truth, current, threshold=OPERATING_POINT).as_dict()
        figures["candidate"] = evaluate(truth, candidate, threshold=OPERATING_POINT).as_dict()
    return figures


def paired_change(before: npt.ArrayLike, after: npt.ArrayLike, confidence: float) -> PairedChange:
    """Compare two models' right answers (booleans, case by case), with a one-sided lower bound of the difference.

    Source: D. G. Bonett, R. M. Price, J. Educational and Behavioral Statistics 37 (2012) 479-488: Wald's interval with
    one added to each kind of discordant pair.
    """
    old, new = np.asarray(before, bool), np.asarray(after, bool)
    gained, lost, cases = int((new & ~old).sum()), int((old & ~new).sum()), len(old)
    up, down = (gained + 1) / (cases + 2), (lost + 1) / (cases + 2)
    error = sqrt((up + down - (up - down) ** 2) / (cases + 2))
    low = up - down - NormalDist().inv_cdf(confidence) * error
    return PairedChange(float(old.mean()), float(new.mean()), low)


def _rounded(value: float, low: float) -> dict[str, float]:
    return {"value": round(value, 4), "low": round(low, 4)}


def _lock(session: Session) -> None:
    """Let one transaction at a time decide what is in service; SQLite has one writer anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(7313)"))


def promoted(session: Session, finding: str) -> Model | None:
    """Return the model in service by the core's records."""
    query = select(Model).where(Model.finding == finding, Model.state == PROMOTED)
    return session.scalars(query.order_by(Model.decided_at.desc()).limit(1)).first()


def in_service(database: Database, finding: str) -> str | None:
    """Return the digest of the model in service by the core's records, or None."""
    with database.read() as session:
        model = promoted(session, finding)
        return model.model_digest if model else None


def uri_of(finding: str, digest: str) -> str:
    """Return where a bundle is, relative to the core's bucket."""
    return f"{registry.PREFIX}{finding}/{digest}/"


def adopt(database: Database, finding: str, digest: str, metrics: dict[str, Any], reason: str) -> None:
    """Record a published model as the one in service where there is none yet."""
    with database.write() as session:
        _lock(session)
        if promoted(session, finding) is not None:
            return
        at = now()
        model = session.get(Model, digest) or Model(model_digest=digest, finding=finding, uri=uri_of(finding, digest))
        model.state, model.metrics, model.reason, model.created_at, model.decided_at = PROMOTED, metrics, reason, at, at
        session.add(model)
        ledger.audit(session, ACTOR, "model-promoted", digest, {"reason": reason})


def settle(
    session: Session,
    finding: str,
    digest: str,
    compared_with: str,
    decision: Decision,
    *,
    metrics: dict[str, Any],
    training_run_id: str,
) -> str:
    """Record the decision on a published candidate and return its state, promoted or rejected.

    Where the model that it was compared with is no longer in service, it is rejected: that comparison decides nothing.
    """
    _lock(session)
    known = session.get(Model, digest)
    if known is not None:  # decided before; the first decision stays
        return known.state
    served = promoted(session, finding)
    verdict = decision
    if served is None or served.model_digest != compared_with:
        verdict = Decision(False, "not promoted: another model came into service during the evaluation; train again")
    model = _new(finding, digest, metrics, parent=compared_with, training_run_id=training_run_id)
    session.add(model)
    session.flush()
    if verdict.promoted and served is not None:
        _put_in_service(session, model, served, ACTOR, verdict.reason)
    else:
        model.state, model.reason, model.decided_at = REJECTED, verdict.reason, now()
        ledger.audit(session, ACTOR, "model-rejected", digest, {"reason": verdict.reason})
    return model.state


def _new(
    finding: str, digest: str, metrics: dict[str, Any], *, parent: str | None, training_run_id: str | None = None
) -> Model:
    return Model(
        model_digest=digest,
        finding=finding,
        state=CANDIDATE,
        uri=uri_of(finding, digest),
        parent_digest=parent,
        training_run_id=training_run_id,
        metrics=metrics,
        created_at=now(),
    )


def add(database: Database, bundle: Bundle, person: str, reason: str) -> bool:
    """Record a published bundle from elsewhere as a candidate; return False where it was known. Raises NotPossible."""
    actor, why = _by_hand(person, reason)
    with database.write() as session:
        if session.get(Model, bundle.digest) is not None:
            return False
        finding, metrics = bundle.manifest.finding, bundle.manifest.metrics
        model = _new(finding, bundle.digest, dict(metrics), parent=bundle.manifest.parent)
        model.reason = f"added by hand: {why}"
        session.add(model)
        ledger.audit(session, actor, "model-added", bundle.digest, {"reason": model.reason})
    return True


def find(database: Database, finding: str, beginning: str) -> Model:
    """Return the one model whose digest begins so. Raises NotPossible when there is none, or more than one."""
    with database.read() as session:
        query = select(Model).where(Model.finding == finding, Model.model_digest.startswith(beginning, autoescape=True))
        found = list(session.scalars(query.limit(2)))
    if len(found) == 1 and beginning:
        return found[0]
    many = "several models begin" if found else f"no model for {finding} begins"
    raise NotPossible(f"{many} with {beginning[:64]!r}; `edgerad models list` shows those there are")


def previous(database: Database, finding: str) -> str:
    """Return the digest that `rollback` would go back to. Raises NotPossible."""
    with database.read() as session:
        return _previous(session, finding).model_digest


def _previous(session: Session, finding: str) -> Model:
    query = select(Model).where(Model.finding == finding, Model.state == RETIRED)
    before = session.scalars(query.order_by(Model.decided_at.desc()).limit(1)).first()
    if before is None:
        raise NotPossible("no model was in service before this one; there is nothing to go back to")
    return before


def _by_hand(person: str, reason: str) -> tuple[str, str]:
    try:
        actor = decisions.ACTOR + decisions.named(person)
    except decisions.DecisionError as error:
        raise NotPossible(str(error)) from None
    why = " ".join(reason.split())
    if not 1 <= len(why) <= REASON_LIMIT:
        raise NotPossible(f"give a reason (1 to {REASON_LIMIT} characters): it is recorded with the decision")
    return actor, why


def promote_by_hand(database: Database, finding: str, digest: str, person: str, reason: str) -> None:
    """Put a registered model into service against or without a decision of the rule. Raises NotPossible."""
    actor, why = _by_hand(person, reason)
    with database.write() as session:
        _lock(session)
        model = session.get(Model, digest)
        if model is None or model.finding != finding:
            raise NotPossible(
                f"there is no model {digest[:12]} for {finding}; `edgerad models list` shows those there are"
            )
        served = promoted(session, finding)
        if served is not None and served.model_digest == digest:
            raise NotPossible(f"model {digest[:12]} is in service already")
        _put_in_service(session, model, served, actor, f"promoted by hand: {why}")


def rollback(database: Database, finding: str, person: str, reason: str) -> str:
    """Put the model that was in service before into service again; return its digest. Raises NotPossible."""
    actor, why = _by_hand(person, reason)
    with database.write() as session:
        _lock(session)
        served = promoted(session, finding)
        before = _previous(session, finding)
        if served is None:
            raise NotPossible("no model is in service; `edgerad models promote DIGEST` puts one there")
        why = f"rolled back: {why}"
        _put_in_service(session, before, served, actor, why)
        # Rejected, not retired: a second rollback goes further back and not forth again.
        served.state, served.reason = REJECTED, why
        ledger.audit(session, actor, "model-rejected", served.model_digest, {"reason": why})
        return before.model_digest


def _put_in_service(session: Session, model: Model, served: Model | None, actor: str, reason: str) -> None:
    at = now()
    if served is not None:
        served.state, served.decided_at = RETIRED, at
    model.state, model.reason, model.decided_at = PROMOTED, reason, at
    before = served.model_digest if served else None
    ledger.audit(session, actor, "model-promoted", model.model_digest, {"reason": reason, "previous": before})


def point(store: ObjectStore, database: Database, finding: str) -> bool:
    """Move the registry's pointer to the model in service by the records, where it is not there; return whether moved.

    A crash between the record and the pointer is mended by the next call. The record is read again after the write:
    of two cores that move the pointer at once, the last to write finds out if what it wrote is no longer right.
    Raises StoreUnavailable, RegistryError.
    """
    moved = False
    for _ in range(LOOKS):
        wanted = in_service(database, finding)
        try:
            held = registry.current(store, finding)
        except registry.RegistryDamaged:
            held = None
        if wanted is None or held == wanted:
            break
        registry.promote(store, finding, wanted)
        moved = True
    return moved


def digest_of_references(references: Sequence[Reference]) -> str:
    """Return the digest of what a run was trained on: keys (which are content digests), labels and sources."""
    rows = sorted(f"{row.key} {row.label} {row.source}" for row in references)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
