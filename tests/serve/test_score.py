"""From bytes to a score or a refusal, and no further: one bad item never spoils its neighbours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerad.phantom import Phantom, to_dicom, to_jpeg
from imaging.limits import Limits
from imaging.refusal import Unreadable
from serve.bundle import BundleError
from serve.decode import decode
from serve.preprocess import preprocess
from serve.score import ImageScore, Scorer, open_scorer


class Fixed:
    """A runtime that gives what it is told."""

    name, whole_batches = "fixed", True

    def __init__(self, *logits: float) -> None:
        self.logits, self.batches = list(logits), 0

    def predict(self, batch: Any) -> Any:
        """Return the next logits."""
        return self.explain(batch)[0]

    def explain(self, batch: Any) -> tuple[Any, Any]:
        """Return the next logits, and maps that hold them in every cell."""
        self.batches += 1
        taken, self.logits = self.logits[: len(batch)], self.logits[len(batch) :]
        logits = np.array(taken, np.float32)
        return logits, np.tile(logits[:, np.newaxis, np.newaxis], (1, 2, 2))


def test_each_item_gets_its_own_result_in_one_batch(scorer: Scorer, phantom: Phantom) -> None:
    runtime = Fixed(-5.0, 0.0, 5.0)
    fixed = Scorer(scorer.bundle, runtime)
    good, dicom = to_jpeg(phantom), to_dicom(phantom)
    results = fixed.score_bytes([good, b"", dicom, good[:50], good])
    assert runtime.batches == 1
    kinds = [result.reason if isinstance(result, Unreadable) else result.triage for result in results]
    assert kinds[1] == "empty"
    assert kinds[3] in {"truncated", "corrupt"}
    assert [kinds[0], kinds[2], kinds[4]] == ["low", "unknown", "high"]
    second = results[2]
    assert isinstance(second, ImageScore)
    assert second.activation == [[0.0, 0.0], [0.0, 0.0]], "its own map, not its neighbour's"
    assert second.header["Modality"] == "DX"
    assert "PatientName" not in repr(second), "a score in a log shows no patient"


def test_a_score_says_what_it_comes_from(scorer: Scorer, phantom: Phantom) -> None:
    (result,) = scorer.score_bytes([to_jpeg(phantom)])
    assert isinstance(result, ImageScore)
    bundle = scorer.bundle
    assert (result.model_digest, result.finding) == (bundle.digest, bundle.manifest.finding)
    assert (result.calibration_version, result.threshold_version) == (
        bundle.calibration.version,
        bundle.thresholds.version,
    )
    assert result.probability == pytest.approx(float(bundle.calibration.apply(result.logit)))
    assert result.triage == bundle.thresholds.classify(result.probability)
    assert result.runtime == "litert"


@pytest.mark.parametrize("logit", [np.nan, np.inf, -np.inf])
def test_a_network_that_gives_no_number_gives_no_score(scorer: Scorer, phantom: Phantom, logit: float) -> None:
    (result,) = Scorer(scorer.bundle, Fixed(logit)).score_bytes([to_jpeg(phantom)])
    assert isinstance(result, Unreadable)
    assert result.reason == "model-error"


def test_the_network_is_not_called_for_nothing(scorer: Scorer) -> None:
    runtime = Fixed()
    fixed = Scorer(scorer.bundle, runtime)
    assert fixed.score_bytes([]) == []
    assert isinstance(fixed.score_bytes([b""])[0], Unreadable)
    assert runtime.batches == 0


def test_limits_are_the_scorers(scorer: Scorer, phantom: Phantom) -> None:
    (result,) = Scorer(scorer.bundle, Fixed(0.0), Limits(max_pixels=1000)).score_bytes([to_jpeg(phantom)])
    assert isinstance(result, Unreadable)
    assert result.reason == "too-large"


def test_opening_trusts_only_keys_that_are_trusted(bundle: Callable[..., Path]) -> None:
    path = bundle()
    with pytest.raises(BundleError, match="not trusted"):
        open_scorer(path)
    with pytest.raises(BundleError, match="not signed"):
        open_scorer(bundle(signed=False))
    assert open_scorer(path, verify=False).bundle.path == path


def test_the_model_gets_what_training_preprocesses(scorer: Scorer, phantom: Phantom) -> None:
    """Scoring shares the grid with the view check; the input must stay that of `preprocess`."""
    data = to_jpeg(phantom)
    prepared = scorer.prepare(data)
    assert not isinstance(prepared, Unreadable)
    np.testing.assert_array_equal(prepared.input, preprocess(decode(data).pixels, scorer.bundle.manifest.input_size))
