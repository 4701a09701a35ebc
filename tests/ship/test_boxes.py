"""Rectangles: the arithmetic on which every proof about pixels stands."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ship.boxes import Box, merged, neighbourhoods

SIDE = 24
edges = st.integers(0, SIDE - 1)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x0, y0 = draw(edges), draw(edges)
    return Box(x0, y0, draw(st.integers(x0 + 1, SIDE)), draw(st.integers(y0 + 1, SIDE)))


def painted(box: Box) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    area = np.zeros((SIDE, SIDE), bool)
    area[box.slices] = True
    return area


@given(boxes(), boxes())
def test_overlap_area_and_intersection_over_union_are_those_of_the_painted_pixels(a: Box, b: Box) -> None:
    inner, outer = painted(a) & painted(b), painted(a) | painted(b)
    assert a.overlaps(b) == bool(inner.any())
    assert a.area == painted(a).sum()
    assert a.iou(b) == inner.sum() / outer.sum()


@given(boxes(), st.integers(0, 9))
def test_a_grown_and_clipped_box_is_the_dilated_one_inside_the_image(box: Box, reach: int) -> None:
    ys, xs = np.mgrid[:SIDE, :SIDE]
    near = (xs >= box.x0 - reach) & (xs < box.x1 + reach) & (ys >= box.y0 - reach) & (ys < box.y1 + reach)
    assert np.array_equal(painted(box.grown(reach).clipped(SIDE, SIDE)), near)


@given(st.lists(boxes(), max_size=8), st.integers(0, 5))
def test_neighbourhoods_hold_every_box_with_its_surroundings_and_never_overlap(found: list[Box], reach: int) -> None:
    regions = neighbourhoods(found, reach)
    for box in found:
        grown = box.grown(reach)
        assert any(region.around(grown) == region for region in regions)
    assert not any(a.overlaps(b) for i, a in enumerate(regions) for b in regions[:i])


@given(boxes())
def test_a_box_of_a_turned_image_is_turned_back(box: Box) -> None:
    rows, columns = 31, SIDE
    image = np.zeros((rows, columns), bool)
    image[box.slices] = True
    turned = np.rot90(image)
    ys, xs = np.nonzero(turned)
    found = Box(int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    assert found.turned_back(turned.shape[0]) == box


@given(boxes(), boxes())
def test_a_box_is_inside_another_when_all_its_pixels_are(a: Box, b: Box) -> None:
    assert a.inside(b) == bool((painted(a) <= painted(b)).all())


def test_a_box_is_lengthened_along_its_longer_side() -> None:
    assert Box(10, 10, 30, 15).lengthened(3) == Box(7, 10, 33, 15)
    assert Box(10, 10, 15, 30).lengthened(3) == Box(10, 7, 15, 33)


def test_a_moved_box_keeps_its_size_and_json_has_the_four_edges() -> None:
    assert Box(1, 2, 5, 9).moved(10, 20) == Box(11, 22, 15, 29)
    assert Box(1, 2, 5, 9).as_list() == [1, 2, 5, 9]
    assert Box(1, 2, 5, 9).short_side == 4


def test_boxes_of_one_line_become_one_and_cover_no_less() -> None:
    big, within, beside, across = Box(0, 0, 20, 10), Box(2, 2, 8, 8), Box(30, 0, 40, 10), Box(15, 5, 25, 12)
    assert merged([within, across, big, beside, big]) == [big, across, beside]
    assert merged([Box(0, 0, 100, 20), Box(3, 1, 104, 20)]) == [Box(0, 0, 104, 20)]
    assert merged([]) == []


@given(st.lists(boxes(), max_size=6))
def test_merged_boxes_hold_every_box_and_none_holds_another(some: list[Box]) -> None:
    done = merged(some)
    assert all(any(box.inside(one) for one in done) for box in some)
    assert not any(a != b and a.inside(b) for a in done for b in done)
    assert len(done) == len(set(done)) <= len(some)


@given(boxes(), boxes())
def test_a_box_is_centred_in_another_when_its_middle_is_one_of_its_pixels(a: Box, b: Box) -> None:
    x, y = (a.x0 + a.x1) // 2, (a.y0 + a.y1) // 2
    assert a.is_centred_in(b) == (Box(x, y, x + 1, y + 1).inside(b))
    assert {a.short_side, a.long_side} == {a.x1 - a.x0, a.y1 - a.y0}
    assert a.is_upright == (a.y1 - a.y0 > a.x1 - a.x0)
