"""Trends: volume, risk distribution, and accuracy against reviews over time by model, with intervals."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import parts
from edgerad import queries
from edgerad.records import now

SPANS = {  # how far back, the width of a bar of volume, and that of a point of accuracy, which needs more images
    "Last 10 minutes": (timedelta(minutes=10), timedelta(seconds=20), timedelta(minutes=2)),
    "Last hour": (timedelta(hours=1), timedelta(minutes=2), timedelta(minutes=10)),
    "Last day": (timedelta(days=1), timedelta(hours=1), timedelta(hours=4)),
    "Last 30 days": (timedelta(days=30), timedelta(days=1), timedelta(days=5)),
    "Last year": (timedelta(days=365), timedelta(days=14), timedelta(days=61)),
}
COLORS = alt.Scale(domain=list(parts.TRIAGE), range=[color for _, color in parts.TRIAGE.values()])
MODELS = ["#0b5cad", "#8a3ffc", "#007d79", "#9f1853"]


def main() -> None:
    """Draw the page."""
    parts.frame("Trends")
    if not parts.database_answers():
        return
    name = st.segmented_control("Span", list(SPANS), default="Last hour", label_visibility="collapsed") or "Last hour"
    length, span, wide = SPANS[name]
    since = now() - length
    rows = queries.volume(parts.database(), since)
    if not rows:
        st.info("No assessments in this span. Choose a longer one, or wait for X-rays.")
        return
    data = pd.DataFrame(rows, columns=["time", "triage", "probability", "model"])
    data["model"] = data["model"].str[:8]
    left, right = st.columns(2, gap="large")
    left.subheader("Volume")
    left.altair_chart(_volume(data, span), width="stretch")
    right.subheader("Risk")
    right.altair_chart(_risk(data), width="stretch")
    st.subheader("Accuracy of the risk prediction")
    st.caption(
        "Against the newest review of each image, positive from 50 % risk; bars are 95 % intervals (Wilson). "
        "Reviews are not a random sample: staff look at what is urgent."
    )
    scored = queries.accuracy(parts.database(), since, wide)
    if not scored:
        st.info("No reviews in this span. Confirm or overrule cases, and the accuracy appears here.")
        return
    simulated = sum(row.simulated for row in scored)
    if simulated:
        st.caption(f"{simulated} of these reviews are simulated (demo).")
    for column, measure in zip(st.columns(3), ("accuracy", "sensitivity", "specificity"), strict=True):
        column.markdown(f"**{measure.capitalize()}**")
        column.altair_chart(_shares(scored, measure), width="stretch")


def _volume(data: pd.DataFrame, span: timedelta) -> Any:
    binned = data.assign(time=data["time"].dt.floor(pd.Timedelta(span)))
    counted = binned.groupby(["time", "triage"], as_index=False).size()
    return (
        alt.Chart(counted)
        .mark_bar()
        .encode(
            x=alt.X("time:T", title=None),
            y=alt.Y("size:Q", title="images"),
            color=alt.Color("triage:N", scale=COLORS, title=None),
            order=alt.Order("triage:N"),
            tooltip=["time:T", "triage:N", "size:Q"],
        )
        .properties(height=260)
    )


def _risk(data: pd.DataFrame) -> Any:
    return (
        alt.Chart(data)
        .mark_bar()
        .encode(
            x=alt.X("probability:Q", bin=alt.Bin(step=0.05, extent=[0, 1]), title="risk", axis=alt.Axis(format="%")),
            y=alt.Y("count():Q", title="images"),
            color=alt.Color("triage:N", scale=COLORS, title=None),
            tooltip=["count():Q"],
        )
        .properties(height=260)
    )


def _shares(scored: list[queries.Accuracy], measure: str) -> Any:
    rows = []
    for row in scored:
        share = getattr(row, measure)
        if share.value is not None:
            rows.append(
                {
                    "time": row.start,
                    "model": row.model_digest[:8],
                    "value": share.value,
                    "low": share.low,
                    "high": share.high,
                    "reviews": share.trials,
                }
            )
    data = pd.DataFrame(rows, columns=["time", "model", "value", "low", "high", "reviews"])
    base = alt.Chart(data).encode(
        x=alt.X("time:T", title=None), color=alt.Color("model:N", title="model", scale=alt.Scale(range=MODELS))
    )
    axis = alt.Axis(format="%")
    bars = base.mark_rule(strokeWidth=1.5, opacity=0.6).encode(
        y=alt.Y("low:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=axis), y2="high:Q"
    )
    points = base.mark_point(filled=True, size=55).encode(
        y=alt.Y("value:Q", scale=alt.Scale(domain=[0, 1])),
        tooltip=["time:T", "model:N", alt.Tooltip("value:Q", format=".1%"), "reviews:Q"],
    )
    return (bars + points).properties(height=240)
