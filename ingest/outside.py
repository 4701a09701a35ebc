"""What the loop depends on: Serve, the object store and the database, each waited for while it is out."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

from edgerad.scoring import Scorer, ScoreRequest
from edgerad.sections import IngestSettings
from edgerad.store import Head, ObjectGone, StoreError
from edgerad.telemetry import get_logger
from imaging.limits import DEFAULT_LIMITS
from imaging.part10 import whose
from ingest.books import is_outage
from ingest.retry import Backoff, Part, Sleep

T = TypeVar("T")


class Objects(Protocol):
    """What the loop needs of the object store; an `edgerad.store.ObjectStore` is one."""

    @property
    def bucket(self) -> str:
        """Name of the bucket."""

    def head(self, key: str) -> Head:
        """Return an object's properties; raises ObjectGone."""

    def get(
        self, key: str, version_id: str | None = None, limit_bytes: int | None = None, etag: str | None = None
    ) -> bytes:
        """Return an object's bytes; raises StoreError."""

    def check(self) -> None:
        """Raise unless the bucket answers."""


class Outside:
    """Calls to the parts that the loop depends on. `blocking` runs a blocking function, `sleep` pauses."""

    def __init__(
        self, scorer: Scorer, objects: Objects, tuning: IngestSettings, blocking: Callable[..., Any], sleep: Sleep
    ) -> None:
        """Keep the parts; nothing is asked before something fails."""
        self._objects, self._tuning = objects, tuning
        self._blocking, self._sleep = blocking, sleep
        self._backoff = Backoff(tuning.backoff_initial, tuning.backoff_max)
        self._random = random.Random()  # noqa: S311 - jitter
        self.serve = Part("serve", lambda: scorer.score([]), self._backoff, sleep)
        self.store = Part("store", lambda: self._blocking(objects.check), self._backoff, sleep)
        self._database_out = False
        self._pushed_back = 0
        self._log = get_logger("ingest")

    @property
    def trouble(self) -> str | None:
        """What is waited for: database, store, serve or push-back; None when all work."""
        if self._database_out:
            return "database"
        for part in (self.store, self.serve):
            if part.out:
                return part.name
        return "push-back" if self._pushed_back else None

    async def close(self) -> None:
        """Stop asking."""
        await self.serve.close()
        await self.store.close()

    async def wait(self, failures: int, pushed_back: bool = False) -> None:
        """Pause after so many failures; `pushed_back` shows as trouble meanwhile."""
        self._pushed_back += pushed_back
        try:
            await self._sleep(self._backoff.pause(failures, self._random))
        finally:
            self._pushed_back -= pushed_back

    async def write(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a transaction until the database takes it; what is no outage is raised."""
        failures = 0
        while True:
            try:
                result = await self._blocking(function, *arguments)
            except Exception as error:
                if not is_outage(error):
                    raise
                failures += 1
                if not self._database_out:
                    self._log.error("the database does not answer; waiting for it", error=error)
                self._database_out = True
            else:
                self._database_out = False
                return cast("T", result)
            await self.wait(failures)

    async def whose(self, request: ScoreRequest) -> dict[str, str]:
        """Return the header of an image that Serve cannot score, so that the worklist names its patient; else empty."""
        try:
            limit = DEFAULT_LIMITS.max_bytes
            data = await self._blocking(self._objects.get, request.key, request.version_id, limit, request.etag)
        except StoreError:
            return {}
        return cast("dict[str, str]", await self._blocking(whose, data))

    async def head(self, key: str) -> Head | None:
        """Return an object's properties, None when it is not there; StoreError when only this one gets no answer."""
        failures = 0
        while True:
            try:
                return cast("Head", await self._blocking(self._objects.head, key))
            except ObjectGone:
                return None
            except StoreError:
                failures += await self.store.works()
                if failures >= self._tuning.max_attempts:
                    raise
            await self.wait(max(failures, 1))
