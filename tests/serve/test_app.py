"""The Serve application: swapped in place under load, by a configuration in which only the model changes."""

from __future__ import annotations

import base64
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgerad import registry
from edgerad.phantom import Phantom, to_dicom, to_jpeg
from edgerad.s3server import S3Server
from edgerad.scoring import Refused, Scored, ScoreRequest
from edgerad.sections import CoreSettings, Secret, ServeSettings, StoreSettings
from edgerad.settings import Settings, load_settings
from edgerad.store import ObjectStore, config_from
from serve import app
from serve.bundle import load_bundle, public_bytes
from serve.calibrate import Calibration
from serve.shelf import bundled_digest

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
CALLERS = 4


def deployment(configuration: dict[str, Any]) -> dict[str, Any]:
    """The only deployment of a configuration."""
    (application,) = configuration["applications"]
    (found,) = application["deployments"]
    return dict(found)


def test_only_the_users_part_of_the_configuration_depends_on_the_model() -> None:
    """Serve replaces replicas when anything else changes, and a replaced replica drops requests."""
    settings = load_settings()
    one, other = (deployment(app.configuration(settings, digest * 64)) for digest in "ab")
    assert one.pop("user_config") == {"model": "a" * 64, "calibration": None}
    assert other.pop("user_config") == {"model": "b" * 64, "calibration": None}
    assert one == other
    site = deployment(app.configuration(settings, "a" * 64, Calibration("site/1", 0.9, -0.2)))
    assert site.pop("user_config") == {"model": "a" * 64, "calibration": {"version": "site/1", "a": 0.9, "b": -0.2}}
    assert site == one


@pytest.mark.parametrize(
    ("messages", "cause"),
    [
        (["It failed 3 times. Error:\nTraceback:\n  line\nserve.bundle.BundleError: fails its golden cases\n\n", "x"],
         "serve.bundle.BundleError: fails its golden cases"),
        (["", " \n", "Failed to update the deployments ['Scorer']."], "Failed to update the deployments ['Scorer']."),
        (["e" * 1000], "e" * 300),
        ([], "it gives no reason"),
    ],
)  # fmt: skip
def test_the_cause_of_a_failed_deployment_is_the_last_line_of_its_traceback(messages: list[str], cause: str) -> None:
    assert app.cause_of(messages) == cause


def test_the_configuration_is_valid_and_follows_the_settings() -> None:
    from ray.serve.schema import ServeDeploySchema

    tuning = ServeSettings(num_cpus=2, num_gpus=0.25, min_replicas=2, max_replicas=7, target_images_per_replica=50)
    made = app.configuration(load_settings(serve=tuning), "a" * 64)
    ServeDeploySchema.model_validate(made)
    found = deployment(made)
    assert found["ray_actor_options"] == {"num_cpus": 2, "num_gpus": 0.25}
    scaling = found["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (2, 7)
    assert scaling["policy"]["policy_kwargs"]["images_per_replica"] == 50


def test_calls_that_one_replica_takes_are_neither_refused_by_it_nor_ask_for_another() -> None:
    settings = load_settings()
    under_way = settings.ingest.calls_in_flight
    assert under_way <= app.CALLS_PER_REPLICA
    assert under_way * settings.ingest.batch_size < settings.serve.target_images_per_replica


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """An edge whose stores are an S3 server in this process, with one replica."""
    with S3Server(tmp_path / "s3", "key", "secret-secret") as server:
        place = {
            "endpoint_url": server.endpoint_url,
            "access_key": Secret(value="key"),
            "secret_key": Secret(value="secret-secret"),
        }
        made = load_settings(
            data_dir=tmp_path / "data",
            store=StoreSettings(bucket="xray", **place),
            core=CoreSettings(
                store=StoreSettings(bucket="core", **place),
                trusted_keys=(base64.b64encode(public_bytes(KEY)).decode(),),
            ),
            serve=ServeSettings(max_replicas=1),
        )
        for part in (made.store, made.core.store):
            ObjectStore(config_from(part)).ensure_bucket()
        yield made


@pytest.fixture
def another(settings: Settings, bundle: Callable[..., Path]) -> str:
    """The digest of a model in the core's registry that calls all that is not low high."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["thresholds"] = {"version": "test/2", "high": 0.0002, "low": 0.0001}

    path = bundle(change)
    digest = load_bundle(path, {}, verify=False).digest
    registry.publish(ObjectStore(config_from(settings.core.store)), "pneumonia", digest, path)
    return digest


def replica_pids() -> list[int]:
    """Process ids of the living replicas."""
    from ray._private import state

    return [
        int(actor["Pid"])
        for actor in state.actors().values()
        if actor["State"] == "ALIVE" and "SERVE_REPLICA" in actor["Name"]
    ]


class Callers:
    """Threads that call the application without a pause until told to stop; every answer is kept."""

    def __init__(self, requests: list[ScoreRequest]) -> None:
        from ray import serve

        self.answers: list[tuple[str, ...]] = []
        self.errors: list[BaseException] = []
        self._handle = serve.get_app_handle(app.APPLICATION)
        self._requests = requests
        self._end = threading.Event()
        self._seen = threading.Condition()
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def _call(self) -> None:
        while not self._end.is_set():
            try:
                outcomes = self._handle.score.remote(self._requests).result(timeout_s=120)
                digests = tuple(outcome.model_digest for outcome in outcomes)
            except BaseException as error:  # noqa: BLE001 - whatever a caller gets is what the test is about
                self.errors.append(error)
                return
            with self._seen:
                self.answers.append(digests)
                self._seen.notify_all()

    def wait_for(self, digest: str, times: int) -> bool:
        """Wait until so many answers came from a model; False after two minutes."""
        with self._seen:
            return self._seen.wait_for(lambda: sum(digest in seen for seen in self.answers) >= times, 120)

    def stop(self) -> None:
        """End the calls."""
        self._end.set()
        for thread in self._threads:
            thread.join(120)


@pytest.mark.ray
def test_a_model_is_swapped_in_place_under_load_and_no_request_is_dropped(
    ray_cluster: None, settings: Settings, another: str, phantom: Phantom, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import serve

    store = ObjectStore(config_from(settings.store))
    store.put("a.jpeg", to_jpeg(phantom))
    store.put("b.dcm", to_dicom(phantom))
    plain = app.configuration

    def configuration(given: Settings, digest: str, calibration: Calibration | None = None) -> dict[str, Any]:
        """The workers of this cluster were started before there were settings: they get them here."""
        made = plain(given, digest, calibration)
        made["applications"][0]["runtime_env"] = {"env_vars": given.environment()}
        return made

    monkeypatch.setattr(app, "configuration", configuration)
    shipped = bundled_digest("pneumonia")
    requests = [ScoreRequest("1", "xray", "a.jpeg"), ScoreRequest("2", "xray", "b.dcm")]
    try:
        app.deploy(settings, shipped)
        assert app.replicas() == 1
        before = replica_pids()
        callers = Callers(requests)
        try:
            assert callers.wait_for(shipped, 2 * CALLERS)
            app.deploy(settings, another)
            assert callers.wait_for(another, 2 * CALLERS)
            app.deploy(settings, another, Calibration("site/1", 1.0, 9.0))
        finally:
            callers.stop()
        assert callers.errors == []
        assert {len(answer) for answer in callers.answers} == {2}
        assert all(len(set(answer)) == 1 for answer in callers.answers), "one call, one model"
        assert set(Counter(callers.answers)) == {(shipped,) * 2, (another,) * 2}
        assert replica_pids() == before, "the same process serves on"
        assert len(before) == 1

        handle = serve.get_app_handle(app.APPLICATION)
        assert handle.model.remote().result(timeout_s=60) == another
        good, gone = handle.score.remote([requests[1], ScoreRequest("3", "xray", "nothing")]).result(timeout_s=60)
        assert isinstance(good, Scored)
        assert (good.threshold_version, good.triage) == ("test/2", "high")
        assert good.header["Modality"] == "DX"
        assert (good.calibration_version, good.probability > 0.5) == ("site/1", True)
        assert good.logit < 0, "the network's own opinion is kept beside the calibrated one"
        assert isinstance(gone, Refused)
        assert gone.reason == "object-gone"
    finally:
        serve.shutdown()
