"""What several pages use: the connections of this process, the person, and small pieces of a page."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st
from sqlalchemy.exc import SQLAlchemyError

from dashboard.theme import CAVEAT, STYLE, TRIAGE
from edgerad import decisions, queries
from edgerad.database import Database
from edgerad.decisions import NAME_LIMIT, DecisionError
from edgerad.records import now
from edgerad.settings import Settings, load_settings
from edgerad.store import ObjectStore, config_from

PAGE = 25
"""Rows of a list on one page."""


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
    """Draw a part of a page, and draw it again every `dashboard.refresh` seconds (0: never) without the rest of it."""
    st.fragment(draw, run_every=settings().dashboard.refresh or None)(*arguments)


def page(title: str, draw: Callable[[], None]) -> None:
    """Draw a page in its frame; where the database does not answer, say what to do in its place."""
    st.html(STYLE)
    st.title(title)
    if said := st.session_state.pop("said", None):
        st.toast(said)
    if database_answers():
        draw()
    st.html(f'<div class="er-caveat">{CAVEAT}</div>')


def database_answers() -> bool:
    """Return whether the database answers and has its tables; says what to do when not."""
    try:
        queries.totals(database())
    except SQLAlchemyError as error:
        st.error(
            f"The database does not answer, or has no tables yet ({type(error).__name__}). "
            "Start edgerad with `edgerad up`, which makes the tables, or correct the setting `database.url`; "
            "then reload this page."
        )
        return False
    return True


def person() -> str:
    """Return who sits here, as typed into the sidebar; kept for the session."""
    return str(st.session_state.get("person", "")).strip()


def ask_person() -> None:
    """Ask in the sidebar who sits here: decisions carry a name."""
    st.sidebar.text_input("Your name", key="person", placeholder="Recorded with decisions", max_chars=NAME_LIMIT)


def decide(decision: Callable[[], bool], done: str, repeated: str, place: Any = st) -> None:
    """Take a decision and draw the page again; what is missing for it is said at `place`.

    `done` and `repeated` are Markdown texts: for a new decision, and for one that somebody had already made.
    """
    try:
        st.session_state["said"] = done if decision() else repeated
    except DecisionError as error:
        place.warning(str(error)[:1].upper() + str(error)[1:] + ".")
    else:
        st.rerun()


def withdraw(alert_id: str, seen: datetime) -> None:
    """Ask for the reason to withdraw an acknowledgement, given at `seen`, and withdraw it."""
    # The keys name the acknowledgement: a click that was meant for one never withdraws a later one.
    which = f"{alert_id}-{seen.timestamp()}"
    reason = st.text_input("Reason for undoing it", key=f"reason-{which}", max_chars=500)
    if st.button("Open the alert again", key=f"withdraw-{which}"):
        decide(
            lambda: decisions.withdraw_acknowledgement(database(), alert_id, person(), reason, seen=seen),
            "The alert is open again.",
            "Somebody else has already changed this alert.",
        )


def tag(triage: str) -> str:
    """Return the triage class as a coloured word."""
    name, color = TRIAGE[triage]
    return f'<span class="er-tag" style="background:{color}">{name}</span>'


def percent(probability: float) -> str:
    """Return a risk as whole per cent; neither certainty is ever claimed by rounding."""
    if probability >= 0.995:
        return ">99%"
    return "<1%" if probability < 0.005 else f"{probability:.0%}"


def who(header: dict[str, Any], image_id: str) -> tuple[str, str]:
    """Return a patient's name and the rest of a line: id, sex, age; without a name the image's id."""
    facts = [str(header.get("PatientID", "")), str(header.get("PatientSex", "")), age(header)]
    return (
        name(str(header.get("PatientName", ""))) or f"Image {image_id[:8]}",
        " · ".join(fact for fact in facts if fact) or "no patient ID in the file",
    )


def name(value: str) -> str:
    """Return a person name (DICOM PS3.5 6.2.1.1) as `family, given`; empty when it holds none.

    A value has up to three groups, divided by `=`: alphabetic, ideographic, phonetic. The first that holds a name is
    shown. A group has up to five components, divided by `^`: family name, given name, middle name, prefix, suffix.
    """
    for group in value.split("="):
        family, _, given = group.partition("^")
        spoken = [" ".join(part.replace("^", " ").split()) for part in (family, given)]
        if any(spoken):
            return ", ".join(part for part in spoken if part)
    return ""


def study(header: dict[str, Any]) -> str:
    """Return what was taken and when, by the file's header: modality, view, date and time of the study."""
    date, time = str(header.get("StudyDate", "")), str(header.get("StudyTime", ""))
    if len(date) == 8 and date.isdigit():
        date = f"{date[:4]}-{date[4:6]}-{date[6:]}"
    time = f"{time[:2]}:{time[2:4]}" if time[:4].isdigit() and len(time) >= 4 else ""
    kind = f"{header.get('Modality', '')} {header.get('ViewPosition', '')}".strip()
    return " · ".join(part for part in (kind, f"{date} {time}".strip()) if part) or "no study data in the file"


def age(header: dict[str, Any]) -> str:
    """Return the age at the study, in years, or months below two years, from PatientBirthDate and StudyDate."""
    try:
        born = datetime.strptime(str(header["PatientBirthDate"]), "%Y%m%d").date()  # noqa: DTZ007 - a date
        seen = datetime.strptime(str(header["StudyDate"]), "%Y%m%d").date()  # noqa: DTZ007
    except (KeyError, ValueError):
        return ""
    months = (seen.year - born.year) * 12 + seen.month - born.month - (seen.day < born.day)
    if months < 0:
        return ""
    return f"{months // 12} y" if months >= 24 else f"{months} mo"


def since(at: datetime) -> str:
    """Return how long ago something was, for people."""
    seconds = max((now() - at).total_seconds(), 0)
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} d"


def local(at: datetime, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Return a time as a clock in the viewer's room shows it; UTC, and said so, where the browser does not tell."""
    try:
        zone = ZoneInfo(st.context.timezone or "")
    except (ZoneInfoNotFoundError, ValueError):
        return f"{at:{form}} UTC"
    return f"{at.astimezone(zone):{form}}"


def open_for(opened_at: datetime, level: int) -> str:
    """Return how long an alert has been open and how often it was escalated."""
    times = {0: "", 1: ", escalated once", 2: ", escalated twice"}.get(level, f", escalated {level} times")
    return f"open for {since(opened_at)}{times}"


def origin(model: str, calibration: str, threshold: str) -> str:
    """Return what a probability comes from: it is never shown without."""
    return f"model {model[:12]} · calibration {calibration} · thresholds {threshold}"


def escaped(text: object) -> str:
    """Return text as HTML: what people typed and what files hold is never markup."""
    return html.escape(str(text))


def plain(text: object) -> str:
    """Return text as Markdown that shows it as it is, for all elements that render Markdown: labels, captions, boxes.

    Every punctuation character is escaped (CommonMark 2.4). Streamlit also looks for addresses, emoji codes, icons and
    arrows in the text that results; an invisible character (U+2060, word joiner) keeps it from finding any.
    """
    line = " ".join(str(text).split())
    return re.sub(r"[!-/:-@\[-`{-~]", r"\\\g<0>", re.sub(r"(?i)[:@<>~]|-(?=[->])|www(?=\.)", "\\g<0>\u2060", line))


def start(name: str, total: int, size: int = PAGE) -> int:
    """Return at which row the page of the list `name` starts; the last page where the list has become shorter."""
    last = max(0, (total - 1) // size * size)
    return min(int(st.session_state.get(f"start-{name}", 0)), last)


def pager(name: str, total: int, size: int = PAGE) -> None:
    """Draw which rows of a list are shown, and buttons to the page before and after; nothing when there is one page."""
    first = start(name, total, size)
    if total <= size:
        return
    with st.container(horizontal=True, vertical_alignment="center", key=f"pager-{name}"):
        for title, to in (("Previous", first - size), ("Next", first + size)):
            st.button(
                title,
                key=f"{name}-{title.lower()}",
                disabled=not 0 <= to < total,
                on_click=turn,
                args=(name, max(0, to)),
            )
        st.html(f'<div class="er-small">{first + 1} to {min(first + size, total)} of {total}</div>')


def turn(name: str, to: int = 0) -> None:
    """Let the page of the list `name` start at a row."""
    st.session_state[f"start-{name}"] = to


def table(rows: Sequence[Mapping[str, object]]) -> None:
    """Draw rows as a table whose text wraps."""
    if not rows:
        st.caption("none yet")
        return
    head = "".join(f"<th>{escaped(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escaped('–' if value is None else value)}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    st.html(f'<div class="er-scroll"><table class="er-table"><tr>{head}</tr>{body}</table></div>')


def lasted(seconds: float) -> str:
    """Return a length of time for people."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
