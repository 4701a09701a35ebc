"""The ingest loop: whose fault a failure is, what becomes of it, and what a crash at any point leaves behind."""

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from edgerad import ledger
from edgerad.database import Database
from edgerad.records import Assessment, DeadLetter, Image, Outbox
from edgerad.scoring import Outcome, Scored, ScoreRequest
from edgerad.store import StoreUnavailable
from imaging.attributes import header_of
from ingest.retry import ScorerBusy, ScorerDown
from tests.imaging.files import PATIENT, dataset, written
from tests.ingest.stage import (
    TUNING,
    Log,
    Objects,
    Scorer,
    count,
    event,
    letters,
    loop_of,
    message,
    run,
    score_of,
    states,
)


def test_images_are_scored_in_batches_with_few_calls_in_flight(database: Database) -> None:
    source, scorer = Log([message(event(f"a/{n}")) for n in range(40)]), Scorer()

    async def wait(_: str) -> None:
        await asyncio.sleep(0.001)

    scorer.step = wait
    loop = run(source, scorer, database)
    assert set(states(database).values()) == {"assessed"}
    assert (count(database, Assessment), count(database, Outbox)) == (40, 40)
    assert {len(call) for call in scorer.calls} == {4}
    assert scorer.most == TUNING.calls_in_flight
    assert source.most <= loop.capacity
    assert source.closed


def test_images_wait_for_each_other_only_while_others_are_scored(database: Database) -> None:
    source, scorer = Log([message(event("a/0"))]), Scorer()

    async def while_scored(name: str) -> None:
        if name == "score" and len(scorer.calls) == 1:
            for number in (1, 2, 3):
                source.queue.append(len(source.records))
                source.records.append(message(event(f"a/{number}")))
                for _ in range(50):
                    await asyncio.sleep(0)

    scorer.step = while_scored
    run(source, scorer, database, tuning=TUNING.model_copy(update={"linger": 3600.0}))
    assert scorer.calls == [["a/0"], ["a/1", "a/2", "a/3"]]


def test_a_call_that_does_not_end_holds_up_no_other_for_longer_than_linger(database: Database) -> None:
    source, scorer = Log([message(event("a/0"))]), Scorer()
    other = asyncio.Event()

    async def until_another_is_scored(name: str) -> None:
        if name == "score" and len(scorer.calls) == 1:
            source.queue.append(1)
            source.records.append(message(event("a/1")))
            await other.wait()
        other.set()

    scorer.step = until_another_is_scored
    run(source, scorer, database, tuning=TUNING.model_copy(update={"linger": 0.01}))
    assert scorer.calls == [["a/0"], ["a/1"]]


def test_one_record_with_many_images_is_done_when_all_are(database: Database) -> None:
    source, scorer = Log([message(*(event(f"a/{n}") for n in range(10)))]), Scorer()
    seen: list[int] = []

    async def step(_: str) -> None:
        seen.append(len(source.committed))

    scorer.step = step
    run(source, scorer, database)
    assert set(seen) == {0}
    assert count(database, Assessment) == 10


def test_a_redelivered_record_changes_nothing(database: Database) -> None:
    source, scorer = Log([message(event("a/1"))] * 3), Scorer()
    run(source, scorer, database)
    again = Log([message(event("a/1"))])
    loop = run(again, scorer, database)
    assert scorer.scored == {"a/1": 1}
    assert loop.figures.repeated == 1


def test_a_final_refusal_quarantines_and_the_others_go_on(database: Database) -> None:
    source = Log([message(event(f"a/{n}")) for n in range(4)])
    run(source, Scorer({"a/2": [("truncated", False)]}), database)
    assert Counter(states(database).values()) == {"assessed": 3, "quarantined": 1}
    assert letters(database) == {"2": ("truncated", 1)}
    with database.read() as session:
        assert session.scalars(select(DeadLetter.record)).one() == source.records[2].decode()


def test_an_image_that_breaks_every_call_ends_alone(database: Database) -> None:
    source = Log([message(event(f"a/{n}")) for n in range(8)])
    scorer = Scorer({"a/5": ["always"]})
    run(source, scorer, database)
    assert states(database) == {f"a/{n}": "quarantined" if n == 5 else "assessed" for n in range(8)}
    assert [reason for reason, _ in letters(database).values()] == ["scoring-failed"]
    assert all(number == 1 for key, number in scorer.scored.items() if key != "a/5")
    assert scorer.calls.count(["a/5"]) >= 1


def test_an_image_that_breaks_every_call_keeps_whose_it_is(database: Database) -> None:
    objects = Objects()
    objects.contents["a/5"] = written(dataset())
    run(Log([message(event("a/5"))]), Scorer({"a/5": ["always"]}), database, objects=objects)
    with database.read() as session:
        image = session.scalars(select(Image)).one()
        assert (image.state, image.reason, image.header) == ("quarantined", "scoring-failed", header_of(dataset()))
        assert image.header["PatientID"] == PATIENT


def test_an_outage_of_serve_counts_no_attempts_however_long(database: Database) -> None:
    def outage() -> list[Any]:
        return [ScorerDown("replica-died") for _ in range(20)]

    async def fail_with_the_probes(where: str) -> None:
        if where == "score" and scorer.verdicts["a/0"]:
            scorer.probes = outage()

    paused: list[bool] = []

    async def watch(_: float) -> None:
        paused.append(loop.stats()["paused"])
        await asyncio.sleep(0)

    source = Log([message(event(f"a/{n}")) for n in range(4)])
    scorer = Scorer({"a/0": outage()}, step=fail_with_the_probes)
    loop = loop_of(source, scorer, database, sleep=watch)

    async def work() -> None:
        running = asyncio.create_task(loop.run())
        while len(source.committed) < 4:
            await asyncio.sleep(0)
        await loop.stop()
        await running

    asyncio.run(work())
    assert set(states(database).values()) == {"assessed"}
    assert letters(database) == {}
    assert sum(paused) > 300


def test_push_back_pauses_and_counts_nothing(database: Database) -> None:
    source, scorer = Log([message(event("a/1"))]), Scorer({"a/1": [ScorerBusy() for _ in range(10)]})
    troubles: list[Any] = []

    async def watch(_: float) -> None:
        troubles.append(loop.trouble)
        await asyncio.sleep(0)

    loop = loop_of(source, scorer, database, sleep=watch)

    async def work() -> None:
        running = asyncio.create_task(loop.run())
        while not source.committed:
            await asyncio.sleep(0)
        await loop.stop()
        await running

    asyncio.run(work())
    assert troubles == ["push-back"] * 10
    assert states(database) == {"a/1": "assessed"}


def test_an_image_that_only_the_store_fails_on_becomes_a_dead_letter(database: Database) -> None:
    source = Log([message(event(f"a/{n}")) for n in range(4)])
    run(source, Scorer({"a/1": [("store-unavailable", True)] * 3}), database)
    assert letters(database) == {"1": ("store-unavailable", TUNING.max_attempts)}
    assert Counter(states(database).values()) == {"assessed": 3, "quarantined": 1}


def test_an_outage_of_the_store_counts_no_attempts(database: Database) -> None:
    objects = Objects()
    # Five rounds, in each of which the bucket does not answer either.
    objects.checks = [StoreUnavailable("down"), StoreUnavailable("down"), None] * 5
    source = Log([message(event("a/1"))])
    run(source, Scorer({"a/1": [("store-unavailable", True)] * 5}), database, objects)
    assert states(database) == {"a/1": "assessed"}
    assert objects.checks == []


def test_an_outage_of_the_database_loses_nothing(database: Database) -> None:
    failures = [OperationalError("BEGIN", None, Exception("down")) for _ in range(7)]

    async def blocking(function: Callable[..., Any], *arguments: Any) -> Any:
        if failures and function is not ledger.report:
            raise failures.pop()
        return function(*arguments)

    source = Log([message(event("a/1"))])
    run(source, Scorer(), database, blocking=blocking)
    assert failures == []
    assert states(database) == {"a/1": "assessed"}


def test_an_outcome_that_no_database_takes_is_quarantined_alone(database: Database) -> None:
    source = Log([message(event(f"a/{n}")) for n in range(4)])
    scorer = Scorer()
    bad = score_of

    async def score(requests: list[ScoreRequest]) -> list[Outcome]:
        outcomes: list[Outcome] = [bad(request) for request in requests]
        return [
            Scored(**{name: getattr(outcome, name) for name in Scored.__slots__} | {"probability": float("nan")})
            if request.key == "a/2"
            else outcome
            for request, outcome in zip(requests, outcomes, strict=True)
        ]

    scorer.score = score  # type: ignore[method-assign]
    run(source, scorer, database)
    assert Counter(states(database).values()) == {"assessed": 3, "quarantined": 1}
    assert letters(database) == {"2": ("unrecordable", 1)}


def test_a_poisoned_record_becomes_a_dead_letter_and_the_offset_passes(database: Database) -> None:
    records = [message(event("a/1")), b"\xff\x00 no json", message(event("a/1", bucket="other")), b"{}"]
    source = Log(records)
    loop = run(source, Scorer(), database)
    assert {reason for reason, _ in letters(database).values()} == {"not-json", "foreign-bucket", "not-an-s3-event"}
    assert source.committed == {0, 1, 2, 3}
    assert loop.figures.dead_letters == 3
    with database.read() as session:
        topics = Counter(session.scalars(select(Outbox.topic)))
    assert topics == {"xray.assessed": 1, "xray.deadletter": 3}


def test_a_deleted_object_ends_as_deleted(database: Database) -> None:
    source = Log([message(event("a/1"))])
    run(source, Scorer({"a/1": [("object-gone", False)]}), database, Objects())
    assert states(database) == {"a/1": "deleted"}
    assert letters(database) == {}


def test_a_replaced_object_is_scored_as_what_it_is_now(database: Database) -> None:
    source = Log([message(event("a/1", "old"))])
    run(source, Scorer({"a/1": [("object-gone", False)]}), database, Objects({"a/1": "new"}))
    with database.read() as session:
        found = {row.etag: (row.state, row.reason) for row in session.scalars(select(Image))}
    assert found == {"old": ("deleted", "object-replaced"), "new": ("assessed", None)}


def test_a_late_deletion_event_does_not_end_what_was_stored_since(database: Database) -> None:
    ledger.register(database, [])
    source = Log([message(event("a/1", "new"), event("a/1", name="ObjectRemoved:Delete"))])
    run(source, Scorer(), database, Objects({"a/1": "new"}))
    assert states(database) == {"a/1": "assessed"}


def test_an_object_stored_again_with_the_same_content_is_scored(database: Database) -> None:
    run(Log([message(event("a/1"))]), Scorer({"a/1": [("object-gone", False)]}), database, Objects())
    run(Log([message(event("a/1"))]), Scorer(), database, Objects())
    assert states(database) == {"a/1": "deleted"}  # a late repeat of the first event: the object is still gone
    run(Log([message(event("a/1"))]), Scorer(), database, Objects({"a/1": "e1"}))
    assert states(database) == {"a/1": "assessed"}


def test_a_missing_etag_is_asked_of_the_store(database: Database) -> None:
    objects = Objects({"a/1": "e9"})
    objects.heads = [StoreUnavailable("once")]
    run(Log([message(event("a/1", ""), event("a/2", ""))]), Scorer(), database, objects)
    with database.read() as session:
        assert [(row.key, row.etag) for row in session.scalars(select(Image))] == [("a/1", "e9")]


def test_a_slow_image_holds_its_record_not_the_others(database: Database) -> None:
    source = Log([message(event(f"a/{n}")) for n in range(30)])
    release = asyncio.Event()
    scorer = Scorer()

    async def score(requests: list[ScoreRequest]) -> list[Outcome]:
        if any(request.key == "a/0" for request in requests):
            await release.wait()
        return [score_of(request) for request in requests]

    scorer.score = score  # type: ignore[method-assign]

    async def work() -> None:
        loop = loop_of(source, scorer, database)
        running = asyncio.create_task(loop.run())
        async with asyncio.timeout(20):
            while len(source.committed) < 26:
                await asyncio.sleep(0)
        assert set(range(4)).isdisjoint(source.committed)
        release.set()
        await loop.stop()
        await running

    asyncio.run(work())
    assert len(source.committed) == 30


def test_a_source_without_room_is_polled_on_so_that_its_lag_stays_true(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.loop.PAUSED_SECONDS", 0.001)
    monkeypatch.setattr("ingest.loop.POLL_SECONDS", 60.0)
    source = Log([message(event(f"a/{n}")) for n in range(40)])

    async def wait(step: str) -> None:
        polls = source.polls
        while step == "score" and source.polls < polls + 5:
            await asyncio.sleep(0.001)

    run(source, Scorer(step=wait), database)


def test_the_lag_and_the_figures_are_told(database: Database) -> None:
    lags: list[int] = []
    loop = run(Log([message(event("a/1"))]), Scorer(), database, on_lag=lags.append, component="ingest-3")
    assert lags[0] == 1
    assert loop.stats()["assessed"] == 1
    with database.read() as session:
        assert session.execute(select(func.count()).where(Image.state == "assessed")).scalar() == 1


class Killed(BaseException):
    """The process is gone."""


@given(
    kills=st.lists(st.integers(0, 60), max_size=6),
    plan=st.lists(st.sampled_from(["fine", "refused", "poison", "pair", "repeat"]), min_size=1, max_size=14),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_crash_at_any_step_loses_nothing_and_doubles_nothing(
    empty_database: Path, tmp_path_factory: pytest.TempPathFactory, kills: list[int], plan: list[str]
) -> None:
    path = tmp_path_factory.mktemp("crash") / "edgerad.db"
    shutil.copy(empty_database, path)
    database = Database(f"sqlite:///{path}")
    records, keys, refused = [], set(), {}
    for number, kind in enumerate(plan):
        names = {"pair": [f"a/{number}", f"b/{number}"], "repeat": ["a/0"], "poison": []}.get(kind, [f"a/{number}"])
        keys.update(names)
        refused.update({name: kind == "refused" for name in names if name not in refused})
        records.append(message(*map(event, names)) if names else f"poison {number}".encode())
    steps = 0
    fatal: int | None = None

    async def step(_: str) -> None:
        nonlocal steps
        steps += 1
        await asyncio.sleep(0)
        if fatal is not None and steps > fatal:
            raise Killed

    async def blocking(function: Callable[..., Any], *arguments: Any) -> Any:
        if function is ledger.report:
            return None
        await step("before the transaction")
        result = function(*arguments)
        await step("after the transaction")
        return result

    source = Log(records, step)
    for kill in [*kills, None]:
        steps, fatal = 0, kill
        source.rewind()
        plans: dict[str, list[Any]] = {key: [("truncated", False)] for key in keys if refused[key]}
        try:
            run(source, Scorer(plans, step), database, blocking=blocking)
        except* Killed:
            assert kill is not None
        # At every moment, whatever is committed is durable.
        ended = {key for key, state in states(database).items() if state != "pending"}
        for number in source.committed:
            names = (
                [item["s3"]["object"]["key"] for item in json.loads(records[number])["Records"]]
                if (records[number].startswith(b"{"))
                else []
            )
            assert set(names) <= ended
            assert names or str(number) in letters(database)
    assert source.committed == set(range(len(records)))
    assert states(database) == {key: "quarantined" if refused[key] else "assessed" for key in keys}
    assert count(database, Assessment) == sum(not refused[key] for key in keys)
    poisoned = plan.count("poison")
    assert count(database, DeadLetter) == sum(refused[key] for key in keys) + poisoned
    assert count(database, Outbox) == len(keys) + poisoned
    database.close()
