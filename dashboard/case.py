"""Case: the image with window and level, the risk and where it comes from, what was decided, confirm or overrule."""

from __future__ import annotations

import html

import streamlit as st

from dashboard import parts
from edgerad import decisions, queries
from edgerad.display import NotDisplayable, Picture, picture
from edgerad.store import StoreError

MAX_BYTES = 256 * 2**20


@st.cache_data(max_entries=8, show_spinner="Fetching the image")
def _picture(key: str, etag: str | None) -> Picture:
    return picture(parts.edge_store().get(key, etag=etag, limit_bytes=MAX_BYTES))


def main() -> None:
    """Draw the page."""
    parts.frame("Case")
    if not parts.database_answers():
        return
    image_id = st.session_state.get("image_id")
    view = queries.view_case(parts.database(), image_id) if image_id else None
    if view is None:
        st.info("Open a case from the worklist.")
        return
    left, right = st.columns((3, 2), gap="large")
    with left:
        _image(view)
    with right:
        _facts(view)
        _decide(view)
        _history(view)


def _image(view: queries.CaseView) -> None:
    try:
        shown = _picture(view.image.key, view.image.etag)
    except (NotDisplayable, StoreError) as error:
        st.warning(f"The image cannot be shown: {error}")
        return
    low, high = shown.low, shown.high
    level_column, width_column, invert_column = st.columns((3, 3, 1.4), vertical_alignment="bottom")
    level = level_column.slider("Level", low, high, (low + high) / 2, key=f"level-{view.image.image_id}")
    width = width_column.slider(
        "Window", (high - low) / 50, (high - low) * 1.5, high - low, key=f"window-{view.image.image_id}"
    )
    invert = invert_column.toggle("Invert", key=f"invert-{view.image.image_id}")
    st.image(shown.window(level, width, invert=invert), width="stretch", clamp=True)


def _facts(view: queries.CaseView) -> None:
    patient, facts = parts.who(view.image.header, view.image.image_id)
    st.markdown(f"### {html.escape(patient)}")
    header = view.image.header
    study = [header.get("StudyDate", ""), header.get("Modality", ""), header.get("ViewPosition", "")]
    accession = header.get("AccessionNumber", "")
    st.caption(" · ".join(str(fact) for fact in (facts, *study, accession and f"accession {accession}") if fact))
    if not view.assessments:
        st.warning(f"Not scored: {view.image.state} {view.image.reason or ''}")
        return
    newest = view.assessments[0]
    st.markdown(
        f'<span class="er-risk" style="font-size:2.6rem">{newest.probability:.0%}</span> '
        f"&nbsp;{parts.tag(newest.triage)}&nbsp; risk of {html.escape(newest.finding)}",
        unsafe_allow_html=True,
    )
    st.caption(parts.origin(newest.model_digest, newest.calibration_version, newest.threshold_version))
    alert = view.alert
    if alert is not None and alert.state == "open":
        st.error(f"Alert open for {parts.since(alert.opened_at)}; nobody has acknowledged it.")
        if st.button("Acknowledge", type="primary"):
            _attempt(lambda: decisions.acknowledge(parts.database(), alert.alert_id, parts.person()))
    elif alert is not None:
        st.success(f"Alert acknowledged by {alert.acknowledged_by}.")


def _decide(view: queries.CaseView) -> None:
    if not view.assessments:
        return
    st.markdown("#### Your reading")
    comment = st.text_input("Comment", key=f"comment-{view.image.image_id}", max_chars=500)
    finding = view.assessments[0].finding.capitalize()
    choices = (("positive", finding), ("negative", "Not present"), ("unsure", "Unsure"))
    for column, (verdict, title) in zip(st.columns(3), choices, strict=True):
        if column.button(title, key=f"verdict-{verdict}", width="stretch"):
            _attempt(
                lambda verdict=verdict: decisions.review(
                    parts.database(), view.image.image_id, verdict, parts.person(), comment
                )
            )


def _attempt(decision: object) -> None:
    try:
        decision()  # type: ignore[operator]
    except decisions.DecisionError as error:
        st.warning(str(error))
    else:
        st.rerun()


def _history(view: queries.CaseView) -> None:
    st.markdown("#### History")
    lines = [(review.reviewed_at, f"read as **{review.verdict}** by {_by(review.reviewer, review.source)}"
              + (f": {review.comment}" if review.comment else "")) for review in view.reviews]  # fmt: skip
    lines += [
        (assessment.assessed_at, f"scored {assessment.probability:.0%} ({assessment.triage}) by {assessment.role} "
         f"{parts.origin(assessment.model_digest, assessment.calibration_version, assessment.threshold_version)}")
        for assessment in view.assessments
    ]  # fmt: skip
    lines += [(event.at, f"alert {event.kind} ({event.channel}) {event.detail}".strip()) for event in view.events]
    if view.shipment:
        lines.append((view.shipment.queued_at, f"to the core ({view.shipment.why}): {view.shipment.state}"))
    lines.append((view.image.registered_at, f"arrived ({view.image.source})"))
    for at, what in sorted(lines, key=lambda line: line[0], reverse=True):
        st.markdown(f"`{at:%Y-%m-%d %H:%M:%S}` {what}")


def _by(name: str, source: str) -> str:
    return f"{name} (simulated)" if source == "simulated" else name
