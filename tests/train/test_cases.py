"""What the core learns from: labels, cases and their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.exc import DatabaseError

from edgerad import decisions, queries
from edgerad.records import CoreCase, Label
from tests.train.bench import FINDING, Bench, case
from train import cases, intake


def test_labels_cannot_be_changed_or_removed_and_the_newest_counts(bench: Bench) -> None:
    bench.label(1)
    for change in (update(Label).values(label="negative"), delete(Label)):
        with pytest.raises(DatabaseError, match="append-only"), bench.database.write() as session:
            session.execute(change)
    last = cases.last_label(bench.database)
    assert [row.label for row in cases.labelled(bench.database, FINDING, last)] == [1]
    decisions.label(bench.database, "case-001", "negative", "Dr. B")
    newest = cases.last_label(bench.database)
    assert [row.label for row in cases.labelled(bench.database, FINDING, newest)] == [0]
    assert [row.label for row in cases.labelled(bench.database, FINDING, last)] == [1], "as it was then"
    decisions.label(bench.database, "case-001", "unsure", "Dr. B")
    assert cases.labelled(bench.database, FINDING, cases.last_label(bench.database)) == []


def test_only_usable_labels_of_the_training_split_are_learned_from_and_counted(bench: Bench) -> None:
    bench.label(2)
    bench.label(1, split="evaluation")
    bench.label(1, finding="effusion")
    decisions.label(bench.database, "case-002", "unsure", "Dr. B")
    found = cases.labelled(bench.database, FINDING, cases.last_label(bench.database))
    assert [(row.key, row.group, row.source) for row in found] == [("cases/case-001", "p-case-001", "cases")]
    assert cases.new_labels(bench.database, FINDING) == 1


def test_all_cases_of_a_patient_are_on_one_side_for_ever(
    bench: Bench, make_parcel: Callable[..., Any], desk: intake.Desk
) -> None:
    patients = ["B" * 16, "D" * 16]
    for number in range(6):
        parcel = make_parcel(number % 2, picture=True).with_manifest(
            patient=patients[number % 2], parcel_id=f"{number:032x}"
        )
        parcel.send(bench.store)
        assert intake.take_in(bench.store, bench.database, desk).accepted == 1
    with bench.database.read() as session:
        rows = list(session.scalars(select(CoreCase)))
    sides = {(row.patient, row.split) for row in rows}
    assert len(rows) == 6
    assert sides == {(patients[0], "train"), (patients[1], "evaluation")}


def test_the_queue_asks_for_the_most_uncertain_first_and_for_each_case_once(bench: Bench) -> None:
    with bench.database.write() as session:
        for name, probability in (("sure", 0.97), ("torn", 0.51), ("low", 0.2), ("near", 0.4)):
            session.add(case(name, probability=probability))

    def queue() -> list[str]:
        return [row.case_id for row in queries.unlabelled(bench.database)]

    assert queue() == ["torn", "near", "low", "sure"]
    decisions.label(bench.database, "torn", "unsure", "Dr. A")
    decisions.label(bench.database, "sure", "positive", "Dr. A")
    assert queue() == ["near", "low"], "an unsure label is an answer too"
    assert queries.count_unlabelled(bench.database) == 2
