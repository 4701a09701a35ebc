"""Worklist: open alerts first, acknowledge or undo that, open a case; then what no model could assess."""

from __future__ import annotations

import time

import streamlit as st

from dashboard import parts
from dashboard.theme import TRIAGE
from edgerad import decisions, queries
from edgerad.reasons import REASONS
from edgerad.records import Image

REDRAWN_AFTER = 60.0
"""Seconds after which the rows are drawn again though nothing changed: they say how long each waits."""
WIDTHS = (1.5, 1.85, 1.7, 2.4, 2.05)


def main() -> None:
    """Draw the page."""
    parts.page("Worklist", _page)


def _page() -> None:
    st.session_state["worklist_drawn"] = (queries.revision(parts.database()), time.monotonic())
    parts.refreshed(_figures)
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        chosen = st.pills(
            "Triage", list(TRIAGE), default=list(TRIAGE), selection_mode="multi", label_visibility="collapsed",
            format_func=lambda name: TRIAGE[name][0], on_change=_to_start, key="worklist_triage",
        )  # fmt: skip
        unread = st.toggle("Only unread", key="worklist_unread", on_change=_to_start)
    _rows(tuple(chosen or TRIAGE), unread)
    _not_assessable()


def _to_start() -> None:
    parts.turn("worklist")


def _figures() -> None:
    # Only these figures are asked for every few seconds. The rows below are drawn again when something happened, so
    # that an idle screen costs little and no row moves under a hand without a cause.
    drawn, at = st.session_state["worklist_drawn"]
    if queries.revision(parts.database()) != drawn or time.monotonic() - at > REDRAWN_AFTER:
        st.rerun(scope="app")
    seen = queries.totals(parts.database())
    oldest = f"The oldest is open for {parts.since(seen.oldest_alert)}." if seen.oldest_alert else "No alert is open."
    with st.container(horizontal=True, gap="large"):
        st.metric("Open alerts", seen.open_alerts, help=oldest, width=170)
        st.metric("Assessed in 24 h", seen.assessed, width=170)
        st.metric("Waiting to be scored", seen.waiting, width=170)
        st.metric("Not assessable in 24 h", seen.not_assessable, width=170)


def _rows(triage: tuple[str, ...], unread: bool) -> None:
    total = queries.count_worklist(parts.database(), triage, unread=unread)
    if not total:
        st.info("The worklist is empty. X-rays appear seconds after they reach the object store or the DICOM receiver.")
        return
    start = parts.start("worklist", total)
    with st.container(key="rows"):
        for row in queries.worklist(parts.database(), triage, parts.PAGE, start, unread=unread):
            _row(row)
    parts.pager("worklist", total)


def _row(row: queries.WorklistRow) -> None:
    is_open = row.alert_state == "open" and row.alert_id is not None
    with st.container(border=True, key=f"row-{'open' if is_open else 'done'}-{row.image_id}"):
        score, patient, study, model, act = st.columns(WIDTHS, vertical_alignment="center")
        score.html(
            f'<div class="er-score"><span class="er-risk">{parts.escaped(parts.percent(row.probability))}</span>'
            f"{parts.tag(row.triage)}</div>"
        )
        name, facts = parts.who(row.header, row.image_id)
        patient.html(_lines("er-name", name, facts))
        if is_open and row.alerted_at:
            waits = f'<span class="er-late">{parts.open_for(row.alerted_at, row.level)}</span>'
        else:
            waits = f"arrived {parts.since(row.arrived_at)} ago"
        study.html(
            f'<div class="er-line">{waits}</div><div class="er-small">{parts.escaped(parts.study(row.header))}</div>'
        )
        model.html(
            f'<div class="er-small">{parts.escaped(row.finding)} by model {parts.escaped(row.model_digest[:12])}<br>'
            f"calibration {parts.escaped(row.calibration_version)} · thresholds {parts.escaped(row.threshold_version)}"
            "</div>"
        )
        with act.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center", gap="small"):
            _actions(row, is_open)


def _actions(row: queries.WorklistRow, is_open: bool) -> None:
    if is_open and row.alert_id:
        alert = row.alert_id
        if st.button("Acknowledge", key=f"ack-{alert}", type="primary"):
            parts.decide(
                lambda: decisions.acknowledge(parts.database(), alert, parts.person()),
                "Alert acknowledged.",
                "Somebody else has already acknowledged this alert.",
            )
    elif row.reviewed or row.alert_state:
        done = f"read: {row.reviewed}" if row.reviewed else f"acknowledged by {row.acknowledged_by}"
        st.html(f'<div class="er-small">{parts.escaped(done)}</div>')
        if row.alert_id and row.acknowledged_at and row.acknowledged_by == parts.person():
            with st.popover("Undo", type="tertiary", key=f"undo-{row.alert_id}"):
                parts.withdraw(row.alert_id, row.acknowledged_at)
    _open(row.image_id)


def _not_assessable() -> None:
    """Show what no model has scored: a person must read it as any X-ray."""
    total = queries.count_not_assessable(parts.database())
    if not total:
        return
    st.subheader("Not assessable")
    st.caption("No model has scored these images. Read them as usual.")
    with st.container(key="refused"):
        images = queries.not_assessable(parts.database(), parts.PAGE, parts.start("refused", total))
        details = queries.details(parts.database(), [image.image_id for image in images])
        for image in images:
            _refused(image, details.get(image.image_id, ""))
    parts.pager("refused", total)


def _refused(image: Image, detail: str) -> None:
    with st.container(border=True, key=f"row-refused-{image.image_id}"):
        patient, study, why, act = st.columns((1.85, 1.7, 4, 1.1), vertical_alignment="center")
        name, facts = parts.who(image.header, image.image_id)
        patient.html(_lines("er-name", name, facts))
        arrived = f"arrived {parts.since(image.stored_at or image.registered_at)} ago"
        study.html(_lines("er-line", arrived, parts.study(image.header)))
        reason = image.reason or "unknown"
        more = f" · {detail}" if detail else ""
        why.html(_lines("er-line", f"{reason}{more}", REASONS.get(reason, "")))
        with act.container(horizontal=True, horizontal_alignment="right"):
            _open(image.image_id)


def _open(image_id: str) -> None:
    if st.button("Open", key=f"open-{image_id}"):
        st.session_state["image_id"] = image_id
        st.switch_page(st.session_state["pages"]["case"], query_params={"image": image_id})


def _lines(style: str, first: str, second: str) -> str:
    return f'<div class="{style}">{parts.escaped(first)}</div><div class="er-small">{parts.escaped(second)}</div>'
