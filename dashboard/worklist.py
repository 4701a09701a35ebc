"""Worklist: open alerts first, acknowledge, open a case."""

from __future__ import annotations

import html

import streamlit as st

from dashboard import parts
from edgerad import decisions, queries

PAGE = 25


def main() -> None:
    """Draw the page."""
    parts.frame("Worklist")
    if not parts.database_answers():
        return
    chosen = st.pills(
        "Show", list(parts.TRIAGE), default=list(parts.TRIAGE), selection_mode="multi", label_visibility="collapsed",
        format_func=lambda name: parts.TRIAGE[name][0],
    )  # fmt: skip
    parts.refreshed(_figures)
    parts.refreshed(_rows, tuple(chosen or parts.TRIAGE))
    refused = queries.not_assessable(parts.database())
    if refused:
        with st.expander(f"Not assessable: {len(refused)} images that nobody has scored and a person must look at"):
            st.dataframe(
                [
                    {
                        "image": image.image_id[:12],
                        "reason": image.reason,
                        "arrived": image.stored_at or image.registered_at,
                    }
                    for image in refused
                ],
                hide_index=True,
            )


def _figures() -> None:
    for column, (name, value) in zip(st.columns(4), queries.totals(parts.database()).items(), strict=True):
        column.metric(name.capitalize(), value)


def _rows(triage: tuple[str, ...]) -> None:
    offset = int(st.session_state.get("worklist_offset", 0))
    rows = queries.worklist(parts.database(), triage, PAGE + 1, offset)
    if not rows:
        st.info("Nothing here yet. X-rays appear seconds after they reach the object store or the DICOM receiver.")
        return
    widths = (1.0, 0.8, 2.6, 1.5, 2.9, 1.7, 1.0)
    for row in rows[:PAGE]:
        _row(row, widths)
    before, _, after = st.columns((1, 6, 1))
    if offset and before.button("Newer", width="stretch"):
        st.session_state["worklist_offset"] = max(0, offset - PAGE)
        st.rerun()
    if len(rows) > PAGE and after.button("Older", width="stretch"):
        st.session_state["worklist_offset"] = offset + PAGE
        st.rerun()


def _row(row: queries.WorklistRow, widths: tuple[float, ...]) -> None:
    with st.container(border=True):
        triage, risk, name, study, model, act, look = st.columns(widths, vertical_alignment="center")
        triage.markdown(parts.tag(row.triage), unsafe_allow_html=True)
        risk.markdown(f'<span class="er-risk">{row.probability:.0%}</span>', unsafe_allow_html=True)
        patient, facts = parts.who(row.header, row.image_id)
        name.markdown(
            f'<div class="er-name">{html.escape(patient)}</div><div class="er-small">{html.escape(facts)}</div>',
            unsafe_allow_html=True,
        )
        waits = "waits" if row.alert_state == "open" else "arrived"
        view = str(row.header.get("ViewPosition", ""))
        study.markdown(
            f"<div>{waits} {parts.since(row.arrived_at)}{'' if row.alert_state == 'open' else ' ago'}</div>"
            f'<div class="er-small">{html.escape(str(row.header.get("Modality", "JPEG")))} {html.escape(view)}</div>',
            unsafe_allow_html=True,
        )
        origin = parts.origin(row.model_digest, row.calibration_version, row.threshold_version)
        model.markdown(f'<div class="er-small">{html.escape(origin)}</div>', unsafe_allow_html=True)
        if row.alert_state == "open" and row.alert_id:
            if act.button("Acknowledge", key=f"ack-{row.alert_id}", type="primary", width="stretch"):
                try:
                    decisions.acknowledge(parts.database(), row.alert_id, parts.person())
                    st.rerun()
                except decisions.DecisionError as error:
                    act.warning(str(error))
        elif row.reviewed:
            act.markdown(f'<div class="er-small">reviewed: {row.reviewed}</div>', unsafe_allow_html=True)
        elif row.alert_state:
            act.markdown('<div class="er-small">acknowledged</div>', unsafe_allow_html=True)
        if look.button("Open", key=f"open-{row.image_id}", width="stretch"):
            st.session_state["image_id"] = row.image_id
            st.switch_page(st.session_state["pages"]["case"])
