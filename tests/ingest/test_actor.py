"""The Ray side of ingest: an actor that is killed goes on where it was, and Serve's errors mean what retry.py says."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from edgerad import bus, ids
from edgerad.database import Database
from edgerad.records import Assessment, Image
from edgerad.s3server import S3Server
from edgerad.scoring import Outcome, ScoreRequest
from edgerad.settings import Settings
from edgerad.store import ObjectStore, config_from
from ingest.actor import APPLICATION, DEPLOYMENT, IngestActor, serve_scorer
from ingest.events import sweep_record
from ingest.retry import ScorerBusy, ScorerDown

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]
LIMIT = 180
"""Seconds after which a test that gets nowhere fails; nothing here depends on how fast it gets there."""


@pytest.fixture(scope="module")
def gate(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Serve application without a model; images whose key begins with slow wait until this file is there."""
    from ray import serve

    path = tmp_path_factory.mktemp("gate") / "open"

    @serve.deployment(name=DEPLOYMENT, max_ongoing_requests=2, max_queued_requests=1, health_check_period_s=1)
    class Fake:
        async def score(self, requests: list[ScoreRequest]) -> list[Outcome]:
            import os

            from edgerad.scoring import Scored

            for request in requests:
                while request.key.startswith("slow") and not path.exists():
                    await asyncio.sleep(0.02)
                if request.key == "raise":
                    raise ValueError(request.key)
                if request.key == "raise-timeout":
                    raise TimeoutError
                if request.key == "die":
                    os._exit(1)
            return [
                Scored(request.image_id, "pneumonia", 0.5, 0.0, "unknown", "m1", "c1", "t1", "litert", 0.01)
                for request in requests
            ]

    serve.start(proxy_location="Disabled")
    application: Any = Fake
    serve.run(application.bind(), name=APPLICATION, route_prefix=None)
    yield path
    serve.shutdown()


@pytest.fixture(autouse=True)
def _closed(gate: Path) -> None:
    """The gate is closed when a test begins."""
    gate.unlink(missing_ok=True)


async def score(*keys: str, application: str = APPLICATION, timeout: float = LIMIT) -> list[Outcome]:
    """Have images scored by a scorer of its own."""
    scorer = serve_scorer(application, DEPLOYMENT, timeout)
    return await scorer.score([ScoreRequest(f"id-{key}", "xray", key) for key in keys])


def why(*keys: str, application: str = APPLICATION, timeout: float = LIMIT) -> str:
    """Return the reason why a call fails."""
    with pytest.raises(ScorerDown) as down:
        asyncio.run(score(*keys, application=application, timeout=timeout))
    return down.value.reason


def test_answers_come_as_outcomes_and_an_empty_call_tells_that_it_works() -> None:
    assert [outcome.image_id for outcome in asyncio.run(score("a", "b"))] == ["id-a", "id-b"]
    assert asyncio.run(score()) == []


@pytest.mark.parametrize(
    ("key", "reason"), [("raise", "replica-raised-ValueError"), ("raise-timeout", "replica-raised-TimeoutError")]
)
def test_what_a_replica_raises_is_told_by_its_kind(key: str, reason: str) -> None:
    assert why("a", key) == reason


def test_an_application_that_is_not_there_is_an_outage() -> None:
    assert why("a", application="nowhere") == "serve-unavailable"


def test_no_answer_in_time_is_an_outage(gate: Path) -> None:
    assert why("slow", timeout=0.5) == "no-answer"
    gate.touch()
    assert len(asyncio.run(score("slow"))) == 1


def test_full_queues_push_back(gate: Path) -> None:
    async def work() -> list[Any]:
        scorer = serve_scorer(APPLICATION, DEPLOYMENT, LIMIT)
        calls = [asyncio.create_task(scorer.score([ScoreRequest(str(number), "xray", "slow")])) for number in range(8)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION, timeout=LIMIT)
        gate.touch()
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = asyncio.run(work())
    busy = [answer for answer in answers if isinstance(answer, ScorerBusy)]
    assert busy
    assert all(len(answer) == 1 for answer in answers if answer not in busy)


def test_a_replica_that_dies_in_a_call_is_an_outage_and_comes_back() -> None:
    assert why("die") == "replica-died"
    wait(_answers)


def _answers() -> bool:
    try:
        return len(asyncio.run(score("a", timeout=10))) == 1
    except (ScorerDown, ScorerBusy):
        return False


def wait(condition: Callable[[], bool]) -> None:
    """Wait for a condition, or fail."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("source", ["sweep", pytest.param("kafka", marks=pytest.mark.real)])
def test_a_killed_actor_is_started_again_and_nothing_is_lost_or_doubled(
    gate: Path, tmp_path: Path, request: pytest.FixtureRequest, source: str
) -> None:
    import ray

    mine = uuid.uuid4().hex[:8]
    kafka: dict[str, Any] = {}
    if source == "kafka":
        bootstrap = request.getfixturevalue("kafka_broker").bootstrap
        topics = {f"topic_{name}": f"{mine}.{name}" for name in ("uploaded", "assessed", "deadletter")}
        kafka = {"bootstrap_servers": bootstrap, "group": mine, "partitions": 2, "session_timeout": 6.0, **topics}
    wait(_answers)
    with S3Server(tmp_path / "s3", "ak", "sk") as server:
        settings = Settings.model_validate(
            {
                "data_dir": tmp_path,
                "store": {
                    "endpoint_url": server.endpoint_url,
                    "access_key": {"value": "ak"},
                    "secret_key": {"value": "sk"},
                },
                "kafka": kafka,
                "ingest": {"batch_size": 4, "calls_in_flight": 2, "backoff_max": 1.0, "sweep_interval": 3600.0},
            }
        )
        database = Database(settings.database_url)
        database.upgrade()
        store = ObjectStore(config_from(settings.store))
        store.ensure_bucket()
        names = [f"a/{number}" for number in range(20)] + [f"slow/{number}" for number in range(40)]
        stored = {name: store.put(name, name.encode()) for name in names}
        if kafka:
            bus.ensure_topics(settings.kafka)
            send = bus.producer(settings.kafka)
            for name in names:
                value = sweep_record("xray", name, stored[name].etag, len(name), None)
                send.send(settings.kafka.topic_uploaded, value, key=ids.study_key(name).encode()).get(30)
            send.close()
        options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": 8}
        actor = ray.remote(IngestActor).options(**options).remote(settings, 0)
        running = actor.run.remote()
        component = "ingest-0"

        def figures() -> dict[str, Any]:
            stats = ray.get(actor.stats.remote(), timeout=LIMIT)
            return dict(stats.get(component, {}))

        # How many are done by then hangs on which images shared a batch with a slow one.
        wait(lambda: states(database).get("assessed", 0) >= 4 and figures().get("inflight", 0) > 0)
        before = states(database)["assessed"]
        ray.kill(actor, no_restart=False)
        gate.touch()
        wait(lambda: states(database) == {"assessed": 60})
        with database.read() as session:
            assert session.scalar(select(func.count()).select_from(Assessment)) == 60
        assert figures()["assessed"] <= 60 - before  # of the new process alone
        wait(lambda: figures()["lag"] == 0)
        ray.get(actor.stop.remote(), timeout=LIMIT)
        ray.get(running, timeout=LIMIT)
        ray.kill(actor)
        database.close()


def states(database: Database) -> dict[str, int]:
    """Return how many images are in each state."""
    with database.read() as session:
        rows = session.execute(select(Image.state, func.count()).group_by(Image.state))
        return {state: number for state, number in rows}  # noqa: C416 - typed rows
