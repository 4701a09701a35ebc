"""What the pages read: order, filters, counts and accuracies, on both databases."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from edgerad import decisions, figures, ids, ledger, listing, queries
from edgerad.database import Database
from edgerad.drift import WINDOW
from edgerad.ledger import Letter, NewImage, ShipPolicy
from edgerad.records import Alert, Assessment, CoreCase, Image, Model, Rollout, now
from edgerad.scoring import Refused, Scored, Triage

START = datetime(2026, 3, 1, tzinfo=UTC)
A, B = "a" * 64, "b" * 64


@pytest.fixture
def database(tmp_database_url: str) -> Iterator[Database]:
    """An empty database."""
    database = Database(tmp_database_url)
    database.upgrade()
    yield database
    database.close()


def score(database: Database, number: int, probability: float, model: str = A, at: datetime | None = None) -> str:
    """Register and score one image as the ingest actor does, at a time; return its id."""
    image = NewImage("xray", f"{number}.dcm", f"{number:032x}", None, 1, None, "kafka")
    ledger.register(database, [image])
    triage: Triage = "high" if probability > 0.8 else "low" if probability < 0.2 else "unknown"
    scored = Scored(image.image_id, "pneumonia", probability, 0.0, triage, model, "cal", "thr", "litert", 0.1)
    ledger.record(database, [scored], {}, ShipPolicy(True, 0.0), "xray.assessed")
    if at is not None:
        with database.write() as session:
            for table, values in (
                (Assessment, {"assessed_at": at}), (Alert, {"opened_at": at}), (Image, {"registered_at": at}),
            ):  # fmt: skip
                session.execute(update(table).where(table.image_id == image.image_id).values(**values))
    return image.image_id


def test_open_alerts_come_first_the_oldest_on_top_then_the_newest(database: Database) -> None:
    low = score(database, 1, 0.1, at=START + timedelta(minutes=9))
    old = score(database, 2, 0.9, at=START)
    unknown = score(database, 3, 0.5, at=START + timedelta(minutes=1))
    new = score(database, 4, 0.99, at=START + timedelta(minutes=5))
    done = score(database, 5, 0.95, at=START + timedelta(minutes=2))
    decisions.acknowledge(
        database, next(r.alert_id for r in queries.worklist(database) if r.image_id == done) or "", "A"
    )
    found = queries.worklist(database)
    assert [row.image_id for row in found] == [old, new, low, done, unknown]
    assert [row.alert_state for row in found] == ["open", "open", None, "acknowledged", None]
    assert found[0].alerted_at == START
    assert {(row.model_digest, row.calibration_version, row.threshold_version) for row in found} == {(A, "cal", "thr")}


def test_every_page_of_the_worklist_follows_the_one_before(database: Database) -> None:
    for number in range(23):
        score(database, number, (0.9, 0.5, 0.1)[number % 3], at=START + timedelta(seconds=number // 2))
    whole = [row.image_id for row in queries.worklist(database, limit=100)]
    assert len(set(whole)) == 23
    for size in (1, 4, 8, 9):
        paged = [
            row.image_id
            for offset in range(0, 23, size)
            for row in queries.worklist(database, limit=size, offset=offset)
        ]
        assert paged == whole


@pytest.mark.parametrize("unread", [False, True])
@pytest.mark.parametrize("triage", [("high", "unknown", "low"), ("low",), ("low", "unknown"), ("high",)])
def test_the_worklist_is_counted_as_it_is_listed(database: Database, triage: tuple[str, ...], unread: bool) -> None:
    for number in range(12):
        image = score(database, number, (0.9, 0.5, 0.1)[number % 3])
        if number % 4 == 0:
            decisions.review(database, image, "unsure", "A")
    open_ones = [row.alert_id for row in queries.worklist(database, ("high",)) if row.alert_id]
    decisions.acknowledge(database, open_ones[0], "A")
    listed = queries.worklist(database, triage, 100, unread=unread)
    assert queries.count_worklist(database, triage, unread=unread) == len(listed)


def test_every_refused_image_is_on_one_page_also_when_all_were_refused_at_once(database: Database) -> None:
    for number in range(11):
        refuse(database, number)
    with database.write() as session:
        session.execute(update(Image).values(finished_at=START))
    assert queries.count_not_assessable(database) == 11
    paged = [row.image_id for offset in range(0, 12, 4) for row in queries.not_assessable(database, 4, offset)]
    assert len(set(paged)) == 11


@pytest.mark.parametrize("table", [Rollout, Model])
def test_every_row_of_a_table_is_on_one_page(database: Database, table: type[Rollout] | type[Model]) -> None:
    with database.write() as session:
        for number in range(9):
            session.add(Rollout(edge_id="edge", finding="pneumonia", model_digest=str(number), state="refused"))
            session.add(Model(model_digest=str(number), finding="f", state="candidate", uri="u", created_at=START))
    assert listing.count(database, table) == 9
    paged = [row.model_digest for offset in range(0, 10, 4) for row in listing.newest(database, table, 4, offset)]
    assert sorted(paged) == [str(number) for number in range(9)]


def test_the_newest_rows_come_first(database: Database) -> None:
    with database.write() as session:
        for number in range(9):
            session.add(Rollout(edge_id="edge", finding="pneumonia", model_digest=str(number), state="refused"))
    assert [row.model_digest for row in listing.newest(database, Rollout, 2)] == ["8", "7"]


def test_the_model_in_service_is_found_however_many_rollouts_were_refused_since(database: Database) -> None:
    with database.write() as session:
        for digest, state in (("old", "serving"), (A, "serving"), *[("bad", "refused")] * 50):
            session.add(Rollout(edge_id="edge", finding="pneumonia", model_digest=digest, state=state))
            session.flush()
        session.add(Rollout(edge_id="east", finding="pneumonia", model_digest=B, state="serving"))
    assert [(row.edge_id, row.model_digest) for row in queries.operations(database).serving] == [
        ("east", B),
        ("edge", A),
    ]


def test_the_worklist_filters_by_triage_and_by_what_was_read(database: Database) -> None:
    low, unknown, high = score(database, 1, 0.1), score(database, 2, 0.5), score(database, 3, 0.9)
    assert [row.image_id for row in queries.worklist(database, ("low",))] == [low]
    assert {row.image_id for row in queries.worklist(database, ("low", "unknown"))} == {low, unknown}
    decisions.review(database, low, "negative", "A")
    decisions.review(database, low, "unsure", "A")
    decisions.review(database, high, "positive", "A")
    unread = queries.worklist(database, unread=True)
    assert [row.image_id for row in unread] == [high, unknown], "an open alert stays, read or not"
    assert {row.image_id: row.reviewed for row in queries.worklist(database)} == {
        low: "unsure", unknown: None, high: "positive",
    }  # fmt: skip


def test_a_shadow_assessment_is_history_and_no_row(database: Database) -> None:
    image = score(database, 1, 0.1)
    with database.write() as session:
        shadow = {
            "assessment_id": "shadow", "image_id": image, "finding": "pneumonia", "probability": 0.9, "logit": 2.0,
            "triage": "high", "model_digest": B, "calibration_version": "c", "threshold_version": "t",
            "role": "shadow", "runtime": "litert", "seconds": 0.1,
        }  # fmt: skip
        session.add(Assessment(**shadow))
    assert [row.probability for row in queries.worklist(database)] == [0.1]
    view = queries.view_case(database, image)
    assert view is not None
    assert [row.role for row in view.assessments] == ["shadow", "primary"]
    assert (
        sum(count for _, _, count in figures.trends(database, now() - timedelta(hours=1), timedelta(hours=1)).volume)
        == 1
    )


def test_a_case_has_its_history(database: Database) -> None:
    image = score(database, 1, 0.9)
    (row,) = queries.worklist(database)
    decisions.acknowledge(database, row.alert_id or "", "A")
    decisions.review(database, image, "positive", "A", "clear")
    decisions.review(database, image, "negative", "B")
    view = queries.view_case(database, image)
    assert view is not None
    assert [event.kind for event in view.events] == ["acknowledged", "opened"]
    assert [(review.verdict, review.reviewer) for review in view.reviews] == [("negative", "B"), ("positive", "A")]
    assert view.alert is not None
    assert view.shipment is None
    assert queries.view_case(database, "none") is None
    unknown = queries.view_case(database, score(database, 2, 0.5))
    assert unknown is not None
    assert unknown.shipment is not None


def test_the_revision_changes_with_whatever_the_worklist_shows(database: Database) -> None:
    seen = [queries.revision(database)]
    image = score(database, 1, 0.9)
    seen.append(queries.revision(database))
    decisions.review(database, image, "positive", "A")
    seen.append(queries.revision(database))
    decisions.acknowledge(database, queries.worklist(database)[0].alert_id or "", "A")
    seen.append(queries.revision(database))
    refuse(database)
    seen.append(queries.revision(database))
    assert len(set(seen)) == 5
    assert queries.revision(database) == seen[-1]


def refuse(database: Database, number: int = 0) -> None:
    """Quarantine one image."""
    image = NewImage("xray", f"bad-{number}", f"{number:032x}", None, 1, None, "kafka")
    ledger.register(database, [image])
    refused = Refused(image.image_id, "truncated", "cut")
    ledger.record(database, [refused], {image.image_id: Letter("kafka", "t/0/1", "{}")}, ShipPolicy(True, 0), "t", "d")


def test_totals_count_the_last_day(database: Database) -> None:
    assert queries.totals(database) == queries.Totals(0, None, 0, 0, 0)
    score(database, 1, 0.9, at=now() - timedelta(hours=25))
    score(database, 2, 0.9)
    refuse(database)
    ledger.register(database, [NewImage("xray", "new", "e" * 32, None, 1, None, "kafka")])
    totals = queries.totals(database)
    assert replace(totals, oldest_alert=None) == queries.Totals(2, None, 1, 1, 1)
    assert totals.oldest_alert is not None
    assert now() - totals.oldest_alert > timedelta(hours=24)


def test_trends_count_by_whole_spans_and_by_risk(database: Database) -> None:
    hour = timedelta(hours=1)
    for number, (minutes, probability) in enumerate(
        ((0, 0.0), (59, 0.049), (60, 0.05), (61, 0.9), (62, 1.0), (125, 0.5))
    ):
        score(database, number, probability, at=START + timedelta(minutes=minutes))
    seen = figures.trends(database, START + timedelta(minutes=59), hour)
    assert seen.volume == [
        (START, "low", 2),
        (START + hour, "high", 2),
        (START + hour, "low", 1),
        (START + 2 * hour, "unknown", 1),
    ]
    assert [(round(low, 2), triage, count) for low, triage, count in seen.risk] == [
        (0.0, "low", 2), (0.05, "low", 1), (0.5, "unknown", 1), (0.9, "high", 1), (0.95, "high", 1),
    ]  # fmt: skip
    assert figures.trends(database, START + 3 * hour, hour).volume == []


def test_accuracy_is_by_model_and_the_newest_review_counts(database: Database) -> None:
    day = timedelta(days=1)
    truth = {
        score(database, 1, 0.9, A, START): ("negative", "positive"),  # the newest says: rightly called
        score(database, 2, 0.9, A, START): ("negative",),
        score(database, 3, 0.1, A, START): ("negative",),
        score(database, 4, 0.1, A, START): ("positive", "unsure"),  # left out
        score(database, 5, 0.6, B, START + day): ("positive",),
        score(database, 6, 0.4, B, START + day): ("positive",),
    }
    score(database, 7, 0.99, B, START + day)  # nobody reviewed it
    for image, verdicts in truth.items():
        for verdict in verdicts:
            decisions.review(database, image, verdict, "A", source="simulated" if verdict == "positive" else "person")
    first, second = figures.accuracy(database, START, day)
    assert (first.model_digest, first.start, second.model_digest, second.start) == (A, START, B, START + day)
    assert (first.accuracy.successes, first.accuracy.trials, first.simulated) == (2, 3, 1)
    assert (first.sensitivity.successes, first.sensitivity.trials) == (1, 1)
    assert (first.specificity.successes, first.specificity.trials) == (1, 2)
    assert (second.accuracy.successes, second.accuracy.trials, second.simulated) == (1, 2, 2)
    assert second.specificity.value is None
    assert second.sensitivity.low < 0.5 < second.sensitivity.high
    assert [row.accuracy.trials for row in figures.accuracy(database, START)] == [3, 2]
    assert [row.accuracy.trials for row in figures.accuracy(database, START + day)] == [2]


def test_drift_is_of_the_newest_images_that_the_deciding_model_scored(database: Database) -> None:
    for number in range(WINDOW + 60):
        image = score(database, number, 0.5, at=START + timedelta(minutes=number))
        values = {"novelty": 1.0 if number < 60 else number % 50 / 50, "role": "primary"}
        if number % 20 == 0:
            values["novelty"] = None  # of a version that did not know novelties
        with database.write() as session:
            session.execute(update(Assessment).where(Assessment.image_id == image).values(**values))
    seen = queries.operations(database).drift
    assert seen.images == WINDOW - 10
    assert seen.score is not None
    assert seen.score < 0.1, "the old ones, all unlike the training, are out of the window"
    assert not seen.is_flagged


def test_operations_show_what_waits(database: Database) -> None:
    score(database, 1, 0.5)
    score(database, 2, 0.9)
    refuse(database)
    ledger.register(database, [NewImage("xray", "new", "e" * 32, None, 1, None, "kafka")])
    ledger.report(database, "ingest-0", {"lag": 3})
    with database.write() as session:
        session.add(Rollout(edge_id="edge", finding="pneumonia", model_digest=A, state="serving"))
    seen = queries.operations(database)
    assert seen.images == {"assessed": 2, "quarantined": 1, "pending": 1}
    assert seen.oldest_pending is not None
    assert seen.shipments == {"queued": 1}
    assert seen.dead_letters == {"truncated": 1}
    assert (seen.outbox, seen.alerts_open) == (3, 1)
    assert [(row.component, row.data) for row in seen.components] == [("ingest-0", {"lag": 3})]
    assert [row.model_digest for row in seen.serving] == [A]
    assert [row.reason for row in queries.not_assessable(database)] == ["truncated"]


def test_the_most_uncertain_case_is_labelled_first_and_leaves_the_queue(database: Database) -> None:
    with database.write() as session:
        for probability in (0.2, 0.55, 0.7, 0.49):
            case = {
                "case_id": ids.digest(str(probability)), "edge_id": "edge", "object_key": "k", "object_digest": "d",
                "media_type": "image/png", "patient": "p", "finding": "pneumonia", "probability": probability,
                "triage": "unknown", "model_digest": "m", "why": "unknown", "split": "train", "manifest": {},
            }  # fmt: skip
            session.add(CoreCase(**case))
    assert [case.probability for case in queries.unlabelled(database)] == [0.49, 0.55, 0.7, 0.2]
    decisions.label(database, ids.digest("0.49"), "unsure", "A")
    assert [case.probability for case in queries.unlabelled(database, 2)] == [0.55, 0.7]
    assert [case.probability for case in queries.unlabelled(database, 2, 1)] == [0.7, 0.2]
    assert queries.count_unlabelled(database) == 3
