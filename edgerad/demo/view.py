"""How the demo shows its progress: a live table on a terminal, a line per change elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from edgerad.demo.run import Demo


class View(Protocol):
    """Shows a demo; a context."""

    def __enter__(self) -> Callable[[Demo], None]:
        """Begin showing; returns what is called with every change."""
        ...

    def __exit__(self, *_: object) -> None:
        """End showing."""
        ...


def facts(demo: Demo) -> list[tuple[str, str]]:
    """Return what is worth knowing about the run right now, as name and value."""
    seen = demo.counts
    elapsed = max(demo.seconds, 0.001)
    return [
        ("phase", demo.phase),
        ("received", f"{seen.received} of {len(demo.fed)} sent"),
        ("scored", f"{seen.scored}  ({seen.scored / elapsed:.1f} images/s since the start)"),
        ("high / unknown / low", " / ".join(str(seen.triage.get(name, 0)) for name in ("high", "unknown", "low"))),
        ("not assessable", str(seen.states.get("quarantined", 0))),
        ("queue", str(seen.waiting)),
        ("replicas", str(seen.replicas)),
        ("alerts", f"{seen.alerts.get('open', 0)} open, {seen.alerts.get('acknowledged', 0)} acknowledged"),
        ("shipments", ", ".join(f"{number} {state}" for state, number in sorted(seen.shipments.items())) or "none"),
        ("at the core", f"{seen.cases} cases, {seen.labels} labelled by the simulated expert"),
        ("training", seen.training),
        ("models served", ", then ".join(digest[:12] for digest in seen.models) or "none yet"),
        *demo.addresses.items(),
        ("time", f"{demo.seconds:.0f} s"),
    ]


class LiveView:
    """A table that is drawn again with every change."""

    def __init__(self) -> None:
        """Draw on standard error, so that standard output stays for the summary."""
        self._live = Live(console=Console(stderr=True), auto_refresh=False)

    def __enter__(self) -> Callable[[Demo], None]:
        """Begin drawing."""
        self._live.__enter__()
        return self._show

    def __exit__(self, *details: Any) -> None:
        """Leave the last table standing."""
        self._live.__exit__(*details)

    def _show(self, demo: Demo) -> None:
        table = Table(title="edgerad demo", show_header=False, title_justify="left", min_width=72)
        table.add_column(style="bold")
        table.add_column()
        for name, value in facts(demo):
            table.add_row(name, value)
        self._live.update(table, refresh=True)


class LineView:
    """A line on standard error whenever something but the clock has changed, at most one in two seconds."""

    def __init__(self) -> None:
        """Nothing was shown yet."""
        self._last: list[tuple[str, str]] = []
        self._at = -10.0

    def __enter__(self) -> Callable[[Demo], None]:
        """Begin writing lines."""
        return self._show

    def __exit__(self, *_: object) -> None:
        """Nothing is left to do."""

    def _show(self, demo: Demo) -> None:
        seen = demo.counts
        current = [("phase", demo.phase), ("counts", repr(seen))]
        phase_changed = not self._last or self._last[0] != current[0]
        if current == self._last or (demo.seconds - self._at < 2.0 and not phase_changed):
            return
        self._last, self._at = current, demo.seconds
        triage = "/".join(str(seen.triage.get(name, 0)) for name in ("high", "unknown", "low"))
        open_alerts = seen.alerts.get("open", 0)
        shipped = sum(number for state, number in seen.shipments.items() if state in {"sent", "received"})
        sys.stderr.write(
            f"{demo.seconds:6.1f} s  {demo.phase:<28} received {seen.received}  scored {seen.scored}  "
            f"high/unknown/low {triage}  refused {seen.states.get('quarantined', 0)}  queue {seen.waiting}  "
            f"alerts {open_alerts}  shipped {shipped}  replicas {seen.replicas}  "
            f"{seen.scored / max(demo.seconds, 0.001):.1f} images/s\n"
        )
        sys.stderr.flush()
