"""The shipped model, and what it says of the development images, scored once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from imaging.refusal import Unreadable
from serve.decode import decode
from serve.score import ImageScore, Scorer, open_scorer


@dataclass(frozen=True)
class Answers:
    """Scores of labelled files; `refused` are (file name, refusal) of those that gave none."""

    scores: list[ImageScore]
    labels: np.ndarray
    logits: np.ndarray
    widths: np.ndarray
    refused: list[tuple[str, Unreadable]]


@pytest.fixture(scope="session")
def scorer() -> Scorer:
    """The shipped model on LiteRT."""
    return open_scorer()


@pytest.fixture(scope="session")
def development(shared: Path, scorer: Scorer) -> Answers:
    """Answers on the 312 full-resolution images that are never trained, tuned or selected on."""
    files = sorted((shared / "data" / "xraylab-dev").glob("*/*.jpeg"))
    assert len(files) == 312
    scores, labels, widths, refused = [], [], [], []
    for file in files:
        data = file.read_bytes()
        (result,) = scorer.score_bytes([data])
        if isinstance(result, Unreadable):
            refused.append((file.name, result))
            continue
        scores.append(result)
        labels.append(file.parent.name == "PNEUMONIA")
        widths.append(decode(data).columns)
    return Answers(scores, np.array(labels), np.array([score.logit for score in scores]), np.array(widths), refused)
