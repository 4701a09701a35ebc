"""The dashboard: `streamlit run dashboard/app.py`; see launch.py for how edgerad starts it."""

from __future__ import annotations

import streamlit as st

from dashboard import case, label, operations, parts, trends, worklist


def main() -> None:
    """Draw the frame and the chosen page; each role sees the pages it has data for."""
    st.set_page_config(page_title="edgerad", layout="wide", initial_sidebar_state="expanded")
    pages = {
        "worklist": st.Page(worklist.main, title="Worklist", url_path="worklist", default=True),
        "case": st.Page(case.main, title="Case", url_path="case"),
        "label": st.Page(label.main, title="Label", url_path="label"),
        "trends": st.Page(trends.main, title="Trends", url_path="trends"),
        "operations": st.Page(operations.main, title="Operations", url_path="operations"),
    }
    settings = parts.settings()
    if not settings.is_core:
        del pages["label"]
    if not settings.is_edge:
        pages = {
            "label": st.Page(label.main, title="Label", url_path="label", default=True),
            "operations": pages["operations"],
        }
    st.session_state["pages"] = pages
    page = st.navigation(list(pages.values()))
    parts.ask_person()
    page.run()


main()
