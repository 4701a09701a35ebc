"""Case: the image with window and level, the risk and where it comes from, what was decided, confirm or overrule."""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard import parts, viewer
from edgerad import decisions, queries
from edgerad.reasons import REASONS
from edgerad.records import AlertEvent, Assessment, Image


def main() -> None:
    """Draw the page."""
    parts.page("Case", _page)


def _page() -> None:
    # The address holds the image's id, which is no patient data, so that a page can be reloaded and linked to.
    image_id = st.query_params.get("image") or st.session_state.get("image_id")
    view = queries.view_case(parts.database(), image_id) if image_id else None
    if view is None:
        st.info(
            "There is no such image here. It may belong to another edge."
            if image_id
            else "Open a case from the worklist."
        )
        return
    st.session_state["image_id"] = image_id
    left, right = st.columns((3, 2), gap="large")
    with left:
        newest = _primary(view)
        activation = newest.activation if newest else None
        viewer.show(parts.edge_store(), view.image.key, view.image.etag, view.image.image_id, activation)
    with right:
        _facts(view)
        _decide(view)
        _history(view)


def _primary(view: queries.CaseView) -> Assessment | None:
    return next((assessment for assessment in view.assessments if assessment.role == "primary"), None)


def _facts(view: queries.CaseView) -> None:
    patient, facts = parts.who(view.image.header, view.image.image_id)
    accession = view.image.header.get("AccessionNumber", "")
    lines = [facts, parts.study(view.image.header), accession and f"accession {accession}"]
    newest = _primary(view)
    st.html(
        f'<div class="er-name" style="font-size:1.25rem">{parts.escaped(patient)}</div>'
        + "".join(f'<div class="er-small">{parts.escaped(line)}</div>' for line in lines if line)
    )
    if newest is None:
        st.warning(_not_scored(view.image, view.refused_for))
        return
    origin = parts.origin(newest.model_digest, newest.calibration_version, newest.threshold_version)
    risk = parts.escaped(parts.percent(newest.probability))
    st.html(
        f'<div class="er-score"><span class="er-risk er-large">{risk}</span>'
        f"{parts.tag(newest.triage)}<span>risk of {parts.escaped(newest.finding)}</span></div>"
        f'<div class="er-small">{parts.escaped(origin)}</div>'
    )
    _alert(view)


def _not_scored(image: Image, detail: str) -> str:
    if image.state == "pending":
        return "Not scored yet: the image waits for its turn."
    if image.state == "deleted":
        return "Not scored: the object was deleted before."
    reason = image.reason or "unknown"
    more = f" ({detail})" if detail else ""
    return f"Not scored: {parts.plain(reason + more)}. {REASONS.get(reason, '')} Read the image as usual."


def _alert(view: queries.CaseView) -> None:
    alert = view.alert
    if alert is None:
        return
    if alert.state != "open":
        when = f", {parts.local(alert.acknowledged_at)}" if alert.acknowledged_at else ""
        st.success(f"Alert acknowledged by {parts.plain(alert.acknowledged_by)}{when}.")
        if alert.acknowledged_at:
            with st.popover("Undo the acknowledgement"):
                parts.withdraw(alert.alert_id, alert.acknowledged_at)
        return
    st.error(f"Alert {parts.open_for(alert.opened_at, alert.level)}. Nobody has acknowledged it.")
    if st.button("Acknowledge", type="primary"):
        parts.decide(
            lambda: decisions.acknowledge(parts.database(), alert.alert_id, parts.person()),
            "Alert acknowledged.",
            "Somebody else has already acknowledged this alert.",
        )


def _decide(view: queries.CaseView) -> None:
    newest = _primary(view)
    if newest is None:
        return
    st.subheader("Your reading")
    image_id = view.image.image_id
    # Another key after every reading: the field is empty again, and a comment never goes along with two of them.
    comment = st.text_input(
        "Comment",
        key=f"comment-{image_id}-{len(view.reviews)}",
        max_chars=500,
        placeholder="Comment (optional)",
        label_visibility="collapsed",
    )
    with st.container(horizontal=True, gap="small"):
        for verdict, title in _choices(newest):
            if st.button(title, key=f"verdict-{verdict}"):
                reading = partial(
                    decisions.review,
                    parts.database(),
                    image_id,
                    verdict,
                    parts.person(),
                    comment,
                    assessment_id=newest.assessment_id,
                )
                parts.decide(reading, f"Recorded: {title.lower()}.", "This reading was already recorded.")


def _choices(assessment: Assessment) -> tuple[tuple[str, str], ...]:
    finding = parts.plain(assessment.finding)
    present, absent = finding.capitalize(), f"No {finding}"
    if assessment.triage == "high":
        present, absent = f"Confirm {finding}", f"Overrule: no {finding}"
    elif assessment.triage == "low":
        present, absent = f"Overrule: {finding}", f"Confirm no {finding}"
    return ("positive", present), ("negative", absent), ("unsure", "Unsure")


def _history(view: queries.CaseView) -> None:
    st.subheader("History")
    lines = []
    for review in view.reviews:
        by = f"{review.reviewer} (simulated)" if review.source == "simulated" else review.reviewer
        said = f": {review.comment}" if review.comment else ""
        lines.append((review.reviewed_at, f"read as {review.verdict} by {by}{said}"))
    for row in view.assessments:
        origin = parts.origin(row.model_digest, row.calibration_version, row.threshold_version)
        decided = "" if row.role == "primary" else f", {row.role}: not used for triage"
        lines.append((row.assessed_at, f"scored {parts.percent(row.probability)} ({row.triage}{decided}) by {origin}"))
    for event in view.events:
        lines.append((event.at, _event(event)))
    if view.shipment:
        lines.append((view.shipment.queued_at, f"to be sent to the core ({view.shipment.why}): {view.shipment.state}"))
    if view.image.state == "quarantined" and view.image.finished_at:
        lines.append((view.image.finished_at, f"not scored: {view.image.reason}"))
    lines.append((view.image.registered_at, f"arrived ({view.image.source})"))
    lines.sort(key=lambda line: line[0], reverse=True)
    name = f"history-{view.image.image_id}"
    start = parts.start(name, len(lines))
    rows = "".join(
        f"<tr><td>{parts.escaped(parts.local(at))}</td><td>{parts.escaped(what)}</td></tr>"
        for at, what in lines[start : start + parts.PAGE]
    )
    st.html(f'<table class="er-history">{rows}</table>')
    parts.pager(name, len(lines))


def _event(event: AlertEvent) -> str:
    """Return what happened to an alert, in words."""
    person = event.person or "somebody"  # events of older versions name nobody
    return {
        "opened": "alert opened",
        "sent": f"alert sent by {event.channel}",
        "failed": f"alert not delivered by {event.channel}: {event.detail}",
        "escalated": f"alert escalated to {event.detail}",
        "acknowledged": f"alert acknowledged by {person}",
        "reopened": f"acknowledgement withdrawn by {person}: {event.comment}",
        "clock": f"alert's opening time corrected: {event.detail}",
    }.get(event.kind, f"alert {event.kind}")
