"""Why a training ended, in words for people: the cause behind the wrappings of Ray, Ray Train and Ray Data."""

from __future__ import annotations

from collections.abc import Iterator

from edgerad.store import StoreError, StoreUnavailable
from serve.bundle import BundleError
from train.evaluation_set import SetError

KNOWN = (BundleError, SetError, StoreError, FloatingPointError)
"""Their own texts say what happened and what to do."""
WRAPPED_IN = ("cause", "_base_exc", "health_check_failure", "controller_failure", "__cause__")
"""Where RayTaskError, Ray Train's errors and Python keep the error that they tell of."""


class NotTrainable(Exception):
    """There is not enough to train on; the text says what is missing."""


def is_passing(error: BaseException) -> bool:
    """Return whether what ended the training is an object store that does not answer: then it is worth another try."""
    return any(isinstance(cause, StoreUnavailable) for cause in _causes(error))


def in_words(error: BaseException, retries: int) -> str:
    """Return why a training ended; `retries` is how often its workers were started again."""
    from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

    found = list(_causes(error))
    # A task's error is an instance of its cause's class as well, with a whole traceback as its text.
    causes = [cause for cause in found if not isinstance(cause, RayTaskError)] or found
    for cause in causes:
        if isinstance(cause, (*KNOWN, NotTrainable)):
            return str(cause)
    if any(isinstance(cause, RayActorError | WorkerCrashedError | OutOfMemoryError) for cause in causes):
        times = "once" if not retries else f"{retries + 1} times"
        return (
            f"a training process died {times}, most often for want of memory: give the machine more, or lower"
            " train.workers or train.batch_size; the model in service stays"
        )
    last = causes[-1]
    # The first line only: the rest of Ray's texts are tracebacks, which are in the worker's own log.
    return f"{type(last).__name__}: {str(last).strip().partition(chr(10))[0]}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it wraps, the outermost first."""
    waiting, seen = [error], set[int]()
    while waiting:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        failures = getattr(cause, "worker_failures", {})
        inner = [*failures.values(), *(getattr(cause, name, None) for name in WRAPPED_IN)]
        waiting += [item for item in inner if isinstance(item, BaseException)]
