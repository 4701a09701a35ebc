"""A replica, without Ray: every request gets its own outcome, whatever is wrong with the others."""

import threading
from collections.abc import Sequence

import pytest

from edgerad.phantom import random_spec, render, to_dicom, to_jpeg
from edgerad.scoring import Refused, Scored, ScoreRequest
from edgerad.store import ObjectGone, ObjectTooLarge, StoreUnavailable
from serve.replica import Replica
from serve.score import Scorer, open_scorer

PHANTOM = render(random_spec(3, size=256))
GOOD = to_jpeg(PHANTOM)


def fetch(request: ScoreRequest) -> bytes:
    """Return bytes or raise, by the request's key."""
    if request.key == "gone":
        raise ObjectGone("gone")
    if request.key == "large":
        raise ObjectTooLarge("large")
    if request.key == "down":
        raise StoreUnavailable("down")
    return {"jpeg": GOOD, "dicom": to_dicom(PHANTOM), "empty": b"", "cut": GOOD[: len(GOOD) // 3]}[request.key]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """The shipped model."""
    return open_scorer()


def requests(keys: Sequence[str]) -> list[ScoreRequest]:
    """Return a request per key; its image_id is its place and key."""
    return [ScoreRequest(f"{number}-{key}", "xray", key) for number, key in enumerate(keys)]


def test_each_request_gets_its_own_outcome(scorer: Scorer) -> None:
    replica = Replica(fetch, 2)
    replica.swap(scorer)
    keys = ["jpeg", "gone", "dicom", "empty", "down", "cut", "large", "jpeg"]
    outcomes = replica.score(requests(keys))
    assert [outcome.image_id for outcome in outcomes] == [f"{number}-{key}" for number, key in enumerate(keys)]
    reasons = {
        key: (outcome.reason, outcome.retryable)
        for key, outcome in zip(keys, outcomes, strict=True)
        if isinstance(outcome, Refused)
    }
    assert reasons == {
        "gone": ("object-gone", False),
        "empty": ("empty", False),
        "down": ("store-unavailable", True),
        "cut": ("truncated", False),
        "large": ("too-large", False),
    }
    first, last = outcomes[0], outcomes[-1]
    assert isinstance(first, Scored)
    assert isinstance(last, Scored)
    assert first.probability == last.probability
    assert first.model_digest == scorer.bundle.digest
    assert first.calibration_version
    assert first.threshold_version
    dicom = outcomes[2]
    assert isinstance(dicom, Scored)
    assert dicom.header["Modality"] in {"CR", "DX"}


class Whole:
    """A runtime that takes whole batches, as one on a GPU."""

    name, whole_batches = "whole", True

    def __init__(self, scorer: Scorer) -> None:
        self.runtime, self.sizes = scorer.runtime, list[int]()

    def explain(self, batch):  # type: ignore[no-untyped-def]
        self.sizes.append(len(batch))
        return self.runtime.explain(batch)


def test_a_runtime_for_whole_batches_gets_all_that_could_be_read_at_once(scorer: Scorer) -> None:
    runtime = Whole(scorer)
    replica, one_by_one = Replica(fetch, 2), Replica(fetch, 2)
    replica.swap(Scorer(scorer.bundle, runtime))  # type: ignore[arg-type]
    one_by_one.swap(scorer)
    keys = requests(["jpeg", "gone", "dicom", "cut", "jpeg"])
    ours, theirs = replica.score(keys), one_by_one.score(keys)
    assert runtime.sizes == [3]
    for mine, other in zip(ours, theirs, strict=True):
        assert type(mine) is type(other)
        if isinstance(mine, Scored) and isinstance(other, Scored):
            assert (mine.image_id, mine.triage) == (other.image_id, other.triage)
            assert mine.probability == pytest.approx(other.probability, abs=1e-6)


def test_an_image_is_computed_while_others_are_fetched(scorer: Scorer) -> None:
    arrived = threading.Event()

    def slow_first(request: ScoreRequest) -> bytes:
        if request.image_id.startswith("0"):
            assert arrived.wait(20)
        return GOOD

    class Watched(Scorer):
        """Lets the first image come once another was computed."""

        def score_prepared(self, prepared):  # type: ignore[no-untyped-def]
            results = super().score_prepared(prepared)
            arrived.set()
            return results

    replica = Replica(slow_first, 1)
    replica.swap(Watched(scorer.bundle, scorer.runtime))
    assert all(isinstance(outcome, Scored) for outcome in replica.score(requests(["jpeg", "jpeg"])))


def test_an_empty_batch_is_fine(scorer: Scorer) -> None:
    replica = Replica(fetch, 1)
    replica.swap(scorer)
    assert replica.score([]) == []


def test_without_a_model_a_call_fails_as_a_whole() -> None:
    with pytest.raises(RuntimeError, match="no model"):
        Replica(fetch, 1).score(requests(["jpeg"]))


def test_a_swap_in_the_middle_of_a_call_does_not_touch_it(scorer: Scorer) -> None:
    began, swapped = threading.Event(), threading.Event()

    def slow(_: ScoreRequest) -> bytes:
        began.set()
        assert swapped.wait(20)
        return GOOD

    class Other(Scorer):
        """A model that must not be used by the call that began before it came."""

        def score_prepared(self, prepared):  # type: ignore[no-untyped-def]
            raise AssertionError

    replica = Replica(slow, 1)
    replica.swap(scorer)
    results: list[object] = []
    call = threading.Thread(target=lambda: results.extend(replica.score(requests(["jpeg"]))))
    call.start()
    assert began.wait(20)
    replica.swap(Other(scorer.bundle, scorer.runtime))
    swapped.set()
    call.join(20)
    assert isinstance(results[0], Scored)
