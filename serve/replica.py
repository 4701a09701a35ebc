"""What a Serve replica does, without Ray: fetch by reference, decode, score as one batch, swap the model in place."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from edgerad.scoring import Outcome, Refused, Scored, ScoreRequest
from edgerad.store import ObjectGone, ObjectTooLarge, StoreUnavailable
from imaging.refusal import Unreadable
from serve.score import ImageScore, Scorer

Fetch = Callable[[ScoreRequest], bytes]
Result = TypeVar("Result")
NICENESS = 10
"""Of the threads that compute (Linux keeps it by thread): when images wait, the cores are theirs but for what must not
wait, as the transactions that end their work, Serve's health checks and another replica's start."""


class Replica:
    """Scores batches with the model in service; calls may overlap: one image is fetched while another is computed."""

    def __init__(self, fetch: Fetch, threads: int) -> None:
        """Keep how to fetch an object; `threads` images are computed at a time, and as many more are fetched ahead.

        A fetch leaves its processor idle while the store answers, and so does a thread that waits for Python's lock:
        with twice as many as cores, another has something to compute meanwhile.
        """
        self._fetch = fetch
        self._threads = 2 * threads
        self._pool = ThreadPoolExecutor(self._threads, "image", os.nice, (NICENESS,))
        self._turns: SimpleQueue[None] = SimpleQueue()  # a semaphore, but not one written in Python
        for _ in range(threads):
            self._turns.put(None)
        self._network = threading.Lock()
        self._scorer: Scorer | None = None

    @property
    def model_digest(self) -> str | None:
        """Digest of the bundle in service."""
        return self._scorer.bundle.digest if self._scorer else None

    def swap(self, scorer: Scorer) -> None:
        """Put a model into service: calls under way end with the one they began with."""
        self._scorer = scorer

    def score(self, requests: Sequence[ScoreRequest]) -> list[Outcome]:
        """Return an outcome per request, in order."""
        scorer = self._scorer
        if scorer is None:
            msg = "no model is in service in this replica"
            raise RuntimeError(msg)
        started = time.perf_counter()
        if scorer.runtime.whole_batches:
            results = self._batch(scorer, requests)
        else:
            results = self._each(requests, lambda data: scorer.score_bytes([data])[0])
        seconds = (time.perf_counter() - started) / max(len(requests), 1)
        return [
            result if isinstance(result, Refused) else _outcome(request.image_id, result, seconds)
            for request, result in zip(requests, results, strict=True)
        ]

    def _batch(self, scorer: Scorer, requests: Sequence[ScoreRequest]) -> list[ImageScore | Unreadable | Refused]:
        prepared = self._each(requests, scorer.prepare)
        with self._network:
            scored = iter(scorer.score_prepared([item for item in prepared if not isinstance(item, Refused)]))
        return [item if isinstance(item, Refused) else next(scored) for item in prepared]

    def _each(self, requests: Sequence[ScoreRequest], compute: Callable[[bytes], Result]) -> list[Result | Refused]:
        """Fetch objects and compute something of each; one that cannot be fetched is refused."""

        def work(request: ScoreRequest) -> Result | Refused:
            try:
                data = self._fetch(request)
            except ObjectGone:
                return Refused(request.image_id, "object-gone", "the object is no longer in the store")
            except ObjectTooLarge:
                return Refused(request.image_id, "too-large", "more bytes than serve.max_object_bytes")
            except StoreUnavailable:
                return Refused(
                    request.image_id, "store-unavailable", "the object store does not answer", retryable=True
                )
            turn = self._turns.get()
            try:
                return compute(data)
            finally:
                self._turns.put(turn)

        results: dict[int, Result | Refused] = {}
        waiting = iter(enumerate(requests))  # one for all threads: each takes the next, under Python's lock

        def run() -> None:
            for index, request in waiting:
                results[index] = work(request)

        # As many tasks as threads, and not one for each image: that would be a future, with its locks, for each.
        for task in [self._pool.submit(run) for _ in range(min(self._threads, len(requests)))]:
            task.result()
        return [results[index] for index in range(len(requests))]


def _outcome(image_id: str, result: ImageScore | Unreadable, seconds: float) -> Outcome:
    if isinstance(result, Unreadable):
        return Refused(image_id, result.reason, result.detail, header=result.header)
    return Scored(
        image_id=image_id,
        finding=result.finding,
        probability=result.probability,
        logit=result.logit,
        triage=result.triage,
        model_digest=result.model_digest,
        calibration_version=result.calibration_version,
        threshold_version=result.threshold_version,
        runtime=result.runtime,
        seconds=seconds,
        activation=result.activation,
        header=result.header,
        novelty=result.novelty,
    )
