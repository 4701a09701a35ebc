"""An edge follows the registry: proven models only, each swap noted, the one in service kept when anything is wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from edgerad import ledger, registry
from edgerad.audit import verify
from edgerad.database import Database
from edgerad.records import Assessment, Image, Review, Rollout
from edgerad.settings import load_settings
from edgerad.store import ObjectGone, ObjectStore, StoreConfig, StoreUnavailable
from serve import site
from serve.bundle import BundleError
from serve.calibrate import Calibration
from serve.rollout import Follower
from serve.shelf import Shelf, bundled_digest

NEW = "b" * 64


class Stage:
    """A follower with a registry and a Serve application that do as they are told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.database = Database(f"sqlite:///{folder / 'edgerad.db'}")
        self.database.upgrade()
        self.wanted: str | None = None
        self.swaps: list[str] = []
        self.calibrations: list[Calibration | None] = []
        self.fails: Exception | None = None
        self.proof: Exception | None = None
        self.damage: dict[str, Exception] = {}
        monkeypatch.setattr(registry, "current", self._current)
        monkeypatch.setattr(Shelf, "scorer", self._scorer)
        monkeypatch.setattr(Shelf, "check", self._check)
        core = ObjectStore(StoreConfig("http://127.0.0.1:9", "core", "k", "s"))
        self.follower = Follower(load_settings(data_dir=folder), self.database, core, self._swap)

    def _current(self, *_: Any) -> str | None:
        if self.wanted == "unreachable":
            raise StoreUnavailable("down")
        return self.wanted

    def _scorer(self, *_: Any) -> None:
        if self.proof:
            raise self.proof

    def _check(self, digest: str) -> None:
        if digest in self.damage:
            raise self.damage[digest]

    def _swap(self, digest: str, calibration: Calibration | None) -> None:
        if self.fails:
            raise self.fails
        self.swaps.append(digest)
        self.calibrations.append(calibration)

    def again(self) -> Follower:
        """A follower without a core, as after a restart."""
        return Follower(load_settings(data_dir=self.folder), self.database, None, self._swap)

    @property
    def noted(self) -> list[tuple[str, str]]:
        with self.database.read() as session:
            return [(row.model_digest, row.state) for row in session.scalars(select(Rollout))]

    @property
    def serving(self) -> str | None:
        return ledger.model_in_service(self.database, "edge", "pneumonia")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A follower that has started."""
    stage = Stage(tmp_path, monkeypatch)
    stage.follower.start()
    return stage


def test_the_first_start_serves_what_ships_with_edgerad(stage: Stage) -> None:
    shipped = bundled_digest("pneumonia")
    assert stage.swaps == [shipped]
    assert stage.noted == [(shipped, "serving")]
    assert stage.follower.start() == shipped
    assert stage.noted == [(shipped, "serving")], "a restart is no rollout"


def test_a_promoted_model_is_swapped_in_once(stage: Stage) -> None:
    stage.wanted = NEW
    assert stage.follower.step() == NEW
    assert stage.follower.step() is None
    assert stage.swaps[1:] == [NEW]
    assert stage.serving == NEW
    assert stage.follower.start() == NEW, "a restart goes on with it"


@pytest.mark.parametrize("where", ["proof", "fails"])
def test_a_model_that_fails_is_refused_once_and_the_old_one_stays(stage: Stage, where: str) -> None:
    old = stage.serving
    stage.wanted = NEW
    setattr(stage, where, BundleError("signature of nobody we trust") if where == "proof" else RuntimeError("no luck"))
    assert stage.follower.step() is None
    assert stage.follower.step() is None
    assert stage.noted[1:] == [(NEW, "refused")]
    assert stage.serving == old


def test_after_a_failed_swap_serve_is_told_to_run_the_old_model(stage: Stage) -> None:
    old = stage.serving
    told: list[str] = []

    def swap(digest: str, _: Calibration | None) -> None:
        told.append(digest)
        if digest == NEW:
            raise RuntimeError("replicas do not come up")

    stage.follower._swap = swap
    stage.wanted = NEW
    assert stage.follower.step() is None
    assert told == [NEW, old]


def test_a_swap_that_takes_too_long_is_tried_again(stage: Stage) -> None:
    old = stage.serving
    stage.wanted, stage.fails = NEW, TimeoutError("Serve did not run the model within 300 s")
    assert stage.follower.step() is None
    assert stage.serving == old
    assert stage.noted[1:] == [], "not the model's fault"
    stage.fails = None
    assert stage.follower.step() == NEW


def test_an_unreachable_core_changes_nothing(stage: Stage) -> None:
    old = stage.serving
    stage.wanted = "unreachable"
    assert stage.follower.step() is None
    assert stage.serving == old
    stage.wanted, stage.proof = NEW, StoreUnavailable("down in the middle of the download")
    assert stage.follower.step() is None
    assert stage.noted[1:] == [], "not the model's fault: it is tried again"
    stage.proof = None
    assert stage.follower.step() == NEW


def test_rolling_back_serves_the_former_model_again(stage: Stage) -> None:
    shipped = bundled_digest("pneumonia")
    stage.wanted = NEW
    stage.follower.step()
    stage.wanted = shipped
    assert stage.follower.step() == shipped
    assert stage.serving == shipped
    assert verify(stage.database) == (3, None)


def test_without_a_core_the_shipped_model_stays_in_service(stage: Stage) -> None:
    alone = Follower(load_settings(data_dir=Path("unused")), stage.database, None, stage._swap)
    stage.wanted = NEW
    assert alone.start() == bundled_digest("pneumonia")
    assert alone.step() is None
    assert stage.swaps == [bundled_digest("pneumonia")] * 2


MISSING = {
    "missing": ObjectGone("model bbbbbbbbbbbb is not on this machine, and there is no core to fetch it from"),
    "damaged": BundleError("model.tflite is corrupted"),
    "unreachable": StoreUnavailable("the core does not answer"),
    "unreadable": PermissionError(13, "Permission denied"),
}


@pytest.mark.parametrize("why", MISSING)
def test_a_model_that_is_missing_or_damaged_at_the_start_gives_way_to_the_shipped_one(stage: Stage, why: str) -> None:
    shipped = bundled_digest("pneumonia")
    stage.wanted = NEW
    stage.follower.step()
    stage.damage[NEW] = MISSING[why]
    follower = stage.again()
    assert follower.start() == follower.serving == shipped
    assert follower.is_fallback
    assert str(MISSING[why]) in str(follower.trouble)
    assert stage.serving == shipped, "readings and calibrations belong to the model that serves"
    assert stage.noted[2:] == [(shipped, "fallback")]
    assert follower.start() == shipped
    assert stage.again().start() == shipped
    assert stage.noted[2:] == [(shipped, "fallback")], "noted once"
    del stage.damage[NEW]
    assert follower.start() == NEW, "it is left as soon as the better model is there"
    assert (follower.is_fallback, follower.trouble) == (False, None)
    assert stage.noted[3:] == [(NEW, "serving")]


def test_the_last_proven_model_comes_before_the_shipped_one(stage: Stage) -> None:
    older = "c" * 64
    for stage.wanted in (older, NEW):
        stage.follower.step()
    stage.damage[NEW] = BundleError("damaged")
    assert stage.again().start() == older
    stage.damage[older] = BundleError("damaged, too")
    assert stage.again().start() == bundled_digest("pneumonia")


def test_without_any_model_nothing_fails_and_scoring_starts_when_one_comes(stage: Stage) -> None:
    shipped = bundled_digest("pneumonia")
    stage.damage[shipped] = BundleError("the shipped model is damaged")
    stage.swaps.clear()
    follower = stage.again()
    for _ in range(2):
        assert follower.start() is None
        assert follower.step() is None
        assert follower.calibrate() is None
    assert follower.trouble == f"model {shipped[:12]}: the shipped model is damaged"
    assert not follower.is_fallback
    assert stage.swaps == []
    del stage.damage[shipped]
    assert follower.start() == shipped
    assert stage.swaps == [shipped]
    assert follower.trouble is None


def test_without_any_model_the_core_s_is_taken(stage: Stage) -> None:
    stage.damage[bundled_digest("pneumonia")] = BundleError("damaged")
    follower = Follower(load_settings(data_dir=stage.folder), stage.database, stage.follower._core, stage._swap)
    assert follower.start() is None
    stage.wanted = NEW
    assert follower.step() == follower.serving == NEW
    assert (follower.trouble, follower.is_fallback) == (None, False)


def test_a_shipped_bundle_without_a_readable_manifest_is_no_model(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.bundle._models", lambda: tmp_path)
    fresh = Database(f"sqlite:///{tmp_path / 'fresh.db'}")
    fresh.upgrade()
    follower = Follower(load_settings(data_dir=tmp_path), fresh, None, stage._swap)
    assert follower.start() is None
    assert follower.trouble == "no model has served here, and none that ships can be read"
    (tmp_path / "pneumonia").mkdir()
    (tmp_path / "pneumonia" / "bundle.json").write_text("{")
    assert follower.start() is None


def where_new_cannot_run(stage: Stage) -> tuple[Follower, list[str]]:
    """Return a follower on a machine where Serve cannot run NEW, and the digests that it was told to run."""
    told: list[str] = []

    def swap(digest: str, _: Calibration | None) -> None:
        told.append(digest)
        if digest == NEW:
            raise RuntimeError("replicas do not come up")

    return Follower(load_settings(data_dir=stage.folder), stage.database, None, swap), told


def test_a_model_that_serve_cannot_run_gives_way_and_is_not_tried_while_another_serves(stage: Stage) -> None:
    shipped = bundled_digest("pneumonia")
    stage.wanted = NEW
    stage.follower.step()
    follower, told = where_new_cannot_run(stage)
    assert follower.start() == shipped
    assert follower.start() == shipped
    assert told == [NEW, shipped], "an attempt would disturb what serves"
    assert follower.is_fallback


def test_what_serve_could_not_run_comes_last_when_nothing_serves(stage: Stage) -> None:
    shipped = bundled_digest("pneumonia")
    stage.wanted = NEW
    stage.follower.step()
    stage.damage[shipped] = BundleError("damaged")
    told: list[str] = []
    runs: list[str] = [shipped]

    def swap(digest: str, _: Calibration | None) -> None:
        told.append(digest)
        if digest not in runs:
            raise RuntimeError("replicas do not come up")

    follower = Follower(load_settings(data_dir=stage.folder), stage.database, None, swap)
    assert follower.start() is None
    del stage.damage[shipped]
    assert follower.start() == shipped
    assert told == [NEW, shipped], "what can serve does not wait for what could not"
    assert follower.is_fallback
    stage.damage[shipped] = BundleError("damaged again")
    follower.look_after()
    assert (follower.serving, told[2:]) == (None, [NEW])
    runs.append(NEW)
    assert follower.start() == NEW
    assert follower.trouble is None


def test_an_attempt_that_failed_leaves_the_fallback_deployed(stage: Stage) -> None:
    shipped = bundled_digest("pneumonia")
    stage.wanted = NEW
    stage.follower.step()
    stage.damage[NEW] = BundleError("damaged")
    follower, told = where_new_cannot_run(stage)
    assert follower.start() == shipped
    del stage.damage[NEW]
    assert follower.start() == shipped
    assert told == [shipped, NEW, shipped], "Serve's goal is the fallback again"


def test_a_busy_cluster_at_the_start_is_not_the_models_fault(stage: Stage) -> None:
    stage.fails = TimeoutError("Serve did not run the model within 300 s")
    follower = stage.again()
    assert follower.start() is None
    assert follower.trouble == "Serve did not run the model within 300 s"
    stage.fails = None
    assert follower.start() == bundled_digest("pneumonia")
    assert [state for _, state in stage.noted] == ["serving"]


def test_a_model_that_is_lost_while_it_serves_gives_way(stage: Stage) -> None:
    stage.wanted = NEW
    stage.follower.step()
    stage.follower.look_after()
    assert stage.follower.serving == NEW, "its files are there: Serve will start its replica again"
    stage.damage[NEW] = ObjectGone("gone")
    stage.follower.look_after()
    assert stage.follower.serving == bundled_digest("pneumonia")
    assert stage.follower.is_fallback


def test_following_leaves_a_fallback_sees_a_lost_model_and_takes_the_core_s(stage: Stage) -> None:
    shipped = bundled_digest("pneumonia")
    stage.wanted = NEW
    stage.follower.follow(is_lost=False)
    assert stage.follower.serving == NEW
    stage.damage[NEW] = BundleError("damaged")
    stage.follower.follow(is_lost=False)
    assert stage.follower.serving == NEW, "what runs is not disturbed"
    stage.wanted = None
    stage.follower.follow(is_lost=True)
    assert stage.follower.serving == shipped
    stage.follower.follow(is_lost=False)
    assert stage.follower.serving == shipped
    stage.damage.clear()
    stage.follower.follow(is_lost=False)
    assert stage.follower.serving == NEW
    assert [state for _, state in stage.noted] == ["serving", "serving", "fallback", "serving"]


def read_cases(database: Database, digest: str, count: int, b: float, source: str = "person") -> None:
    """Write assessed images and what a person read, as if the model's logits were off by `b`."""
    rng = np.random.default_rng(count)
    with database.read() as session:
        first = len(list(session.scalars(select(Image.image_id))))
    with database.write() as session:
        for number in range(first, first + count):
            logit = float(rng.normal(0, 3))
            positive = bool(rng.random() < 1 / (1 + np.exp(-logit - b)))
            image, assessment = f"i{number}", f"a{number}"
            session.add(Image(image_id=image, bucket="x", key=image, source="test", state="assessed", header={}))
            session.flush()
            session.add(
                Assessment(
                    assessment_id=assessment, image_id=image, finding="pneumonia", probability=0.5, logit=logit,
                    triage="unknown", model_digest=digest, calibration_version="identity/1", threshold_version="t",
                    runtime="litert", seconds=0.0,
                )
            )  # fmt: skip
            session.flush()
            verdict = "positive" if positive else "negative"
            session.add(
                Review(image_id=image, assessment_id=assessment, verdict=verdict, reviewer="Dr. P", source=source)
            )


def test_a_site_that_differs_gets_its_own_calibration_and_can_go_back(stage: Stage) -> None:
    shipped = bundled_digest("pneumonia")
    assert stage.follower.calibrate() is None, "nobody has read anything"
    read_cases(stage.database, shipped, 90, b=-2.0)
    assert stage.follower.calibrate() is None, "too few"
    read_cases(stage.database, shipped, 60, b=-2.0)
    made = stage.follower.calibrate()
    assert made is not None
    assert made.version == "edge/1"
    assert made.b < -1
    assert stage.calibrations[-1] == made
    assert stage.swaps[-1] == shipped, "the model stays"
    assert stage.follower.calibrate() is None, "nothing is new"
    here = site.Site("edge", "pneumonia", shipped)
    site.revert(stage.database, here, None, "person:Dr. P", "looked wrong")
    back = stage.follower.calibrate()
    assert back is not None
    assert back.version == "bundle"
    assert stage.calibrations[-1:] == [None]
    assert stage.follower.calibrate() is None, "what a person took back is not put in again by the same readings"
    stage.again().start()
    assert stage.calibrations[-1] is None


def test_a_site_like_the_others_keeps_the_bundles_calibration(stage: Stage) -> None:
    read_cases(stage.database, bundled_digest("pneumonia"), 150, b=0.0)
    assert stage.follower.calibrate() is None
    assert site.history(stage.database, site.Site("edge", "pneumonia", bundled_digest("pneumonia"))) == []


def test_simulated_readings_calibrate_nothing(stage: Stage) -> None:
    read_cases(stage.database, bundled_digest("pneumonia"), 150, b=-3.0, source="simulated")
    assert stage.follower.calibrate() is None


def test_a_restart_serves_the_sites_calibration_and_another_model_its_own(stage: Stage) -> None:
    shipped = bundled_digest("pneumonia")
    read_cases(stage.database, shipped, 150, b=-2.0)
    made = stage.follower.calibrate()
    follower = Follower(load_settings(data_dir=stage.folder), stage.database, stage.follower._core, stage._swap)
    follower.start()
    assert stage.calibrations[-1] == made
    assert follower.calibration == "edge/1"
    stage.wanted = NEW
    assert follower.step() == NEW
    assert stage.calibrations[-1] is None
    assert follower.calibration == "bundle"


def test_a_calibration_that_serve_does_not_take_is_tried_again(stage: Stage) -> None:
    read_cases(stage.database, bundled_digest("pneumonia"), 150, b=-2.0)
    stage.fails = RuntimeError("Serve is busy")
    assert stage.follower.calibrate() is None
    stage.fails = None
    made = stage.follower.calibrate()
    assert made is not None
    assert made.version == "edge/1"
