"""Trends: volume, triage, risk distribution, and accuracy against reviews over time by model, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import parts
from dashboard.theme import MODELS, TRIAGE
from edgerad import figures
from edgerad.records import now
from edgerad.statistics import Share

SPANS = {  # how far back, the width of a bar of volume, and that of a point of accuracy, which needs more images
    "Last 10 minutes": (timedelta(minutes=10), timedelta(seconds=20), timedelta(minutes=2)),
    "Last hour": (timedelta(hours=1), timedelta(minutes=2), timedelta(minutes=10)),
    "Last day": (timedelta(days=1), timedelta(hours=1), timedelta(hours=4)),
    "Last 30 days": (timedelta(days=30), timedelta(days=1), timedelta(days=5)),
    "Last year": (timedelta(days=365), timedelta(days=14), timedelta(days=61)),
}
HEIGHT = 250
MEASURES = ("accuracy", "sensitivity", "specificity")
COLORS = alt.Scale(domain=[name for name, _ in TRIAGE.values()], range=[color for _, color in TRIAGE.values()])
BELOW = alt.Legend(orient="bottom", title=None, labelColor="#17212b")
CLOCK = {
    "milliseconds": "%H:%M:%S", "seconds": "%H:%M:%S", "minutes": "%H:%M", "hours": "%H:%M", "day": "%-d %b",
    "date": "%-d %b", "week": "%-d %b", "month": "%b %Y", "quarter": "%b %Y", "year": "%Y",
}  # fmt: skip
"""Times as a hospital writes them: 24 hours, the day before the month."""
QUIET = {"labelColor": "#55606b", "titleColor": "#55606b", "gridColor": "#e6e9ee", "domainColor": "#b8c0c9"}


def main() -> None:
    """Draw the page."""
    parts.page("Trends", _page)


def _page() -> None:
    if "trends_span" not in st.session_state:
        st.session_state["trends_span"] = _first_with_data()
    name = st.segmented_control("Span", list(SPANS), key="trends_span", label_visibility="collapsed") or "Last hour"
    length, span, wide = SPANS[name]
    start = now() - length
    seen = figures.trends(parts.database(), start, span)
    if not seen.volume:
        st.info("No assessments in this span. Choose a longer span, or wait for X-rays.")
        return
    for column, (title, chart) in zip(
        st.columns(3, gap="medium"),
        (("Volume", _volume(seen, span, False)), ("Triage", _volume(seen, span, True)), ("Risk", _risk(seen))),
        strict=True,
    ):
        column.subheader(title)
        column.altair_chart(chart, width="stretch")
    _accuracy(start, wide)


def _first_with_data() -> str:
    for name, (length, span, _) in list(SPANS.items())[1:]:
        if figures.trends(parts.database(), now() - length, span).volume:
            return name
    return "Last hour"


def _accuracy(start: datetime, wide: timedelta) -> None:
    st.subheader("Accuracy of the risk prediction")
    start = figures.aligned(start, wide)  # as the points are, so that the table counts what they show
    by_model = figures.accuracy(parts.database(), start)
    st.caption(
        "Compared with the newest reading of each image; readings of unsure are left out. A risk of 50 % or more "
        "counts as positive. Lines and brackets are 95 % intervals (Wilson). Readings are not a random sample: people "
        "read urgent images first."
    )
    if not by_model:
        st.info("No reviews in this span. The accuracy appears here once cases are confirmed or overruled.")
        return
    simulated = sum(row.simulated for row in by_model)
    if simulated:
        st.caption(f"{simulated} of these {sum(row.accuracy.trials for row in by_model)} reviews are simulated (demo).")
    scored = figures.accuracy(parts.database(), start, wide)
    order = list(dict.fromkeys(row.model_digest[:8] for row in scored))
    points = _points(scored, wide, order)
    for column, measure in zip(st.columns(3, gap="medium"), MEASURES, strict=True):
        column.markdown(f"**{measure.capitalize()}**")
        column.altair_chart(_shares(points[points["measure"] == measure], order, start), width="stretch")
    rows = [
        {"model": row.model_digest[:12], "reviews": row.accuracy.trials, "of them simulated": row.simulated}
        | {measure: _spoken(getattr(row, measure)) for measure in MEASURES}
        for row in sorted(by_model, key=lambda row: order.index(row.model_digest[:8]))
    ]
    parts.table(rows)


def _spoken(share: Share) -> str:
    if share.value is None:
        return "no cases"
    return f"{share.value:.1%}  ({share.low:.1%} to {share.high:.1%}), {share.successes} of {share.trials}"


def _volume(seen: figures.Trends, span: timedelta, as_shares: bool) -> Any:
    data = _stacked(seen.volume, as_shares)
    data["end"] = data["start"] + span * 0.9
    y = alt.Axis(format="%", tickCount=5, **QUIET) if as_shares else alt.Axis(tickMinStep=1, tickCount=5, **QUIET)
    return _bars(
        data,
        alt.X("start:T", title=None, axis=alt.Axis(format=CLOCK, tickCount=5, grid=False, **QUIET)),
        y,
        ["start:T", "triage:N", "images:Q"],
    )


def _risk(seen: figures.Trends) -> Any:
    data = _stacked(seen.risk, False)
    data["end"] = data["start"] + 0.92 / figures.RISK_BINS
    axis = alt.Axis(format="%", tickCount=5, grid=False, **QUIET)
    return _bars(
        data,
        alt.X("start:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=axis),
        alt.Axis(tickMinStep=1, tickCount=5, **QUIET),
        [alt.Tooltip("start:Q", format=".0%", title="risk from"), "triage:N", "images:Q"],
    )


def _stacked(counts: Sequence[tuple[Any, str, int]], as_shares: bool) -> pd.DataFrame:
    """Return counts with the lower and upper edge of each in its bar: low below unknown below high."""
    data = pd.DataFrame(counts, columns=["start", "triage", "images"])
    data["order"] = data["triage"].map({name: -index for index, name in enumerate(TRIAGE)})
    data = data.sort_values(["start", "order"])
    data["top"] = data.groupby("start")["images"].cumsum()
    data["bottom"] = data["top"] - data["images"]
    if as_shares:
        whole = data.groupby("start")["images"].transform("sum")
        data["top"], data["bottom"] = data["top"] / whole, data["bottom"] / whole
    data["triage"] = data["triage"].map(lambda name: TRIAGE[name][0])
    return data


def _bars(data: pd.DataFrame, x: Any, axis: Any, tooltip: list[Any]) -> Any:
    return (
        alt.Chart(data)
        .mark_rect()
        .encode(
            x=x,
            x2="end",
            y=alt.Y("bottom:Q", title=None, axis=axis, scale=alt.Scale(zero=True)),
            y2="top",
            color=alt.Color("triage:N", scale=COLORS, legend=BELOW),
            tooltip=tooltip,
        )
        .properties(height=HEIGHT)
    )


def _points(scored: list[figures.Accuracy], wide: timedelta, order: list[str]) -> pd.DataFrame:
    rows = []
    for row in scored:
        model = row.model_digest[:8]
        # Side by side within the span, so that the intervals of two models do not cover each other.
        at = min(row.start + wide * ((order.index(model) + 1) / (len(order) + 1)), now())
        for measure in MEASURES:
            share: Share = getattr(row, measure)
            if share.value is not None:
                rows.append((measure, at, model, share.value, share.low, share.high, share.trials))
    return pd.DataFrame(rows, columns=["measure", "time", "model", "value", "low", "high", "reviews"])


def _shares(data: pd.DataFrame, order: list[str], start: datetime) -> Any:
    colors = alt.Scale(domain=order, range=[MODELS[index % len(MODELS)] for index in range(len(order))])
    times = alt.Scale(domain=[start.isoformat(), now().isoformat()])
    base = alt.Chart(data).encode(
        x=alt.X("time:T", title=None, scale=times, axis=alt.Axis(format=CLOCK, tickCount=5, grid=False, **QUIET)),
        color=alt.Color("model:N", scale=colors, legend=BELOW),
    )
    scale, axis = alt.Scale(domain=[0, 1]), alt.Axis(format="%", tickCount=5, **QUIET)
    bars = base.mark_rule(strokeWidth=1.6, opacity=0.65).encode(
        y=alt.Y("low:Q", title=None, scale=scale, axis=axis), y2="high:Q"
    )
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=alt.Y("value:Q", title=None, scale=scale, axis=axis),
        shape=alt.Shape("model:N", scale=alt.Scale(domain=order), legend=BELOW),
        tooltip=[
            "time:T",
            "model:N",
            alt.Tooltip("value:Q", format=".1%"),
            alt.Tooltip("low:Q", format=".1%"),
            alt.Tooltip("high:Q", format=".1%"),
            "reviews:Q",
        ],
    )
    return (bars + points).properties(height=HEIGHT)
