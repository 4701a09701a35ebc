"""Label: the core's queue, the most uncertain cases first; images without identity."""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard import parts, viewer
from edgerad import decisions, queries

CHOICES = (("positive", "Yes"), ("negative", "No"), ("unsure", "Cannot tell"))


def main() -> None:
    """Draw the page."""
    parts.page("Label", _page)


def _page() -> None:
    queue = queries.unlabelled(parts.database(), 1)
    if not queue:
        st.info("Nothing to label. Cases come from the edges: the uncertain ones, and a small random share.")
        return
    case = queue[0]
    left, right = st.columns((3, 2), gap="large")
    with left:
        viewer.show(parts.core_store(), case.object_key, None, case.case_id)
    with right:
        waiting = queries.count_unlabelled(parts.database())
        st.subheader(f"Does this X-ray show {case.finding}?")
        # The model's opinion is not shown before the label: it would become the expert's.
        for verdict, title in CHOICES:
            if st.button(title, key=f"{case.case_id}-{verdict}", width="stretch"):
                labelled = partial(decisions.label, parts.database(), case.case_id, verdict, parts.person())
                parts.decide(labelled, f"Recorded: {title.lower()}.", "This label was recorded before.")
        st.caption(
            f"{waiting} {'case waits' if waiting == 1 else 'cases wait'} for a label. This one came from "
            f"{case.edge_id} ({'an uncertain case' if case.why == 'unknown' else 'a random sample'}), "
            f"{parts.since(case.received_at)} ago."
        )
