"""Label: the core's queue, the most uncertain cases first; images without identity."""

from __future__ import annotations

import streamlit as st

from dashboard import parts
from edgerad import decisions, queries
from edgerad.display import NotDisplayable, Picture, picture
from edgerad.store import StoreError


@st.cache_data(max_entries=8, show_spinner="Fetching the image")
def _picture(key: str) -> Picture:
    return picture(parts.core_store().get(key, limit_bytes=256 * 2**20))


def main() -> None:
    """Draw the page."""
    parts.frame("Label")
    if not parts.database_answers():
        return
    queue = queries.unlabelled(parts.database())
    if not queue:
        st.info("Nothing to label. Cases come from the edges: the uncertain ones, and a small random share.")
        return
    case = queue[0]
    st.caption(f"{len(queue)} or more cases wait; this one is {case.why} from {case.edge_id}")
    left, right = st.columns((3, 2), gap="large")
    try:
        shown = _picture(case.object_key)
        left.image(shown.window((shown.low + shown.high) / 2, shown.high - shown.low), width="stretch", clamp=True)
    except (NotDisplayable, StoreError) as error:
        left.warning(f"The image cannot be shown: {error}")
    right.markdown(f"### {case.finding.capitalize()}?")
    # The model's opinion is not shown before the label: it would become the expert's.
    for verdict, title in (("positive", "Yes"), ("negative", "No"), ("unsure", "Cannot tell")):
        if right.button(title, key=f"{case.case_id}-{verdict}", width="stretch"):
            try:
                decisions.label(parts.database(), case.case_id, verdict, parts.person())
                st.rerun()
            except decisions.DecisionError as error:
                right.warning(str(error))
