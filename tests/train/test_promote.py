"""The promotion rule on figures, and its record: one model in service, each decision with its reason."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from edgerad import registry
from edgerad.audit import verify
from edgerad.database import Database
from edgerad.records import Audit, Model
from edgerad.store import StoreUnavailable
from train import promote
from train.promote import Decision, NotPossible, decide, paired_change

FINDING = "pneumonia"
CONFIDENCE = 0.95
A, B, C = "a" * 64, "b" * 64, "c" * 64
YES = Decision(True, "promoted: better", {"auroc": 1})
NO = Decision(False, "not promoted: no better")


def scores(separation: float, cases: int = 200, seed: int = 0) -> tuple[Any, Any]:
    """Labels, and probabilities that tell them apart as far as `separation` (in standard deviations) says."""
    rng = np.random.default_rng(seed)
    labels = np.arange(cases) % 2
    return labels, 1 / (1 + np.exp(-(rng.normal(0, 1, cases) + separation * (labels - 0.5))))


def better(shift: float = 2.5) -> tuple[Any, Any, Any]:
    """Labels, a middling model, and one that is better on the very same cases."""
    labels, old = scores(1.5)
    logit = np.log(old / (1 - old)) + shift * (labels - 0.5)
    return labels, old, 1 / (1 + np.exp(-logit))


# The rule


def test_a_candidate_that_lives_on_frames_is_not_promoted_however_good() -> None:
    labels, old, new = better()
    _, chance = scores(0.0, seed=3)
    _, telling = scores(2.0, seed=4)
    refused = decide(labels, old, new, CONFIDENCE, (chance, telling))
    assert not refused.promoted
    assert "from frames alone, which are no evidence; 0.65 is the most allowed" in refused.reason
    assert refused.figures["frames_alone"]["candidate"] > 0.8
    assert decide(labels, old, new, CONFIDENCE, (chance, chance)).promoted
    assert decide(labels, old, new, CONFIDENCE, (telling, telling)).promoted, "the one in service is as bad"


def test_a_candidate_that_is_better_with_confidence_is_promoted_with_its_figures() -> None:
    labels, old, new = better()
    decision = decide(labels, old, new, CONFIDENCE)
    assert decision.promoted
    assert decision.reason.startswith("promoted: Brier score 0.1")
    figures = decision.figures
    assert figures["confidence_better"] > CONFIDENCE
    assert figures["brier"]["candidate"] < figures["brier"]["current"]
    assert figures["auroc_difference"]["low"] > 0
    assert figures["current"]["cases"] == figures["candidate"]["cases"] == 200
    assert figures["candidate"]["auroc"]["value"] > figures["current"]["auroc"]["value"]


def test_the_confidence_is_the_one_that_was_asked_for() -> None:
    labels, old = scores(1.5, seed=1)
    _, new = scores(1.9, seed=5)
    reached = decide(labels, old, new, CONFIDENCE).figures["confidence_better"]
    assert 0.6 < reached < 0.9999
    assert "are needed" not in decide(labels, old, new, reached - 0.001).reason
    refused = decide(labels, old, new, reached + 0.0005)
    assert not refused.promoted
    assert "are needed" in refused.reason


def test_the_model_in_service_itself_is_no_better_than_itself() -> None:
    labels, old = scores(1.5)
    decision = decide(labels, old, old, CONFIDENCE)
    assert not decision.promoted
    assert decision.figures["confidence_better"] == 0.5
    assert decision.figures["auroc_difference"]["value"] == 0


def test_a_surer_model_that_ranks_alike_is_better_if_it_is_right() -> None:
    labels = np.arange(100) % 2
    timid, sure = labels * 0.4 + 0.3, labels * 0.8 + 0.1
    assert decide(labels, timid, sure, CONFIDENCE).promoted
    assert not decide(labels, sure, timid, CONFIDENCE).promoted
    assert not decide(labels, timid, 1 - sure, CONFIDENCE).promoted


def test_truer_probabilities_do_not_buy_a_worse_ranking() -> None:
    labels, old = scores(2.5, cases=400)
    timid = 1 / (1 + np.exp(-0.2 * np.log(old / (1 - old))))  # the ranks of `old`, nothing near 0 or 1
    _, worse = scores(2.0, cases=400, seed=1)
    decision = decide(labels, timid, worse, CONFIDENCE)
    assert decision.figures["confidence_better"] > CONFIDENCE
    assert not decision.promoted
    assert "AUROC may be lower by" in decision.reason


def test_a_worse_candidate_is_not_promoted_however_sure_that_is() -> None:
    labels, old, new = better()
    decision = decide(labels, new, old, CONFIDENCE)
    assert not decision.promoted
    assert decision.figures["confidence_better"] < 0.05
    assert "better with 0.0% confidence" in decision.reason


@pytest.mark.parametrize(("positives", "negatives"), [(44, 200), (200, 44), (0, 50), (50, 0), (0, 0)])
def test_too_few_cases_of_a_label_decide_nothing(positives: int, negatives: int) -> None:
    labels = np.repeat([1, 0], [positives, negatives])
    decision = decide(labels, np.full(len(labels), 0.5), labels * 0.9, CONFIDENCE)
    assert not decision.promoted
    assert f"{positives} positive and {negatives} negative" in decision.reason
    assert decision.figures == {}


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_so_many_cases_are_asked_for_that_a_model_without_a_difference_is_not_inferior(confidence: float) -> None:
    needed = promote.fewest_cases(confidence)
    assert paired_change(np.ones(needed), np.ones(needed), confidence).low > -promote.MARGIN
    if needed > 20:
        assert paired_change(np.ones(needed - 1), np.ones(needed - 1), confidence).low <= -promote.MARGIN


def test_what_only_is_described_decides_nothing_and_needs_no_number_of_cases() -> None:
    labels, old, new = better()
    figures = promote.describe(labels[:10], old[:10], new[:10])
    assert (figures["cases"], figures["positives"]) == (10, 5)
    assert figures["candidate"]["auroc"]["value"] >= figures["current"]["auroc"]["value"]
    assert promote.describe([1, 1], [0.4, 0.6], [0.5, 0.7]) == {"cases": 2, "positives": 2}
    assert promote.describe([], [], []) == {"cases": 0, "positives": 0}


@pytest.mark.parametrize(("label", "name"), [(1, "sensitivity"), (0, "specificity")])
def test_a_better_score_does_not_buy_a_lower_sensitivity_or_specificity(label: int, name: str) -> None:
    labels, old, new = better(5.0)
    logit = np.log(new / (1 - new))
    moved = 1 / (1 + np.exp(-(logit - (2.9 if label else -2.9))))
    decision = decide(labels, old, moved, CONFIDENCE)
    assert decision.figures["confidence_better"] > CONFIDENCE
    assert not decision.promoted
    assert f"{name} may be lower" in decision.reason


def test_the_figures_are_the_same_each_time() -> None:
    labels, old, new = better()
    assert decide(labels, old, new, CONFIDENCE) == decide(labels, old, new, CONFIDENCE)


def test_chance_promotes_as_seldom_as_the_confidence_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promote, "evaluate", lambda *_, **__: SimpleNamespace(as_dict=dict))  # only slow, here
    promoted = 0
    for seed in range(300):
        labels, old = scores(1.5, 120, seed=seed)
        _, new = scores(1.5, 120, seed=seed + 10_000)
        promoted += decide(labels, old, new, CONFIDENCE).promoted
    # Two models of one quality: at most 5 % may seem better.
    assert 0 < promoted <= 15


def test_a_paired_change_is_bonett_and_prices() -> None:
    # 40 pairs, 10 gained, 4 lost: (11/42 - 5/42) -/+ 1.645 * sqrt((16/42 - (6/42)^2) / 42), by hand.
    before = np.array([True] * 4 + [False] * 10 + [True] * 20 + [False] * 6)
    after = np.array([False] * 4 + [True] * 10 + [True] * 20 + [False] * 6)
    change = paired_change(before, after, 0.95)
    assert (change.before, change.after) == (24 / 40, 30 / 40)
    assert change.low == pytest.approx(6 / 42 - 1.644854 * ((16 / 42 - (6 / 42) ** 2) / 42) ** 0.5, abs=1e-6)


# The record


@pytest.fixture
def core(database: Database, store: Any, tmp_path: Path) -> Any:
    """A core whose model A is in service, with A, B and C in the registry."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "bundle.json").write_text("{}")
    for digest in (A, B, C):
        registry.publish(store, FINDING, digest, folder)
    promote.adopt(database, FINDING, A, {"test": 1}, "shipped")
    promote.point(store, database, FINDING)
    return database


def settle(database: Database, digest: str, decision: Decision, compared_with: str = A) -> str:
    with database.write() as session:
        return promote.settle(
            session, FINDING, digest, compared_with, decision, metrics={"m": 1}, training_run_id="run"
        )


def states(database: Database) -> dict[str, str]:
    with database.read() as session:
        return {row.model_digest[0]: row.state for row in session.scalars(select(Model))}


def audits(database: Database) -> list[tuple[str, str, str]]:
    with database.read() as session:
        rows = session.scalars(select(Audit).order_by(Audit.audit_id))
        return [(row.actor, row.action, row.subject[0]) for row in rows]


def test_the_first_model_is_adopted_once(core: Database) -> None:
    promote.adopt(core, FINDING, B, {}, "another")
    assert states(core) == {"a": "promoted"}
    assert audits(core) == [("core", "model-promoted", "a")]


def test_a_decision_is_recorded_whichever_way_it_went(core: Database) -> None:
    assert settle(core, B, NO) == "rejected"
    assert settle(core, C, YES) == "promoted"
    assert states(core) == {"a": "retired", "b": "rejected", "c": "promoted"}
    assert audits(core)[1:] == [("core", "model-rejected", "b"), ("core", "model-promoted", "c")]
    with core.read() as session:
        model = session.get_one(Model, C)
    assert (model.reason, model.metrics, model.parent_digest) == (YES.reason, {"m": 1}, A)
    assert verify(core)[1] is None


def test_a_repeated_decision_changes_nothing(core: Database) -> None:
    assert settle(core, B, YES) == "promoted"
    before = audits(core)
    assert settle(core, B, NO) == "promoted"
    assert audits(core) == before


def test_a_comparison_with_a_model_that_is_no_longer_in_service_decides_nothing(core: Database) -> None:
    settle(core, B, YES)
    assert settle(core, C, YES, compared_with=A) == "rejected"
    assert states(core) == {"a": "retired", "b": "promoted", "c": "rejected"}
    with core.read() as session:
        assert "train again" in session.get_one(Model, C).reason


def test_of_two_cores_that_decide_at_once_one_promotes(tmp_database_url: str, store: Any) -> None:
    database = Database(tmp_database_url)
    database.upgrade()
    promote.adopt(database, FINDING, A, {}, "shipped")
    together = threading.Barrier(2)
    ended: list[str] = []

    def decided(digest: str) -> None:
        together.wait()
        ended.append(settle(database, digest, YES))

    threads = [threading.Thread(target=decided, args=(digest,)) for digest in (B, C)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["promoted", "rejected"]
    assert sorted(states(database).values()) == ["promoted", "rejected", "retired"]
    assert verify(database)[1] is None
    database.close()


def test_by_hand_a_rejected_model_is_put_into_service_by_name_and_with_a_reason(core: Database, store: Any) -> None:
    settle(core, B, NO)
    promote.promote_by_hand(core, FINDING, B, " Dr.  Who ", "better on\nour films")
    assert states(core) == {"a": "retired", "b": "promoted"}
    assert audits(core)[-1] == ("person:Dr. Who", "model-promoted", "b")
    with core.read() as session:
        assert session.get_one(Model, B).reason == "promoted by hand: better on our films"
    assert promote.point(store, core, FINDING)
    assert registry.current(store, FINDING) == B


@pytest.mark.parametrize(
    ("digest", "person", "reason", "said"),
    [
        (C, "Dr. Who", "why", "there is no model"),
        (A, "Dr. Who", "why", "in service already"),
        (B, "  ", "why", "say who you are"),
        (B, "x" * 100, "why", "say who you are"),
        (B, "Dr. Who", " ", "give a reason"),
        (B, "Dr. Who", "x" * 501, "give a reason"),
    ],
)
def test_what_cannot_be_done_by_hand_is_said_and_changes_nothing(
    core: Database, digest: str, person: str, reason: str, said: str
) -> None:
    settle(core, B, NO)
    before = states(core), audits(core)
    with pytest.raises(NotPossible, match=said):
        promote.promote_by_hand(core, FINDING, digest, person, reason)
    assert (states(core), audits(core)) == before


def test_rolling_back_twice_goes_back_twice(core: Database) -> None:
    settle(core, B, YES)
    settle(core, C, YES, compared_with=B)
    assert promote.previous(core, FINDING) == B
    assert promote.rollback(core, FINDING, "Dr. Who", "too many alerts") == B
    assert promote.rollback(core, FINDING, "Dr. Who", "still") == A
    assert states(core) == {"a": "promoted", "b": "rejected", "c": "rejected"}
    with pytest.raises(NotPossible, match="nothing to go back to"):
        promote.rollback(core, FINDING, "Dr. Who", "again")
    assert audits(core)[-2:] == [("person:Dr. Who", "model-promoted", "a"), ("person:Dr. Who", "model-rejected", "b")]
    assert verify(core)[1] is None


def test_a_model_is_found_by_the_beginning_of_its_digest(core: Database) -> None:
    settle(core, B, NO)
    assert promote.find(core, FINDING, "bbb").model_digest == B
    for beginning in ("", "c", "%", "_" * 64):
        with pytest.raises(NotPossible):
            promote.find(core, FINDING, beginning)
    with pytest.raises(NotPossible, match="no model for effusion"):
        promote.find(core, "effusion", "bbb")


# The pointer


def test_the_pointer_follows_the_record_after_a_crash_between_the_two(core: Database, store: Any) -> None:
    settle(core, B, YES)
    store.fail(0)
    with pytest.raises(StoreUnavailable):
        promote.point(store, core, FINDING)
    store.fail(None)
    assert registry.current(store, FINDING) == A
    assert promote.point(store, core, FINDING)
    assert registry.current(store, FINDING) == B
    assert not promote.point(store, core, FINDING), "it is right already"


def test_a_pointer_that_another_core_moved_on_meanwhile_is_put_right(
    core: Database, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(core, B, YES)
    moved = registry.promote

    def overtaken(*arguments: Any) -> Any:
        if store.writes == 0:  # between this core's look at the record and its write, another one decides and moves
            settle(core, C, YES, compared_with=B)
            moved(store, FINDING, C)
        return moved(*arguments)

    store.writes = 0
    monkeypatch.setattr(registry, "promote", overtaken)
    promote.point(store, core, FINDING)
    assert registry.current(store, FINDING) == C == promote.in_service(core, FINDING)


def test_an_unreadable_pointer_is_written_anew(core: Database, store: Any) -> None:
    store.put(f"registry/{FINDING}/current.json", b"?")
    assert promote.point(store, core, FINDING)
    assert registry.current(store, FINDING) == A


def test_without_a_model_in_service_no_pointer_is_written(database: Database, store: Any) -> None:
    assert not promote.point(store, database, FINDING)
    assert store.objects == {}
