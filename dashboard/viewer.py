"""The image viewer: window and level, invert, zoom, evidence; drawn again by itself when a slider moves."""

from __future__ import annotations

import streamlit as st

from dashboard import heat, parts
from edgerad.scoring import ActivationMap
from edgerad.store import ObjectStore, StoreError
from imaging.display import LIMITS, NotDisplayable, Picture, picture, png

KEPT_SIDE = 4096
"""Longer side, pixels, of what is kept in memory for zooming: full resolution for all but the largest detectors."""
SHOWN_SIDE = 1400
CAVEAT = (
    "The tint shows where in the image the model found evidence, not why it took it for evidence, and not where nothing"
    " is. It is coarse, it can be wrong where the score is right, and it is no segmentation."
)


# A resource and not data: data would be pickled and copied at every move of a slider.
@st.cache_resource(max_entries=4, ttl=900, show_spinner="Fetching the image")
def _fetch(_store: ObjectStore, bucket: str, key: str, etag: str | None) -> Picture:  # noqa: ARG001 - bucket is a key
    return picture(_store.get(key, etag=etag, limit_bytes=LIMITS.max_bytes)).part(1.0, 0.5, 0.5, KEPT_SIDE)


def show(store: ObjectStore, key: str, etag: str | None, name: str, activation: ActivationMap | None = None) -> None:
    """Draw an object of a store with its controls; `name` tells the controls of one image from another's.

    With an activation map a reader may have it tinted in; nobody sees it unasked.
    """
    try:
        found = _fetch(store, store.bucket, key, etag)
    except (NotDisplayable, StoreError) as error:
        st.warning(f"The image cannot be shown: {parts.plain(error)}")
        return
    st.fragment(_draw)(found, name, activation)


def window_range(found: Picture) -> tuple[float, float]:
    """Return the ends of the level's slider: all values of the image, and the window that a reader sees first."""
    least, most = found.span
    return min(least, found.low), max(most, found.high)


def _draw(found: Picture, name: str, activation: ActivationMap | None) -> None:
    place = st.container(key="viewer")
    if found.note:
        st.caption(parts.plain(found.note))
    low, high = window_range(found)
    span = high - low
    step = max(span / 256, 0.001)
    form = "%.0f" if span > 20 else "%.2f"
    state = st.session_state.setdefault(f"resets-{name}", 0)
    keys = {
        control: f"{control}-{name}-{state}"
        for control in ("level", "window", "zoom", "x", "y", "invert", "evidence", "opacity")
    }
    level_column, width_column, zoom_column = st.columns(3)
    first = (found.low + found.high) / 2, found.high - found.low
    level = level_column.slider("Level", low, high, first[0], step, form, key=keys["level"])
    width = width_column.slider(
        "Window", min(span / 50, first[1]), span * 1.5, first[1], step, form, key=keys["window"]
    )
    zoom = zoom_column.slider("Zoom", 1.0, 6.0, 1.0, 0.25, "%.2f x", key=keys["zoom"])
    x = y = 0.5
    if zoom > 1:
        x_column, y_column, _ = st.columns(3)
        x = x_column.slider("Across", 0.0, 1.0, 0.5, 0.02, key=keys["x"])
        y = y_column.slider("Down", 0.0, 1.0, 0.5, 0.02, key=keys["y"])
    with st.container(horizontal=True, vertical_alignment="center"):
        invert = st.toggle("Invert", key=keys["invert"])
        tinted = activation is not None and st.toggle("Evidence", key=keys["evidence"])
        if st.button("Reset view", key=f"reset-{name}", type="tertiary"):
            st.session_state[f"resets-{name}"] = state + 1
            st.rerun(scope="fragment")
    shown = found.part(zoom, x, y, SHOWN_SIDE).window(level, width, invert=invert)
    if activation is None or not tinted:
        place.image(png(shown), width="stretch")
        return
    opacity = st.slider("Opacity", 0.0, 1.0, 0.4, 0.05, "%.2f", key=keys["opacity"])
    st.caption(CAVEAT)
    warmth = heat.heat(activation).part(zoom, x, y, SHOWN_SIDE)
    place.image(png(heat.tint(shown, warmth, opacity)), width="stretch")
