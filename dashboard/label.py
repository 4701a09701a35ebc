"""Label: the core's queue, the most uncertain cases first; images without identity, answered by single keys."""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard import parts, viewer
from edgerad import decisions, queries
from edgerad.records import CoreCase

CHOICES = (("positive", "Yes", "Y"), ("negative", "No", "N"), ("unsure", "Cannot tell", "U"))
"""Verdict, its button, its key; Streamlit reserves C and R."""
BACK_KEY = "B"


def main() -> None:
    """Draw the page."""
    parts.page("Label", _page)


def _page() -> None:
    again = st.session_state.get("label_again")
    case = queries.core_case(parts.database(), again) if again else None
    waiting = queries.count_unlabelled(parts.database())
    if case is None:
        case = next(iter(queries.unlabelled(parts.database(), 1, parts.start("label", waiting, 1))), None)
    if case is None:
        st.info("Nothing to label. The edges send uncertain cases and a small random share of the others.")
        _back()
        return
    left, right = st.columns((3, 2), gap="large")
    with left:
        viewer.show(parts.core_store(), case.object_key, None, case.case_id)
    with right:
        _ask(case, waiting, again=again is not None)


def _ask(case: CoreCase, waiting: int, *, again: bool) -> None:
    st.subheader(f"Does this X-ray show {parts.plain(case.finding)}?")
    # Nothing that the model thinks is shown, nor why the case was sent: it would become the expert's opinion.
    if again:
        st.caption("You have labelled this case before. The newest label counts.")
    for verdict, title, key in CHOICES:
        if st.button(title, key=f"{case.case_id}-{verdict}", shortcut=key, width="stretch"):
            labelled = partial(_label, case.case_id, verdict)
            parts.decide(labelled, f"Recorded: {title.lower()}.", "This label was already recorded.")
    _back()
    if not again:
        parts.pager("label", waiting, 1)
    st.caption(
        f"{waiting} {'case waits' if waiting == 1 else 'cases wait'} for a label. This one came from "
        f"{parts.plain(case.edge_id)}, {parts.since(case.received_at)} ago."
    )


def _label(case_id: str, verdict: str) -> bool:
    new = decisions.label(parts.database(), case_id, verdict, parts.person())
    done: list[str] = st.session_state.setdefault("labelled", [])
    st.session_state["labelled"] = [*(other for other in done if other != case_id), case_id]
    st.session_state["label_again"] = None
    return new


def _back() -> None:
    """Offer the case that was labelled before the one shown, to correct a label."""
    done: list[str] = st.session_state.get("labelled", [])
    shown = st.session_state.get("label_again")
    before = done[: done.index(shown)] if shown in done else done
    if before and st.button("Back to the case before", key="label-back", shortcut=BACK_KEY, type="tertiary"):
        st.session_state["label_again"] = before[-1]
        st.rerun()
