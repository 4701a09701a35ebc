"""Operations: what waits, what runs, what failed, which model is in service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from dashboard import parts
from edgerad import queries
from edgerad.drift import LEAST, Drift
from edgerad.records import now

STALE_AFTER = 60.0


def main() -> None:
    """Draw the page."""
    parts.page("Operations", lambda: parts.refreshed(_live))


def _live() -> None:
    seen = queries.operations(parts.database())
    figures = {row.component: row.data for row in seen.components}
    lag = sum(int(data.get("lag") or 0) for name, data in figures.items() if name.startswith(("ingest", "sweep")))
    backlog = sum(seen.shipments.get(state, 0) for state in queries.OPEN_SHIPMENTS)
    cells: list[tuple[str, Any, str]] = [
        ("Ingest lag", lag, "records not taken in"),
        ("Pending", seen.images.get("pending", 0), _oldest(seen.oldest_pending)),
        ("Replicas", figures.get("rollout", {}).get("replicas", "–"), "serving now"),
        ("Shipping backlog", backlog, _oldest(seen.oldest_shipment)),
        ("Dead letters", sum(seen.dead_letters.values()), "`edgerad replay`" if seen.dead_letters else "none"),
        ("Outbox", seen.outbox, "not yet published"),
        ("Open alerts", seen.alerts_open, "not acknowledged"),
        ("Drift", *_drift(seen.drift)),
    ]
    for column, (name, value, note) in zip(st.columns(len(cells)), cells, strict=True):
        column.metric(name, value)
        column.caption(note)
    _shipping(figures.get("shipper", {}))
    left, right = st.columns(2, gap="large")
    with left:
        _table("Components", _components(seen))
        counts = [("images", seen.images), ("shipments", seen.shipments), ("dead letters", seen.dead_letters)]
        rows = [
            {"what": what, "state or reason": name, "count": number}
            for what, by in counts
            for name, number in sorted(by.items())
        ]
        _table("Counts", rows)
    with right:
        _models(seen)


def _drift(drift: Drift) -> tuple[str, str]:
    if drift.score is None:
        return "–", f"{LEAST - drift.images} more images needed"
    said = "**unlike the training images**" if drift.is_flagged else "like the training images"
    return f"{drift.score:.2f}", said


def _shipping(shipper: dict[str, Any]) -> None:
    """Warn of a shipping backlog beyond the limits of the settings, and say what hinders."""
    trouble = shipper.get("trouble")
    hindered = f" What hinders it: {trouble}." if trouble else ""
    if shipper.get("over_limit"):
        st.warning(f"Shipping is behind: its backlog or age is over its limit (ship.warn_backlog, warn_age).{hindered}")
    elif trouble:
        st.info(f"Shipping waits.{hindered}")


def _oldest(at: Any) -> str:
    return f"oldest {parts.since(at)}" if at else "none waits"


def _components(seen: queries.Operations) -> list[dict[str, Any]]:
    rows = []
    for row in seen.components:
        silent = (now() - row.at).total_seconds() > STALE_AFTER
        figures = ", ".join(f"{name} {str(value)[:12]}" for name, value in row.data.items() if value is not None)
        rows.append(
            {
                "component": row.component,
                "state": "silent" if silent else "alive",
                "last seen": f"{parts.since(row.at)} ago",
                "figures": figures,
            }
        )
    return rows


def _models(seen: queries.Operations) -> None:
    st.subheader("Model in service")
    serving = {}
    for row in reversed(seen.rollouts):
        if row.state == "serving":
            serving[row.edge_id, row.finding] = row
    for (edge, finding), row in sorted(serving.items()):
        st.markdown(
            f"`{row.model_digest[:16]}` for {finding} at {edge} since {parts.local(row.at, '%Y-%m-%d %H:%M')}"
            + (f" ({row.reason})" if row.reason else "")
        )
    if not serving:
        st.caption("none yet")
    _table(
        "Rollouts",
        [
            {
                "at": parts.local(row.at),
                "model": row.model_digest[:12],
                "state": row.state,
                "swap": parts.lasted(row.seconds) if row.seconds is not None else None,
                "edge": row.edge_id,
                "reason": row.reason,
            }
            for row in seen.rollouts
        ],
    )
    _table(
        "Calibrations of this site",
        [
            {
                "at": parts.local(row.at),
                "version": row.version,
                "model": row.model_digest[:12],
                "readings": row.readings or None,
                "slope": None if row.a is None else f"{row.a:.2f}",
                "offset": None if row.b is None else f"{row.b:+.2f}",
                "by": row.decided_by,
                "reason": row.reason,
            }
            for row in seen.calibrations
        ],
    )
    _table(
        "Registry",
        [
            {
                "model": row.model_digest[:12],
                "state": row.state,
                "decided": parts.local(row.decided_at) if row.decided_at else None,
                "reason": row.reason,
            }
            for row in seen.models
        ],
    )
    _table(
        "Training runs",
        [
            {
                "started": parts.local(row.started_at),
                "state": row.state,
                "cases": row.cases,
                "candidate": (row.candidate_digest or "–")[:12],
                "took": parts.lasted((row.finished_at - row.started_at).total_seconds()) if row.finished_at else None,
                "outcome": row.error or row.progress.get("decision", ""),
            }
            for row in seen.runs
        ],
    )


def _table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    st.subheader(title)
    parts.table(rows)
