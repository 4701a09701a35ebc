"""A retraining on Ray Train, from labels to an edge that serves its model: workers die, the core dies, nothing is lost.

One training serves most of these tests: it is made as hard as a night in operation, and looked at from several sides.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import update

from edgerad import keyring, registry
from edgerad.audit import verify
from edgerad.database import Database
from edgerad.phantom import render
from edgerad.records import CoreCase, Label, Model, TrainingRun, now
from edgerad.s3server import S3Server
from edgerad.sections import Secret
from edgerad.settings import Settings, load_settings
from edgerad.store import ObjectStore, StoreUnavailable, config_from
from serve.bundle import Bundle, bundled_model, digest_of, key_id_of, load_bundle, public_bytes, sign
from serve.rollout import Follower
from serve.shelf import Shelf, bundled_digest
from train import evaluation_set, job, promote, runs
from train.core import Core
from train.export import EIGHT_BITS
from train.phantoms import phantom_specs

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.timeout(1800)]

FINDING = "pneumonia"
EPOCHS = 3
CASES, FROZEN = 32, 92
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def ignorant(folder: Path) -> Bundle:
    """Write the shipped model with its last layer drawn anew, the same in both artifacts, signed with KEY.

    Its features are as good as ever, so a few steps teach it what it has lost. (As drawn it calls most phantoms
    negative and ranks them worse than chance; not every draw does.)
    """
    shutil.copytree(bundled_model(), folder)
    with np.load(folder / "weights.npz") as archive:
        weights = {name: archive[name] for name in archive.files}
    (name,) = [name for name, value in weights.items() if value.shape == (1280, 1)]
    known, drawn = weights[name], np.random.default_rng(24).normal(0, 0.02, (1280, 1)).astype(np.float16)
    network = (folder / "model.tflite").read_bytes()
    before, after = (value.astype(np.float32).tobytes() for value in (known, drawn))  # the layer stays in floats
    assert network.count(before) == 1
    (folder / "model.tflite").write_bytes(network.replace(before, after))
    buffer = BytesIO()
    np.savez_compressed(buffer, **{**weights, name: drawn})
    (folder / "weights.npz").write_bytes(buffer.getvalue())
    document = json.loads((folder / "bundle.json").read_bytes())
    manifest = document["manifest"]
    for changed in ("model.tflite", "weights.npz"):
        data = (folder / changed).read_bytes()
        manifest["files"][changed] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    digest = digest_of(manifest)
    (folder / "bundle.json").write_text(json.dumps({**document, "digest": digest, "signature": sign(digest, KEY)}))
    return load_bundle(folder, {key_id_of(public_bytes(KEY)): public_bytes(KEY)})


@dataclass
class Site:
    """A core with labelled cases and a frozen set, and an edge beside it."""

    settings: Settings
    database: Database
    store: ObjectStore
    parent: Bundle
    notes: Path
    ended: list[TrainingRun] = field(default_factory=list)

    def core(self) -> Core:
        """A core as a process of its own would be: what it knows it reads."""
        return Core(self.settings, self.database, self.store)

    def told(self, name: str) -> list[dict[str, Any]]:
        """What the workers noted under a name."""
        return [json.loads(path.read_text()) for path in sorted(self.notes.glob(f"{name}-*.json"))]

    @property
    def candidate(self) -> Bundle:
        """The candidate's bundle, as the registry gives it out."""
        path = registry.pull(self.store, FINDING, self.ended[-1].candidate_digest or "", self.notes / "pulled")
        trusted = Shelf(self.settings).trusted_keys()
        return load_bundle(path, trusted)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The embedded object store."""
    server = S3Server(tmp_path_factory.mktemp("s3"), "access", "secretsecret")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def site(s3: S3Server, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Site:
    """A core whose model in service has forgotten what pneumonia looks like, and the labels to teach it."""
    folder = tmp_path_factory.mktemp("site")
    pem = folder / "signing-key.pem"
    pem.write_text(keyring.signing_key())
    keys = (keyring.public_key(pem.read_text()), base64.b64encode(public_bytes(KEY)).decode())
    core_store = {
        "endpoint_url": s3.endpoint_url,
        "access_key": {"value": "access"},
        "secret_key": {"value": "secretsecret"},
    }
    settings = load_settings(
        data_dir=folder / "data",
        core={"store": core_store, "signing_key": Secret(file=pem), "trusted_keys": keys},
        train={"epochs": EPOCHS, "batch_size": 4, "learning_rate": 2e-3, "min_new_labels": CASES},
    )
    store = ObjectStore(config_from(settings.core.store))
    store.ensure_bucket()
    database = Database(settings.database_url)
    database.upgrade()
    parent = ignorant(folder / "parent")
    registry.publish(store, FINDING, parent.digest, parent.path)
    promote.adopt(database, FINDING, parent.digest, {}, "for a test")
    freeze(store, settings, folder / "frozen")
    with database.write() as session:
        for number, spec in enumerate(phantom_specs(CASES, 41, sizes=(256,))):
            label_case(session, store, number, png(spec), positive=spec.label == "PNEUMONIA")
        label_case(session, store, CASES, b"no image", positive=True)
        for number, spec in enumerate(phantom_specs(4, 43, sizes=(256,)), CASES + 1):
            label_case(session, store, number, png(spec), positive=spec.label == "PNEUMONIA", split="evaluation")
    return Site(settings, database, store, parent, folder)


def png(spec: Any) -> bytes:
    pixels = render(spec).pixels.astype(np.float32)
    low, high = pixels.min(), pixels.max()
    return bytes(cv2.imencode(".png", ((pixels - low) / (high - low) * 255).astype(np.uint8))[1])


def freeze(store: ObjectStore, settings: Settings, folder: Path) -> None:
    for number, spec in enumerate(phantom_specs(FROZEN, 42, sizes=(256,))):
        path = folder / spec.label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(spec))
    evaluation_set.freeze(store, settings.train.evaluation_prefix, folder)


def label_case(
    session: Any, store: ObjectStore, number: int, data: bytes, *, positive: bool, split: str = "train"
) -> None:
    key = f"cases/{number}/object.png"
    store.put(key, data)
    session.add(
        CoreCase(
            case_id=f"case-{number}", edge_id="north", object_key=key, object_digest="d", media_type="image/png",
            patient=f"patient-{number}", finding=FINDING, probability=0.5, triage="unknown", model_digest="m",
            why="unknown", split=split, manifest={},
        )
    )  # fmt: skip
    session.flush()
    verdict = "positive" if positive else "negative"
    session.add(Label(case_id=f"case-{number}", label=verdict, labeller="Dr. Test", source="expert"))


def troubled(settings: Settings, notes: Path) -> Any:
    """Return the worker loop with trouble in it, and notes of where each attempt began and ended.

    After the first epoch of the first attempt the second worker is killed, after the second epoch of the second attempt
    the object store is away; both when Ray Train has committed that epoch's checkpoint.
    """
    loop = job.worker_loop

    def committed(epoch: int) -> bool:
        store = ObjectStore(config_from(settings.core.store))
        for item in store.list(job.CHECKPOINTS):
            if item.key.endswith("/checkpoint_manager_snapshot.json"):
                latest = json.loads(store.get(item.key))["latest_checkpoint_result"]
                return latest is not None and latest["metrics"]["epoch"] == epoch
        return False

    def run(arguments: dict[str, Any], parent: dict[str, bytes]) -> None:
        import ray.train

        import train.fit

        rank = ray.train.get_context().get_world_rank()
        attempt = len(list(notes.glob(f"began-{rank}-*.json")))
        resumed = ray.train.get_checkpoint() is not None
        (notes / f"began-{rank}-{attempt}.json").write_text(json.dumps({"resumed": resumed}))
        report, fit = ray.train.report, train.fit.fit

        def spoilt(metrics: dict[str, Any], checkpoint: Any = None) -> None:
            report(metrics, checkpoint)
            if (attempt, metrics["epoch"]) in {(0, 1), (1, 2)}:
                while not committed(metrics["epoch"]):
                    time.sleep(0.2)
                if attempt == 1:
                    raise StoreUnavailable("object store cannot be reached (told to fail)")
                if rank == 1:
                    os.kill(os.getpid(), signal.SIGKILL)

        def watched(model: Any, batches: Any, **named: Any) -> Any:
            start = named["start"]
            final = fit(model, batches, **named)
            weights = hashlib.sha256(b"".join(value.tobytes() for value in final.weights)).hexdigest()
            note = {"from": start.epoch if start else 0, "losses": final.losses, "weights": weights}
            (notes / f"ended-{rank}-{attempt}.json").write_text(json.dumps(note))
            return final

        ray.train.report, train.fit.fit = spoilt, watched
        loop(arguments, parent)

    return run


@pytest.fixture(scope="module")
def trained(site: Site) -> Site:
    """The site after one retraining that a dead worker, a dead store and a dead core came between."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(job, "worker_loop", troubled(site.settings, site.notes))
        first = site.core()
        first.prepare()
        assert first.is_due()
        site.ended.append(first.retrain() or pytest.fail("nothing was begun"))
        second = site.core()
        assert not second.is_due(), "it was stopped just now"
        with site.database.write() as session:
            session.execute(update(TrainingRun).values(seen_at=now() - 2 * runs.LEASE))
        assert second.is_due()
        site.ended.append(second.retrain() or pytest.fail("nothing was taken up"))
    return site


def test_a_store_that_is_away_stops_the_run_and_does_not_fail_it(trained: Site) -> None:
    first, last = trained.ended
    assert (first.state, first.candidate_digest) == ("running", None)
    assert first.error == "waits: object store cannot be reached (told to fail)"
    assert (last.state, last.error) == ("succeeded", None)
    assert last.training_run_id == first.training_run_id, "it was taken up, not begun anew"
    assert last.attempts == 1


def test_each_attempt_resumes_from_the_last_checkpoint_and_all_epochs_are_trained_once(trained: Site) -> None:
    resumed = [note["resumed"] for note in trained.told("began-0")]
    assert resumed == [False, True, True]
    (end,) = trained.told("ended-0")
    assert end["from"] == 2
    assert len(end["losses"]) == EPOCHS
    assert trained.ended[-1].progress["losses"] == end["losses"]


def test_both_workers_end_with_the_same_weights(trained: Site) -> None:
    (one,), (other,) = trained.told("ended-0"), trained.told("ended-1")
    assert one["weights"] == other["weights"]
    assert one["losses"] == other["losses"], "the loss is that of the global batch"


def test_it_learns_and_what_is_better_with_confidence_is_promoted(trained: Site) -> None:
    with trained.database.read() as session:
        model = session.get_one(Model, trained.ended[-1].candidate_digest)
    assert model.state == "promoted", model.reason
    figures = model.metrics
    assert figures["current"]["auroc"]["value"] < 0.75
    assert figures["candidate"]["auroc"]["value"] > 0.85
    assert figures["evaluation_set"]["cases"] == FROZEN
    assert (figures["held_out"]["cases"], figures["held_out"]["positives"]) == (4, 2)
    assert model.parent_digest == trained.parent.digest
    assert registry.current(trained.store, FINDING) == model.model_digest
    assert trained.ended[-1].progress["decision"] == model.reason


def test_the_candidate_says_what_it_was_made_of_and_is_signed_by_the_core(trained: Site) -> None:
    bundle = trained.candidate
    assert bundle.key_id == key_id_of(base64.b64decode(trained.settings.core.trusted_keys[0]))
    manifest = bundle.manifest
    assert manifest.parent == trained.parent.digest
    assert (manifest.training.cases, manifest.training.sources) == (CASES + 1, {"cases": CASES + 1})
    assert trained.ended[-1].progress["unreadable"] == 1, "the case that is no image was left out, and counted"
    assert manifest.calibration == trained.parent.manifest.calibration
    assert manifest.parity.cases == FROZEN
    assert manifest.training.config["litert"] == EIGHT_BITS


def test_nothing_of_the_run_is_left_but_the_bundle_and_the_records(trained: Site) -> None:
    kept = {item.key.split("/")[0] for item in trained.store.list() if not item.key.endswith("/")}
    assert kept == {"cases", "datasets", "registry"}
    assert [path.name for path in (trained.settings.data_dir / "train").iterdir()] == ["parents"]
    assert verify(trained.database)[1] is None


def test_an_edge_pulls_proves_and_swaps_the_promoted_model(trained: Site, tmp_path: Path) -> None:
    settings = trained.settings.model_copy(update={"data_dir": tmp_path, "role": "edge"})
    database = Database(settings.database_url)
    database.upgrade()
    scored: list[float] = []
    inputs = trained.parent.golden_inputs()

    def swap(digest: str, calibration: object) -> None:
        scored.append(float(Shelf(settings).scorer(digest).runtime.predict(inputs)[0]))

    follower = Follower(settings, database, trained.store, swap)
    assert follower.start() == bundled_digest(FINDING)
    new = trained.ended[-1].candidate_digest
    assert follower.step() == new
    assert follower.step() is None
    assert len(scored) == 2
    assert scored[0] != scored[1], "another model answers"


def test_a_run_whose_workers_die_for_good_fails_in_plain_words_and_the_model_in_service_stays(trained: Site) -> None:
    before = promote.in_service(trained.database, FINDING)

    def dies(arguments: dict[str, Any], parent: dict[str, bytes]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    core = trained.core()
    assert not core.is_due(), "no label is new"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(job, "worker_loop", dies)
        run = core.retrain()
    assert run is not None
    assert run.state == "failed"
    assert run.error == (
        "a training process died 2 times, most often for want of memory: give the machine more, or lower"
        " train.workers or train.batch_size; the model in service stays"
    )
    assert promote.in_service(trained.database, FINDING) == before
    assert registry.current(trained.store, FINDING) == before
    assert not core.is_due(), "it waits for new labels"
    assert not list(trained.store.list(job.CHECKPOINTS + run.training_run_id))
