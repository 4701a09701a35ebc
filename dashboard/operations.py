"""Operations: what waits, what runs, what failed, which model is in service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from dashboard import parts
from edgerad import listing, queries
from edgerad.drift import LEAST, Drift
from edgerad.listing import Row
from edgerad.records import Model, Rollout, SiteCalibration, TrainingRun, now

STALE_AFTER = 60.0
ROWS = 10
"""Rows of a table on one page."""


def main() -> None:
    """Draw the page."""
    parts.page("Operations", lambda: parts.refreshed(_live))


def _live() -> None:
    seen = queries.operations(parts.database())
    figures = {row.component: row.data for row in seen.components}
    lag = sum(int(data.get("lag") or 0) for name, data in figures.items() if name.startswith(("ingest", "sweep")))
    backlog = sum(seen.shipments.get(state, 0) for state in queries.OPEN_SHIPMENTS)
    cells: list[tuple[str, Any, str]] = [
        ("Ingest lag", lag, "records not yet read"),
        ("Pending", seen.images.get("pending", 0), _oldest(seen.oldest_pending)),
        ("Replicas", figures.get("rollout", {}).get("replicas", "–"), "serving now"),
        ("Shipping backlog", backlog, _oldest(seen.oldest_shipment)),
        (
            "Dead letters",
            sum(seen.dead_letters.values()),
            "`edgerad replay` tries again" if seen.dead_letters else "none",
        ),
        ("Outbox", seen.outbox, "not yet published"),
        ("Open alerts", seen.alerts_open, "not acknowledged"),
        ("Drift", *_drift(seen.drift)),
    ]
    for column, (name, value, note) in zip(st.columns(len(cells)), cells, strict=True):
        column.metric(name, value)
        column.caption(note)
    _scoring(figures.get("rollout", {}))
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


def _scoring(rollout: dict[str, Any]) -> None:
    """Say loudly when no model scores, or another one than should, and why."""
    trouble = parts.plain(rollout.get("trouble") or "")
    if not trouble:
        return
    if rollout.get("model") is None:
        st.error(f"No model serves, so no image is scored: they wait. Cause: {trouble}.")
    else:
        st.warning(f"Another model serves than should. Cause: {trouble}.")


def _shipping(shipper: dict[str, Any]) -> None:
    """Warn when the shipping backlog is over the limits of the settings, and name what prevents shipping."""
    trouble = parts.plain(shipper.get("trouble") or "")
    cause = f" Cause: {trouble}." if trouble else ""
    if shipper.get("over_limit"):
        st.warning(
            f"Shipping is behind: more waits, or for longer, than ship.warn_backlog and ship.warn_age allow.{cause}"
        )
    elif trouble:
        st.info(f"Shipping waits.{cause}")


def _oldest(at: Any) -> str:
    return f"the oldest waits {parts.since(at)}" if at else "none waits"


def _components(seen: queries.Operations) -> list[dict[str, Any]]:
    rows = []
    for row in seen.components:
        silent = abs((now() - row.at).total_seconds()) > STALE_AFTER  # in the future: the clock was ahead
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
    lines = [
        f"Model {row.model_digest[:16]} for {row.finding} at {row.edge_id}, {row.state} since "
        f"{parts.local(row.at, '%Y-%m-%d %H:%M')}" + (f" ({row.reason})" if row.reason else "")
        for row in seen.serving
    ]
    st.html("".join(f"<div>{parts.escaped(line)}</div>" for line in lines or ["none yet"]))
    _paged("Rollouts", Rollout, _rollout)
    _paged("Calibrations of this site", SiteCalibration, _calibration)
    _paged("Registry", Model, _model)
    _paged("Training runs", TrainingRun, _run)


def _rollout(row: Rollout) -> dict[str, Any]:
    return {
        "at": parts.local(row.at),
        "model": row.model_digest[:12],
        "state": row.state,
        "swap": parts.lasted(row.seconds) if row.seconds is not None else None,
        "edge": row.edge_id,
        "reason": row.reason,
    }


def _calibration(row: SiteCalibration) -> dict[str, Any]:
    return {
        "at": parts.local(row.at),
        "version": row.version,
        "model": row.model_digest[:12],
        "readings": row.readings or None,
        "slope": None if row.a is None else f"{row.a:.2f}",
        "offset": None if row.b is None else f"{row.b:+.2f}",
        "by": row.decided_by,
        "reason": row.reason,
    }


def _model(row: Model) -> dict[str, Any]:
    return {
        "model": row.model_digest[:12],
        "state": row.state,
        "decided": parts.local(row.decided_at) if row.decided_at else None,
        "reason": row.reason,
    }


def _run(row: TrainingRun) -> dict[str, Any]:
    return {
        "started": parts.local(row.started_at),
        "state": row.state,
        "cases": row.cases,
        "candidate": (row.candidate_digest or "–")[:12],
        "took": parts.lasted((row.finished_at - row.started_at).total_seconds()) if row.finished_at else None,
        "outcome": row.error or row.progress.get("decision", ""),
    }


def _paged(title: str, kind: type[Row], shown: Callable[[Row], dict[str, Any]]) -> None:
    """Draw a page of a table of the database, the newest rows first."""
    name, total = kind.__tablename__, listing.count(parts.database(), kind)
    rows = listing.newest(parts.database(), kind, ROWS, parts.start(name, total, ROWS))
    _table(title, [shown(row) for row in rows])
    parts.pager(name, total, ROWS)


def _table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    st.subheader(title)
    parts.table(rows)
