"""Random radiographs as they come in a department: bodies, breaths, positioning, doses, devices, findings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgerad.phantom.spec import ABNORMAL, CORNERS, Body, Finding, PhantomSpec, TextStyle

_CHILD_SHARE = 0.65
_SUBTLE_SHARE = 0.25
"""Of the abnormal ones: so faint that a reader would hesitate (severity 0.08 to 0.38)."""


def random_spec(
    seed: int | Sequence[int],
    *,
    positive: bool | None = None,
    finding: Finding | None = None,
    severity: float | None = None,
    body: Body | None = None,
    scanner: str = "standard",
    burned_in: bool = False,
    size: int = 1024,
    patients: int = 1_000_000,
) -> PhantomSpec:
    """Return a random spec; what is given is kept.

    `positive` chooses between normal and an abnormal finding where `finding` is not given; `size` is the longer side
    in pixels; `patients` is how many different patients there are (a few make several studies of one likely).
    """
    rng = np.random.default_rng(seed)
    if finding is None:
        abnormal = bool(rng.random() < 0.5) if positive is None else positive
        finding = ABNORMAL[int(rng.choice(3, p=[0.55, 0.15, 0.30]))] if abnormal else "normal"
    if severity is None:
        subtle = rng.random() < _SUBTLE_SHARE
        severity = float(rng.uniform(0.08, 0.38) if subtle else rng.uniform(0.45, 1.0))
    if finding == "normal":
        severity = 0.0
    patient = int(rng.integers(patients))
    if body is None:  # one patient is always the same kind of body
        body = "child" if np.random.default_rng((patient, 0xB0D)).random() < _CHILD_SHARE else "adult"
    aspect = float(np.clip(rng.normal(0.74, 0.09), 0.58, 1.0) if body == "child" else rng.uniform(0.84, 1.15))
    rows, cols = (round(size * aspect), size) if aspect <= 1 else (size, round(size / aspect))
    text = None
    if burned_in:
        text = TextStyle(
            corner=CORNERS[int(rng.integers(4))],
            height=float(rng.choice([0.010, 0.013, 0.017, 0.022])),
            font=int(rng.integers(4)),
            level=float(rng.choice([1.0, 1.0, 0.8, 0.65])),
        )
    dx = bool(rng.random() < 0.5)
    return PhantomSpec(
        seed=int(rng.integers(2**31)),
        finding=finding,
        severity=severity,
        body=body,
        rows=rows,
        cols=cols,
        scanner=scanner,
        storage="DX" if dx else "CR",
        photometric="MONOCHROME1" if rng.random() < (0.3 if dx else 0.5) else "MONOCHROME2",
        bits=int(rng.choice([12, 14, 16] if dx else [10, 12])),
        marker=(None, "L", "R", "R", "R")[int(rng.integers(5))],
        text=text,
        tilt=float(rng.normal(0, 2.5)),
        obliquity=float(rng.normal(0, 5)),
        zoom=float(np.clip(rng.normal(1.04, 0.07), 0.85, 1.25)),
        shift=(float(rng.normal(0, 0.03)), float(rng.normal(0, 0.03))),
        inspiration=float(np.clip(rng.normal(0.6, 0.25), 0, 1)),
        exposure=float(np.exp(rng.normal(0, 0.35))),
        collimation=float(rng.choice([0, 0, 0, 0, 0.03, 0.08])),
        patient=patient,
        study=int(rng.integers(4)),
    )
