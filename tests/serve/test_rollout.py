"""An edge follows the registry: proven models only, each swap noted, the one in service kept when anything is wrong."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from edgerad import ledger, registry
from edgerad.audit import verify
from edgerad.database import Database
from edgerad.records import Rollout
from edgerad.settings import load_settings
from edgerad.store import ObjectStore, StoreConfig, StoreUnavailable
from serve.bundle import BundleError
from serve.rollout import Follower
from serve.shelf import Shelf, bundled_digest

NEW = "b" * 64


class Stage:
    """A follower with a registry and a Serve application that do as they are told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = Database(f"sqlite:///{folder / 'edgerad.db'}")
        self.database.upgrade()
        self.wanted: str | None = None
        self.swaps: list[str] = []
        self.fails: Exception | None = None
        self.proof: Exception | None = None
        monkeypatch.setattr(registry, "current", self._current)
        monkeypatch.setattr(Shelf, "scorer", self._scorer)
        core = ObjectStore(StoreConfig("http://127.0.0.1:9", "core", "k", "s"))
        self.follower = Follower(load_settings(data_dir=folder), self.database, core, self._swap)

    def _current(self, *_: Any) -> str | None:
        if self.wanted == "unreachable":
            raise StoreUnavailable("down")
        return self.wanted

    def _scorer(self, *_: Any) -> None:
        if self.proof:
            raise self.proof

    def _swap(self, digest: str) -> None:
        if self.fails:
            raise self.fails
        self.swaps.append(digest)

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
