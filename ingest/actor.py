"""The Ray actor around the ingest loop, and the Serve application as a scorer."""

from __future__ import annotations

import asyncio
from typing import Any

from edgerad.scoring import Outcome, Scorer, ScoreRequest
from edgerad.settings import Settings
from ingest.retry import ScorerBusy, ScorerDown

APPLICATION, DEPLOYMENT = "edgerad", "Scorer"


class IngestActor:
    """One reader of X-ray events: of Kafka partitions, or of the sweep. Thin: loop.py works.

    `run` is called once by whoever starts the actor. When the actor dies Ray starts it again and, with
    `max_task_retries`, calls `run` again; it goes on from the committed offsets and the database.
    """

    def __init__(self, settings: Settings, index: int) -> None:
        """Keep the settings; of all actors, the one with index 0 also sweeps."""
        from edgerad.telemetry import configure_logging

        configure_logging(settings.telemetry)
        self._settings = settings
        self._index = index
        self._loops: dict[str, Any] = {}
        self._sweep: Any = None
        self._running: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Take X-rays in until `stop`; a second call waits for the first."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        await asyncio.shield(self._running)

    async def _run(self) -> None:
        from edgerad import lag
        from edgerad.store import ObjectStore, config_from
        from ingest.books import Books
        from ingest.loop import IngestLoop
        from ingest.sources import EventSource, KafkaSource
        from ingest.sweep import SweepSource

        settings, tuning = self._settings, self._settings.ingest
        with_kafka = settings.kafka.bootstrap_servers is not None
        books, store = Books.of(settings), ObjectStore(config_from(settings.store))
        sources: dict[str, EventSource] = {}
        if with_kafka:
            sources[f"ingest-{self._index}"] = KafkaSource(settings.kafka)
        if self._index == 0:
            interval = tuning.sweep_interval if with_kafka else tuning.embedded_sweep_interval
            grace = tuning.sweep_grace if with_kafka else 0.0
            self._sweep = SweepSource(store, books.database, interval, prefix=tuning.sweep_prefix, grace=grace)
            sources["sweep" if with_kafka else "ingest-0"] = self._sweep
        scorer = serve_scorer(APPLICATION, DEPLOYMENT, settings.serve.call_timeout)
        self._loops = {
            component: IngestLoop(
                source,
                scorer,
                books,
                store,
                tuning,
                component=component,
                on_lag=lambda waiting, component=component: lag.publish(component, waiting),  # type: ignore[misc]
            )
            for component, source in sources.items()
        }
        async with asyncio.TaskGroup() as group:
            for loop in self._loops.values():
                group.create_task(loop.run())

    async def stats(self) -> dict[str, Any]:
        """Return the figures of each of its loops."""
        return {component: loop.stats() for component, loop in self._loops.items()}

    async def nudge(self) -> None:
        """Look into the bucket at once: something was stored there."""
        if self._sweep is not None:
            self._sweep.nudge()

    async def stop(self) -> None:
        """Take nothing more in, end what is under way, commit."""
        for loop in self._loops.values():
            await loop.stop()
        if self._running is not None:
            await asyncio.wait({self._running})


def serve_scorer(application: str, deployment: str, timeout: float) -> Scorer:
    """Return the Serve application as a scorer; an answer is waited for `timeout` seconds."""
    return _ServeScorer(application, deployment, timeout)


class _ServeScorer:
    """Calls replicas through a handle; Serve's and Ray's errors become those of retry.py."""

    def __init__(self, application: str, deployment: str, timeout: float) -> None:
        self._application, self._deployment, self._timeout = application, deployment, timeout
        self._handle: Any = None

    async def score(self, requests: list[ScoreRequest]) -> list[Outcome]:
        from ray.exceptions import RayActorError, RayError, RayTaskError
        from ray.serve.exceptions import BackPressureError, RayServeException

        try:
            if self._handle is None:
                from ray import serve

                try:
                    self._handle = serve.get_deployment_handle(self._deployment, self._application)
                except KeyError:  # not deployed, or not yet
                    raise ScorerDown("serve-unavailable") from None
            outcomes: list[Outcome] = await asyncio.wait_for(self._handle.score.remote(requests), self._timeout)
        except BackPressureError:
            raise ScorerBusy from None
        except RayTaskError as error:
            # Raised by the replica's own code (and an instance of what it raised: first of all). Its kind is told; its
            # text may quote what it was given.
            raise ScorerDown(f"replica-raised-{type(error.cause).__name__}"[:64]) from None
        except TimeoutError:
            raise ScorerDown("no-answer") from None
        except RayActorError:
            raise ScorerDown("replica-died") from None
        except (RayServeException, RayError):
            self._handle = None  # the application was deployed anew: ask for it again
            raise ScorerDown("serve-unavailable") from None
        return outcomes
