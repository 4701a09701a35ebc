"""The dashboard's pages; launch.py serves them."""

from __future__ import annotations

import streamlit as st

from dashboard import case, label, operations, parts, quarantine, trends, worklist
from edgerad.settings import SettingsError


def main() -> None:
    """Draw the frame and the chosen page; each role sees the pages it has data for."""
    st.set_page_config(page_title="edgerad", layout="wide", initial_sidebar_state=230)
    if "Origin" in st.context.headers:
        # The door (launch.py) lets no Origin through, and a browser always sends one: Streamlit was started without it.
        st.error("Start the dashboard with `edgerad up` or `python -m dashboard.launch`: this way it is not protected.")
        return
    try:
        settings = parts.settings()
    except SettingsError as error:
        st.error(f"The settings are wrong. {parts.plain(error)}")
        return
    pages = {}
    if settings.is_edge:
        pages["worklist"] = st.Page(worklist.main, title="Worklist", url_path="worklist", default=True)
        pages["case"] = st.Page(case.main, title="Case", url_path="case")
    if settings.is_core:
        pages["label"] = st.Page(label.main, title="Label", url_path="label", default=not settings.is_edge)
    if settings.is_edge:
        pages["trends"] = st.Page(trends.main, title="Trends", url_path="trends")
        pages["quarantine"] = st.Page(quarantine.main, title="Quarantine", url_path="quarantine")
    pages["operations"] = st.Page(operations.main, title="Operations", url_path="operations")
    st.session_state["pages"] = pages
    page = st.navigation(list(pages.values()))
    parts.ask_person()
    page.run()


main()
