"""What several pages use: the connections of this process, the person, and small pieces of a page."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import streamlit as st
from sqlalchemy.exc import SQLAlchemyError

from edgerad.database import Database
from edgerad.records import now
from edgerad.settings import Settings, load_settings
from edgerad.store import ObjectStore, config_from

TRIAGE = {"high": ("High", "#b3261e"), "unknown": ("Unknown", "#8a6100"), "low": ("Low", "#2c6e49")}
"""Class, its name and its colour: each at least 4.5 to 1 against white (WCAG 2.2, 1.4.3), and never colour alone."""

STYLE = """
<style>
  .block-container {padding: 1.6rem 2rem; max-width: 1500px}
  h1 {font-size: 1.6rem !important; padding: .2rem 0 .6rem !important}
  h2, h3 {font-size: 1.15rem !important}
  h4 {font-size: 1rem !important}
  [data-testid="stMetricValue"] {font-variant-numeric: tabular-nums}
  .er-tag {display: inline-block; padding: 0 .55em; border-radius: .25em; color: #fff; font-weight: 600;
           font-size: .85rem; line-height: 1.6rem}
  .er-risk {font-size: 1.5rem; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.1}
  .er-small {color: #55606b; font-size: .85rem}
  .er-name {font-weight: 600}
  footer, #MainMenu {visibility: hidden}
</style>
"""
CAVEAT = "Decision support for trained staff; not a medical device. Read every image yourself."


@st.cache_resource
def settings() -> Settings:
    """Return the settings of this process."""
    return load_settings()


@st.cache_resource
def database() -> Database:
    """Return the database of this process."""
    return Database(settings().database_url)


@st.cache_resource
def edge_store() -> ObjectStore:
    """Return the edge's object store."""
    return ObjectStore(config_from(settings().store))


@st.cache_resource
def core_store() -> ObjectStore:
    """Return the core's object store."""
    return ObjectStore(config_from(settings().core.store))


def refreshed(draw: Callable[..., None], *arguments: Any) -> None:
    """Draw a part of a page, and draw it again every `dashboard.refresh` seconds without the rest of the page."""
    st.fragment(draw, run_every=settings().dashboard.refresh)(*arguments)


def frame(title: str) -> None:
    """Begin a page."""
    st.markdown(STYLE, unsafe_allow_html=True)
    st.title(title)


def database_answers() -> bool:
    """Return whether the database answers and has its tables; says what to do when not."""
    from edgerad.queries import totals

    try:
        totals(database())
    except SQLAlchemyError as error:
        st.error(
            f"The database does not answer, or has no tables yet ({type(error).__name__}). "
            "Start edgerad with `edgerad up`; it makes the tables. This page tries again when you reload it."
        )
        return False
    return True


def person() -> str:
    """Return who sits here, as typed into the sidebar; kept for the session."""
    return str(st.session_state.get("person", "")).strip()


def ask_person() -> None:
    """Ask in the sidebar who sits here: decisions carry a name."""
    st.sidebar.text_input("Your name", key="person", placeholder="recorded with every decision", max_chars=64)
    st.sidebar.caption(CAVEAT)


def tag(triage: str) -> str:
    """Return the triage class as a coloured word."""
    name, color = TRIAGE[triage]
    return f'<span class="er-tag" style="background:{color}">{name}</span>'


def who(header: dict[str, Any], image_id: str) -> tuple[str, str]:
    """Return a patient's name and the rest of a line: id, sex, age; without a header the image's id."""
    # The first component group is the alphabetic one, the others are ideographic and phonetic (PS3.5 6.2.1).
    name = str(header.get("PatientName", "")).partition("=")[0].replace("^", " ").strip() or f"Image {image_id[:8]}"
    facts = [str(header.get("PatientID", "")), str(header.get("PatientSex", "")), age(header)]
    return name, " · ".join(fact for fact in facts if fact) or "no patient data in the file"


def age(header: dict[str, Any]) -> str:
    """Return the age at the study, in years, or months below two years, from PatientBirthDate and StudyDate."""
    try:
        born = datetime.strptime(str(header["PatientBirthDate"]), "%Y%m%d").date()  # noqa: DTZ007 - a date
        seen = datetime.strptime(str(header["StudyDate"]), "%Y%m%d").date()  # noqa: DTZ007
    except (KeyError, ValueError):
        return ""
    months = (seen.year - born.year) * 12 + seen.month - born.month - (seen.day < born.day)
    return f"{months // 12} y" if months >= 24 else f"{max(months, 0)} mo"


def since(at: datetime) -> str:
    """Return how long ago something was, for people."""
    seconds = max((now() - at).total_seconds(), 0)
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} d"


def origin(model: str, calibration: str, threshold: str) -> str:
    """Return what a probability comes from: it is never shown without."""
    return f"model {model[:12]} · calibration {calibration} · thresholds {threshold}"
