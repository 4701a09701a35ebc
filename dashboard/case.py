"""Case: the image with window and level, the risk and where it comes from, what was decided, confirm or overrule."""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard import parts, viewer
from edgerad import decisions, queries
from edgerad.reasons import REASONS
from edgerad.records import Assessment


def main() -> None:
    """Draw the page."""
    parts.page("Case", _page)


def _page() -> None:
    # The address holds the image's id, which is no patient data, so that a page can be reloaded and linked to.
    image_id = st.query_params.get("image") or st.session_state.get("image_id")
    view = queries.view_case(parts.database(), image_id) if image_id else None
    if view is None:
        st.info(
            "There is no such image here; it may belong to another edge."
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
        reason = view.image.reason
        advice = f". {REASONS[reason]}" if reason in REASONS else ""
        st.warning(f"Not scored: {view.image.state}{f' ({reason})' if reason else ''}{advice}")
        return
    origin = parts.origin(newest.model_digest, newest.calibration_version, newest.threshold_version)
    risk = parts.escaped(parts.percent(newest.probability))
    st.html(
        f'<div class="er-score"><span class="er-risk er-large">{risk}</span>'
        f"{parts.tag(newest.triage)}<span>risk of {parts.escaped(newest.finding)}</span></div>"
        f'<div class="er-small">{parts.escaped(origin)}</div>'
    )
    _alert(view)


def _alert(view: queries.CaseView) -> None:
    alert = view.alert
    if alert is None:
        return
    if alert.state != "open":
        when = f", {parts.local(alert.acknowledged_at)}" if alert.acknowledged_at else ""
        st.success(f"Alert acknowledged by {alert.acknowledged_by}{when}")
        return
    raised = f" and was raised {alert.level} times" if alert.level else ""
    st.error(f"The alert waits for {parts.since(alert.opened_at)}{raised}; nobody has acknowledged it.")
    if st.button("Acknowledge", type="primary"):
        parts.decide(
            lambda: decisions.acknowledge(parts.database(), alert.alert_id, parts.person()),
            "Alert acknowledged.",
            "Somebody had acknowledged this alert before.",
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
                parts.decide(reading, f"Recorded: {title.lower()}.", "This reading was recorded before.")


def _choices(assessment: Assessment) -> tuple[tuple[str, str], ...]:
    finding = assessment.finding
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
        decided = "" if row.role == "primary" else f", {row.role}: it did not decide"
        lines.append((row.assessed_at, f"scored {parts.percent(row.probability)} ({row.triage}{decided}) by {origin}"))
    for event in view.events:
        lines.append((event.at, f"alert {event.kind} ({event.channel}) {event.detail}".strip()))
    if view.shipment:
        lines.append((view.shipment.queued_at, f"to the core ({view.shipment.why}): {view.shipment.state}"))
    lines.append((view.image.registered_at, f"arrived ({view.image.source})"))
    rows = "".join(
        f"<tr><td>{parts.escaped(parts.local(at))}</td><td>{parts.escaped(what)}</td></tr>"
        for at, what in sorted(lines, key=lambda line: line[0], reverse=True)
    )
    st.html(f'<table class="er-history">{rows}</table>')
