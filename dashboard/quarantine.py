"""Quarantine: images that could not be proven clean. Cover the text that is left and release them, or keep them."""

from __future__ import annotations

import base64
from collections import Counter
from functools import partial
from typing import Any, cast

import altair as alt
import cv2
import numpy as np
import numpy.typing as npt
import streamlit as st

from dashboard import parts, viewer
from edgerad import quarantine
from edgerad.quarantine import Rectangle, Waiting
from edgerad.store import ObjectStore, StoreError
from imaging.display import LIMITS, NotDisplayable, Picture, picture

SHOWN_SIDE = 1400
_NO_PADDING = {"left": 0, "top": 0, "right": 0, "bottom": 0}
DRAWN_ON_SIDE = 600
"""Longer side of the image that boxes are drawn on, in pixels of the screen."""
COVERED, DISMISSED, ADDED, DRAWN = (255, 176, 0), (150, 150, 150), (90, 170, 255), (60, 220, 120)
"""Colours of boxes, RGB: found by the engine, taken away by the person, added by the person, being drawn."""

REASONS = {
    "too-much-text": "Text covers a large part of the image: it may not be a radiograph.",
    "engines-disagree": "The two text engines read a patient value differently. One may have missed a part of it.",
    "burned-in-text-not-found": "The file says that it has burned-in text, but none was found.",
    "not-verified": "Patient data were still found after the de-identification.",
    "text-left": "Text was found outside the boxes of the last release.",
    "oblique-text": "The image has slanted text, which the text engines read only in part. Cover all of it.",
    "text-engine-failed": "A text engine failed: this image was not searched for text.",
    "patient-id-missing": "The file has no patient ID, so no pseudonym can be made. Correct the file at its source.",
    "key-missing": "The site's secret is missing. Set ship.site_secret, then try again.",
    "sop-class": "This kind of DICOM object is not shipped.",
    "unsupported": "This kind of image (frames, colours, compression or size) is not handled.",
    "undecodable": "The pixels cannot be decoded reliably.",
    "unreadable": "This is not a complete DICOM, JPEG or PNG file.",
    "engine-crashed": "The process that de-identifies images crashed twice on this one.",
    "engine-hung": "De-identifying this image took longer than ship.image_timeout.",
    "object-gone": "The image is no longer in the object store.",
    "too-large": "The image is larger than serve.max_object_bytes.",
    "internal-error": "An unforeseen error. Please report it, without the image.",
}


def main() -> None:
    """Draw the page."""
    parts.page("Quarantine", _page)


def _page() -> None:
    total = quarantine.count(parts.database())
    start = parts.start("quarantine", total)
    cases = quarantine.waiting(parts.database(), parts.PAGE, start)
    if not cases:
        st.info("Nothing is in quarantine. All images that were to be sent were proven clean.")
        return
    titles = {case.shipment.shipment_id: _title(case) for case in cases}
    often = Counter(titles.values())
    names = {key: title if often[title] == 1 else f"{title} · {key[:8]}" for key, title in titles.items()}
    chosen = st.selectbox(
        f"{total} waiting, the oldest first",
        list(names),
        format_func=lambda shipment_id: names.get(shipment_id, shipment_id),
        key=f"quarantined-{start}",
    )
    parts.pager("quarantine", total)
    case = next((case for case in cases if case.shipment.shipment_id == chosen), cases[0])
    left, right = st.columns((3, 2), gap="large")
    with right:
        _facts(case)
        boxes = _boxes(case) if case.can_be_released else []
    with left:
        found = _fetched(parts.edge_store(), case)
        drawn = _draw(found, case, boxes) if found else None
    with right:
        if drawn is not None:
            _add(case, drawn)
        _decide(case, boxes)


def _title(case: Waiting) -> str:
    patient, _ = parts.who(case.image.header, case.image.image_id)
    # A clock time: the browser names its choice by the title, and one that had changed since would not be found.
    at = parts.local(case.shipment.closed_at) if case.shipment.closed_at else "–"
    return f"{patient} · {case.shipment.reason} · {at}"


def _facts(case: Waiting) -> None:
    patient, facts = parts.who(case.image.header, case.image.image_id)
    reason = case.shipment.reason or ""
    st.html(
        f'<div class="er-name" style="font-size:1.25rem">{parts.escaped(patient)}</div>'
        f'<div class="er-small">{parts.escaped(facts)}</div>'
        f'<div class="er-small">{parts.escaped(parts.study(case.image.header))}</div>'
    )
    st.warning(REASONS.get(reason, parts.plain(reason)))
    if case.detail:
        st.caption(parts.plain(f"{reason}: {case.detail}"))


# A resource and not data: data would be pickled and copied at every move of a slider.
@st.cache_resource(max_entries=4, ttl=900, show_spinner="Fetching the image")
def _fetch(_store: ObjectStore, bucket: str, key: str, etag: str | None) -> Picture:  # noqa: ARG001 - bucket is a key
    return picture(_store.get(key, etag=etag, limit_bytes=LIMITS.max_bytes))


def _fetched(store: ObjectStore, case: Waiting) -> Picture | None:
    try:
        return _fetch(store, store.bucket, case.image.key, case.image.etag)
    except (NotDisplayable, StoreError) as error:
        st.warning(f"The image cannot be shown: {parts.plain(error)}")
        return None


def _boxes(case: Waiting) -> list[tuple[Rectangle, bool]]:
    """Draw the list of boxes; return each with whether it is to be covered."""
    name = case.shipment.shipment_id
    st.subheader("Boxes")
    st.caption("Covered pixels get one constant value. Untick a box only if it holds no text.")
    boxes = []
    for number, box in enumerate(case.boxes, 1):
        covered = st.checkbox(f"Box {number}, found: {_spoken(box)}", value=True, key=f"box-{name}-{number}-{box}")
        boxes.append((box, covered))
    for number, box in enumerate(_added(name), 1):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.write(f"Added {number}: {_spoken(box)}")
            if st.button("Remove", key=f"remove-{name}-{number}", type="tertiary"):
                _added(name).remove(box)
                st.rerun()
        boxes.append((box, True))
    if not boxes:
        st.caption("none yet")
    return boxes


def _spoken(box: Rectangle) -> str:
    return f"columns {box[0]} to {box[2]}, rows {box[1]} to {box[3]}"


def _added(name: str) -> list[Rectangle]:
    return cast("list[Rectangle]", st.session_state.setdefault(f"added-{name}", []))


def _draw(found: Picture, case: Waiting, boxes: list[tuple[Rectangle, bool]]) -> Rectangle | None:
    """Draw the image with its boxes; return the box that is being drawn, if any."""
    name = case.shipment.shipment_id
    rows, columns = found.shape
    if case.can_be_released:
        st.caption("Drag a box over the text to cover, then add it. Zoom in for small text.")
    place = st.container(key="viewer")
    level_column, width_column, zoom_column = st.columns(3)
    low, high = viewer.window_range(found)
    span, first = high - low, found.high - found.low
    middle = (found.low + found.high) / 2
    level = level_column.slider("Level", low, high, middle, span / 256, "%.0f", key=f"level-{name}")
    width = width_column.slider(
        "Window", min(span / 50, first), span * 1.5, first, span / 256, "%.0f", key=f"window-{name}"
    )
    zoom = zoom_column.slider("Zoom", 1.0, 6.0, 1.0, 0.25, "%.2f x", key=f"zoom-{name}")
    x = y = 0.5
    if zoom > 1:
        x_column, y_column, _ = st.columns(3)
        x = x_column.slider("Across", 0.0, 1.0, 0.5, 0.02, key=f"x-{name}")
        y = y_column.slider("Down", 0.0, 1.0, 0.5, 0.02, key=f"y-{name}")
    drawn = _by_sliders(rows, columns, name) if case.can_be_released else None
    shown = cv2.cvtColor(found.window(level, width), cv2.COLOR_GRAY2RGB).astype(np.uint8)
    added = _added(name)
    for box, covered in boxes:
        _outline(shown, _scaled(box, found), ADDED if box in added else COVERED if covered else DISMISSED, zoom)
    if drawn:
        _outline(shown, _scaled(drawn, found), DRAWN, zoom)
    part = _part_of((rows, columns), zoom, x, y)
    if not case.can_be_released:
        place.image(_encoded(shown, _scaled(part, found)), width="stretch")
        return None
    with place:
        return _dragged(_encoded(shown, _scaled(part, found)), part, f"draw-{name}-{len(added)}") or drawn


def _by_sliders(rows: int, columns: int, name: str) -> Rectangle | None:
    """A box for whoever has no mouse, or wants it to the pixel."""
    if not st.toggle("Draw by sliders", key=f"sliders-{name}"):
        return None
    across = st.slider("From left to right", 0, columns, (0, columns // 4), key=f"columns-{name}")
    down = st.slider("From top to bottom", 0, rows, (0, rows // 8), key=f"rows-{name}")
    return (across[0], down[0], across[1], down[1])


def _dragged(shown: bytes, part: Rectangle, key: str) -> Rectangle | None:
    """Show the part of the image as a chart that boxes are drawn on; return the box, in pixels of the whole image."""
    x0, y0, x1, y1 = part
    scale = DRAWN_ON_SIDE / max(x1 - x0, y1 - y0)
    url = "data:image/png;base64," + base64.b64encode(shown).decode()
    data = alt.Data(values=[{"url": url, "x0": x0, "y0": y0, "x1": x1, "y1": y1}])
    across = alt.X("x0:Q", axis=None, scale=alt.Scale(domain=(x0, x1), nice=False, zero=False))
    down = alt.Y("y0:Q", axis=None, scale=alt.Scale(domain=(y1, y0), nice=False, zero=False))
    brush = alt.selection_interval(
        name="box", mark=alt.BrushConfig(stroke="#3cdc78", strokeWidth=2, fill="#3cdc78", fillOpacity=0.25)
    )
    chart = (
        alt.Chart(data, width=round((x1 - x0) * scale), height=round((y1 - y0) * scale), padding=_NO_PADDING)
        .mark_image(aspect=False)
        .encode(x=across, x2="x1:Q", y=down, y2="y1:Q", url="url:N")
        .add_params(brush)
        .configure(background="black")
        .configure_view(stroke=None)
    )
    chosen = st.altair_chart(chart, width="content", theme=None, key=key, on_select="rerun", selection_mode="box")
    return _whole(cast("dict[str, Any]", chosen)["selection"].get("box") or {}, part)


def _whole(selection: dict[str, Any], part: Rectangle) -> Rectangle | None:
    """The smallest box of whole pixels around what was drawn, within the part that was shown; None when nothing was."""
    if not {"x0", "y0"} <= set(selection):
        return None
    (left, right), (top, bottom) = sorted(selection["x0"]), sorted(selection["y0"])
    box = (
        max(int(np.floor(left)), part[0]),
        max(int(np.floor(top)), part[1]),
        min(int(np.ceil(right)), part[2]),
        min(int(np.ceil(bottom)), part[3]),
    )
    return box if box[0] < box[2] and box[1] < box[3] else None


def _outline(image: npt.NDArray[np.uint8], box: Rectangle, colour: tuple[int, int, int], zoom: float) -> None:
    thickness = max(1, round(max(image.shape) / (450 * zoom)))
    cv2.rectangle(image, (box[0], box[1]), (box[2] - 1, box[3] - 1), colour, thickness)


def _scaled(box: Rectangle, found: Picture) -> Rectangle:
    """Return a box of the original in pixels of what is kept of it."""
    down, across = (kept / whole for kept, whole in zip(found.values.shape, found.shape, strict=True))
    left, top, right, bottom = box
    return round(left * across), round(top * down), round(right * across), round(bottom * down)


def _part_of(shape: tuple[int, int], zoom: float, x: float, y: float) -> Rectangle:
    """The part around (x, y), both from 0 to 1, in pixels of the image."""
    rows, columns = (max(1, round(length / zoom)) for length in shape)
    top, left = round((shape[0] - rows) * y), round((shape[1] - columns) * x)
    return left, top, left + columns, top + rows


def _encoded(image: npt.NDArray[np.uint8], part: Rectangle) -> bytes:
    """A part of the image, no longer than SHOWN_SIDE pixels, as PNG."""
    left, top, right, bottom = part
    shown = np.ascontiguousarray(image[top:bottom, left:right, ::-1])
    scale = SHOWN_SIDE / max(shown.shape[:2])
    if scale < 1:
        shown = cv2.resize(shown, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.uint8)
    _, encoded = cv2.imencode(".png", shown, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return encoded.tobytes()


def _add(case: Waiting, drawn: Rectangle) -> None:
    st.write(f"Drawn: {_spoken(drawn)}")
    if st.button("Add this box", key="add-box"):
        if drawn[0] < drawn[2] and drawn[1] < drawn[3] and drawn not in _added(case.shipment.shipment_id):
            _added(case.shipment.shipment_id).append(drawn)
        st.rerun()


def _decide(case: Waiting, boxes: list[tuple[Rectangle, bool]]) -> None:
    database, shipment_id, person = parts.database(), case.shipment.shipment_id, parts.person()
    st.subheader("Decision")
    repeated = "Somebody else has already decided about this image."
    with st.container(horizontal=True, gap="small"):
        if case.can_be_released:
            covered = [box for box, on in boxes if on]
            dismissed = [box for box, on in boxes if not on]
            if st.button("Release", type="primary", key="release"):
                released = partial(quarantine.release, database, shipment_id, covered, dismissed, person)
                said = "Released. It is sent if it is clean with these boxes; otherwise it comes back here."
                parts.decide(released, said, repeated)
        elif st.button("Try again", key="retry"):
            parts.decide(partial(quarantine.retry, database, shipment_id, person), "It is tried again.", repeated)
        if st.button("Keep here for good", key="refuse"):
            kept = partial(quarantine.refuse, database, shipment_id, person)
            parts.decide(kept, "The image stays here for good.", repeated)
