"""A phantom is decided by its spec alone, its truth says where the lesion is, and its anatomy is where it belongs."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from edgerad.phantom import ABNORMAL, FINDINGS, SCANNERS, PhantomSpec, TextStyle, random_spec, render
from edgerad.phantom import anatomy as shapes
from edgerad.phantom.anatomy import make_chest
from edgerad.phantom.canvas import Points
from edgerad.phantom.render import place
from edgerad.phantom.spec import Body, Finding

UPRIGHT = PhantomSpec(seed=11, rows=384, cols=384, marker=None)


def grey_inside(spec: PhantomSpec, outline: Points) -> float:
    """Return the median grey, 0 to 1, within an outline of the body of a spec."""
    canvas = place(spec, make_chest(spec, np.random.default_rng((spec.seed, 0))))
    inside = canvas.fill(canvas.blank(), [outline]) > 127
    assert inside.sum() > 20, "the outline is not in the picture"
    return float(np.median(render(spec).pixels[inside])) / ((1 << spec.bits) - 1)


@pytest.mark.parametrize("scanner", SCANNERS)
def test_the_same_spec_gives_the_same_pixels_and_another_seed_others(scanner: str) -> None:
    spec = random_spec(3, scanner=scanner, size=256, burned_in=True)
    first, again = render(spec), render(spec)
    assert np.array_equal(first.pixels, again.pixels)
    assert (first.text, first.marker, first.center) == (again.text, again.marker, again.center)
    other = render(replace(spec, seed=spec.seed + 1))
    assert np.mean(first.pixels != other.pixels) > 0.5


def test_the_same_seed_gives_the_same_spec() -> None:
    assert random_spec((1, 2), size=256) == random_spec((1, 2), size=256)
    assert random_spec((1, 2), size=256) != random_spec((1, 3), size=256)


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_pixels_use_the_stored_bits(bits: int) -> None:
    pixels = render(replace(UPRIGHT, bits=bits)).pixels
    assert pixels.dtype == np.uint16
    assert (1 << (bits - 1)) < pixels.max() < (1 << bits)
    assert pixels.min() < (1 << bits) // 16, "air beside the body is black"


@pytest.mark.parametrize("body", ["child", "adult"])
@pytest.mark.parametrize("finding", ABNORMAL)
def test_the_mask_is_where_the_lesion_changes_the_picture(body: Body, finding: Finding) -> None:
    spec = replace(UPRIGHT, body=body, finding=finding, severity=0.9)
    ill, well = render(spec), render(replace(spec, finding="normal", severity=0.0))
    assert ill.spec.label == "PNEUMONIA"
    assert well.spec.label == "NORMAL"
    assert 0.01 < ill.mask.mean() < 0.4
    change = ill.pixels.astype(np.float64) - well.pixels
    inside, outside = change[ill.mask], change[~ill.mask]
    assert inside.mean() > 0, "pneumonia is dense: it is brighter"
    assert np.abs(inside).mean() > 4 * np.abs(outside).mean()
    assert ill.center is not None
    rows, cols = np.nonzero(ill.mask)
    assert ill.center == pytest.approx((cols.mean(), rows.mean()), abs=0.01)


def test_a_normal_one_has_no_lesion() -> None:
    phantom = render(UPRIGHT)
    assert not phantom.mask.any()
    assert phantom.center is None


@pytest.mark.parametrize("finding", ABNORMAL)
def test_the_more_severe_the_more_changes(finding: Finding) -> None:
    well = render(UPRIGHT).pixels.astype(np.float64)
    changes = [
        np.abs(render(replace(UPRIGHT, finding=finding, severity=severity)).pixels - well).sum()
        for severity in (0.1, 0.5, 1.0)
    ]
    assert changes == sorted(changes)
    assert changes[2] > 2 * changes[0]


@pytest.mark.parametrize("body", ["child", "adult"])
def test_lungs_are_dark_heart_spine_and_abdomen_bright(body: Body) -> None:
    spec = replace(UPRIGHT, body=body)
    chest = make_chest(spec, np.random.default_rng((spec.seed, 0)))
    right_lung = grey_inside(spec, 0.75 * (shapes.lung(chest, -1) - [-0.3, 0.45]) + [-0.3, 0.45])
    heart = grey_inside(spec, 0.7 * (shapes.heart(chest) - [0.08, 0.62]) + [0.08, 0.62])
    spine = grey_inside(spec, shapes.vertebra(chest, 3)[0])
    abdomen = grey_inside(spec, np.array([[-0.2, 1.06], [0.2, 1.06], [0.2, 1.14], [-0.2, 1.14]]))
    assert right_lung + 0.15 < heart
    assert heart < spine
    assert heart < abdomen


@pytest.mark.parametrize("anterior", [False, True])
def test_ribs_cross_the_lungs(anterior: bool) -> None:
    chest = make_chest(UPRIGHT, np.random.default_rng((UPRIGHT.seed, 0)))
    rib, below = shapes.rib(chest, -1, 5, anterior), np.array([0, 0.045])
    assert grey_inside(UPRIGHT, rib) > grey_inside(UPRIGHT, rib + below) + 0.02


def test_the_marker_is_on_its_side_and_bright() -> None:
    sides: dict[Literal["L", "R"], bool] = {"R": True, "L": False}
    for letter, left in sides.items():
        phantom = render(replace(UPRIGHT, marker=letter))
        box = phantom.marker
        assert box is not None
        assert box.text == letter
        assert (box.x + box.width / 2 < UPRIGHT.cols / 2) == left, "the patient's right is at the image's left"
        part = phantom.pixels[box.y : box.y + box.height, box.x : box.x + box.width]
        assert part.max() > 0.9 * 4095
    assert render(UPRIGHT).marker is None


@pytest.mark.parametrize("corner", ["top left", "bottom right"])
def test_burned_in_text_is_in_its_boxes_and_nowhere_else(corner: str) -> None:
    spec = replace(UPRIGHT, text=TextStyle(corner=corner, height=0.017))  # type: ignore[arg-type]
    with_text, without = render(spec), render(replace(spec, text=None))
    assert len(with_text.text) == 5
    changed = with_text.pixels != without.pixels
    for box in with_text.text:
        part = changed[box.y : box.y + box.height, box.x : box.x + box.width]
        assert part.mean() > 0.05, "strokes are in the box"
        assert part[:, 0].any(), "the box is tight at its left"
        assert part[0].any(), "the box is tight at its top"
        changed[box.y : box.y + box.height, box.x : box.x + box.width] = False
    assert not changed.any()
    first = with_text.text[0]
    assert (first.y < spec.rows / 2) == corner.startswith("top")


def test_a_device_that_the_model_has_not_seen_looks_otherwise() -> None:
    standard, legacy = (render(replace(UPRIGHT, scanner=name)).pixels / 4095.0 for name in ("standard", "legacy_cr"))
    spread = [np.subtract(*np.percentile(pixels, (95, 5))) for pixels in (standard, legacy)]
    assert spread[1] < 0.8 * spread[0], "an old plate has less contrast"


def test_shares_and_findings_of_random_specs() -> None:
    specs = [random_spec((9, number), size=256) for number in range(300)]
    assert {spec.finding for spec in specs} == set(FINDINGS)
    assert {spec.photometric for spec in specs} == {"MONOCHROME1", "MONOCHROME2"}
    assert {spec.storage for spec in specs} == {"CR", "DX"}
    assert {spec.bits for spec in specs} == {10, 12, 14, 16}
    assert {spec.marker for spec in specs} == {None, "L", "R"}
    assert 0.4 < np.mean([spec.finding != "normal" for spec in specs]) < 0.6
    assert all(random_spec((9, number), positive=True, size=256).finding != "normal" for number in range(20))
    assert all(random_spec((9, number), positive=False, size=256).finding == "normal" for number in range(20))


def test_one_patient_is_one_body() -> None:
    bodies: dict[int, set[str]] = {}
    for number in range(200):
        spec = random_spec((4, number), size=256, patients=10)
        bodies.setdefault(spec.patient, set()).add(spec.body)
    assert len(bodies) == 10
    assert all(len(seen) == 1 for seen in bodies.values())


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("finding", "fracture", "one of normal"),
        ("severity", 1.5, "between 0 and 1"),
        ("rows", 64, "128 to 6000"),
        ("bits", 8, "10 to 16"),
        ("exposure", 0.0, "above 0"),
        ("collimation", 0.5, "between 0 and 0.15"),
        ("seed", -1, "0 or more"),
    ],
)
def test_a_spec_out_of_range_is_named(field: str, value: object, rule: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is .*it must be {rule}"):
        PhantomSpec(**{"seed": 1, field: value})  # type: ignore[arg-type]


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(ValueError, match="scanner is 'x'; it must be one of standard"):
        render(replace(UPRIGHT, scanner="x"))
