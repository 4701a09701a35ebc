"""Operations: what waits, what runs, what failed, which model is in service."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard import parts
from edgerad import queries
from edgerad.records import now

STALE_AFTER = 60.0


def main() -> None:
    """Draw the page."""
    parts.frame("Operations")
    if parts.database_answers():
        parts.refreshed(_live)


def _live() -> None:
    seen = queries.operations(parts.database())
    figures = {row.component: row.data for row in seen.components}
    lag = sum(int(data.get("lag") or 0) for name, data in figures.items() if name.startswith(("ingest", "sweep")))
    backlog = sum(seen.shipments.get(state, 0) for state in queries.OPEN_SHIPMENTS)
    oldest = f"oldest {parts.since(seen.oldest_shipment)}" if seen.oldest_shipment else "none waits"
    cells: list[tuple[str, Any, str]] = [
        ("Ingest lag", lag, "records not yet taken in"),
        ("Pending", seen.images.get("pending", 0), "images without an end state"),
        ("Replicas", figures.get("rollout", {}).get("replicas", "?"), "serving now"),
        ("Shipping backlog", backlog, oldest),
        ("Dead letters", sum(seen.dead_letters.values()), "mend the cause, then `edgerad replay`"),
        ("Outbox", seen.outbox, "events not yet published"),
    ]
    for column, (name, value, note) in zip(st.columns(len(cells)), cells, strict=True):
        column.metric(name, value)
        column.caption(note)
    left, right = st.columns(2, gap="large")
    with left:
        _components(seen)
        _counts("Images", seen.images)
        _counts("Shipments", seen.shipments)
        _counts("Dead letters by reason", seen.dead_letters)
    with right:
        _models(seen)


def _components(seen: queries.Operations) -> None:
    st.subheader("Components")
    rows = []
    for row in seen.components:
        ago = (now() - row.at).total_seconds()
        rows.append(
            {
                "component": row.component,
                "state": "silent" if ago > STALE_AFTER else "alive",
                "last seen": f"{parts.since(row.at)} ago",
                "figures": ", ".join(f"{name} {value}" for name, value in row.data.items() if value is not None),
            }
        )
    st.dataframe(rows, hide_index=True)


def _counts(title: str, counts: dict[str, int]) -> None:
    st.subheader(title)
    if counts:
        st.dataframe([{"state": name, "count": number} for name, number in sorted(counts.items())], hide_index=True)
    else:
        st.caption("none")


def _models(seen: queries.Operations) -> None:
    st.subheader("Model in service")
    serving = next((row for row in seen.rollouts if row.state == "serving"), None)
    if serving:
        st.markdown(f"`{serving.model_digest[:16]}` since {serving.at:%Y-%m-%d %H:%M} UTC: {serving.reason}")
    else:
        st.caption("none yet")
    st.subheader("Rollouts")
    st.dataframe(
        [
            {
                "at": row.at,
                "edge": row.edge_id,
                "model": row.model_digest[:12],
                "state": row.state,
                "swap, s": row.seconds,
                "reason": row.reason,
            }
            for row in seen.rollouts
        ],
        hide_index=True,
    )
    st.subheader("Registry")
    st.dataframe(
        [
            {"model": row.model_digest[:12], "state": row.state, "decided": row.decided_at, "reason": row.reason}
            for row in seen.models
        ],
        hide_index=True,
    )
    st.subheader("Training runs")
    st.dataframe(
        [
            {"started": row.started_at, "state": row.state, "cases": row.cases, "finished": row.finished_at}
            for row in seen.runs
        ],
        hide_index=True,
    )
