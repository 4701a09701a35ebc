"""How the shipped model behaves, whichever it is: right on what is clear, alike on what is the same picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgerad.phantom import ABNORMAL, Finding, Phantom, random_spec, render, to_dicom, to_jpeg
from imaging.refusal import Unreadable
from serve.score import ImageScore, Scorer
from tests.model.conftest import Answers

SAME = 0.02
"""Difference of a probability between two files of one picture that is put up with (median)."""


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve by ranks, ties shared (Hanley and McNeil, Radiology 143 (1982) 29-36)."""
    positives, negatives = scores[labels], scores[~labels]
    wins = (positives[:, np.newaxis] > negatives).mean() + 0.5 * (positives[:, np.newaxis] == negatives).mean()
    return float(wins)


def probability(scorer: Scorer, data: bytes) -> float:
    """Score one file that must be scored."""
    (result,) = scorer.score_bytes([data])
    assert isinstance(result, ImageScore), str(result)
    return result.probability


def phantoms(count: int, seed: int, finding: Finding | None = None, **options: float) -> list[Phantom]:
    """Draw phantoms without text at a size that keeps tests quick."""
    return [
        render(random_spec((seed, number), finding=finding, size=512, **options))  # type: ignore[arg-type]
        for number in range(count)
    ]


def test_it_ranks_real_x_rays_of_another_set(development: Answers) -> None:
    assert auroc(development.logits, development.labels) >= 0.95


def test_certain_classes_are_mostly_right(development: Answers) -> None:
    triage = np.array([score.triage for score in development.scores])
    high, low = development.labels[triage == "high"], development.labels[triage == "low"]
    assert len(high) + len(low) > 0.7 * len(triage), "not all is passed on to people"
    assert high.mean() > 0.9
    assert low.mean() < 0.12


def test_gross_findings_on_phantoms_are_told_from_normal_ones(scorer: Scorer) -> None:
    normal = np.array([probability(scorer, to_jpeg(phantom)) for phantom in phantoms(24, 52, "normal")])
    assert np.median(normal) < 0.4
    assert np.mean(normal > 0.8) <= 0.15
    for finding in ABNORMAL:
        gross = np.array([probability(scorer, to_jpeg(phantom)) for phantom in phantoms(12, 51, finding, severity=0.9)])
        assert np.median(gross) > 0.8, finding
        assert np.mean(gross > 0.5) >= 0.8, finding
        scores, labels = np.concatenate([gross, normal]), np.repeat([True, False], [len(gross), len(normal)])
        assert auroc(scores, labels) >= 0.93, finding


def test_more_of_a_finding_is_more_of_a_risk(scorer: Scorer) -> None:
    rises = []
    for number in range(10):
        spec = random_spec((53, number), finding="consolidation", severity=1.0, size=512)
        faint, gross = (render(replace(spec, severity=severity)) for severity in (0.1, 1.0))
        rises.append(probability(scorer, to_jpeg(gross)) - probability(scorer, to_jpeg(faint)))
    assert np.mean(np.array(rises) > 0) >= 0.9


def test_monochrome1_is_scored_as_monochrome2(scorer: Scorer) -> None:
    for phantom in phantoms(6, 54):
        one, two = (
            probability(scorer, to_dicom(replace(phantom, spec=replace(phantom.spec, photometric=kind))))
            for kind in ("MONOCHROME1", "MONOCHROME2")
        )
        assert one == pytest.approx(two, abs=1e-6)


def test_a_dicom_is_scored_as_the_jpeg_of_it(scorer: Scorer) -> None:
    pairs = [
        (probability(scorer, to_dicom(phantom)), probability(scorer, to_jpeg(phantom, quality=92)))
        for phantom in phantoms(12, 55)
    ]
    assert np.median([abs(one - two) for one, two in pairs]) <= SAME


def test_the_depth_in_bits_does_not_matter(scorer: Scorer) -> None:
    apart = []
    for phantom in phantoms(8, 56):
        bits, spec = phantom.spec.bits, phantom.spec
        eight = np.left_shift(phantom.pixels >> (bits - 8), 2, dtype=np.uint16)
        full = np.left_shift(phantom.pixels, 16 - bits, dtype=np.uint16)
        coarse = replace(phantom, spec=replace(spec, bits=10), pixels=eight)
        fine = replace(phantom, spec=replace(spec, bits=16), pixels=full)
        apart.append(abs(probability(scorer, to_dicom(coarse)) - probability(scorer, to_dicom(fine))))
    assert np.median(apart) <= SAME


def test_a_real_x_ray_is_never_refused_for_being_none(development: Answers) -> None:
    assert len(development.refused) <= 0.01 * 312, [str(refusal) for _, refusal in development.refused]


def test_scoring_twice_gives_the_same(scorer: Scorer) -> None:
    data = to_dicom(phantoms(1, 57)[0])
    first, second = scorer.score_bytes([data, data])
    assert not isinstance(first, Unreadable)
    assert first == second
