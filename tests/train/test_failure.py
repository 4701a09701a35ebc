"""Why a training failed, in words."""

from __future__ import annotations

from edgerad.store import StoreUnavailable
from train import failure


def test_the_cause_is_found_behind_what_wraps_it() -> None:
    from ray.exceptions import ActorDiedError, RayTaskError
    from ray.train import WorkerGroupError

    cause = FloatingPointError("the loss of epoch 1 is nan: lower the learning rate")
    assert failure.in_words(WorkerGroupError("long text", {1: cause}), 1) == str(cause)
    task = RayTaskError("export", "a traceback\nof many lines", failure.NotTrainable("too few"))
    assert failure.in_words(task, 1) == "too few"
    assert failure.in_words(task.as_instanceof_cause(), 1) == "too few"
    away = RayTaskError("fit", "a traceback", WorkerGroupError("long text", {0: StoreUnavailable("store is away")}))
    assert failure.in_words(away.as_instanceof_cause(), 1) == "store is away"
    assert failure.is_passing(away.as_instanceof_cause())
    dead = WorkerGroupError("long text", {0: ActorDiedError()})
    assert failure.in_words(dead, 0).startswith("a training process died once, most often for want of memory")
    assert failure.in_words(dead, 2).startswith("a training process died 3 times")
    unknown = failure.in_words(KeyError("first\nsecond"), 1)
    assert unknown.startswith("KeyError: ")
    assert "\n" not in unknown
    chained = RuntimeError("outer")
    chained.__cause__ = StoreUnavailable("away")
    assert failure.is_passing(chained)
    assert not failure.is_passing(cause)
    chained.__cause__.__cause__ = chained
    assert failure.is_passing(chained), "a ring ends"
