"""One run of the demo: start both roles, feed X-rays, turn the loop once, give account."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from edgerad import compose
from edgerad.demo import counts, persons
from edgerad.demo.counts import Counts
from edgerad.demo.feed import Fed, Feeder
from edgerad.demo.material import Material
from edgerad.demo.process import PeakMemory
from edgerad.records import TrainingRun, now
from edgerad.settings import Settings, load_settings
from edgerad.store import ObjectStore, config_from

FEED_BATCH = 8
REVIEW_SHARE = 0.6
OPEN_ALERTS = 4
PAUSE = 0.5
STALLED_AFTER = 120.0
"""Seconds without any change after which the demo gives up waiting and says what it waited for."""


@dataclass(frozen=True)
class DemoOptions:
    """What the user asked for."""

    images: Path | None = None
    kafka: str | None = None
    s3: str | None = None
    database: str | None = None
    count: int = 150
    seed: int = 0
    port: int = 0
    dashboard: bool = True


@dataclass
class Demo:
    """The state of a run, for whoever shows its progress."""

    options: DemoOptions
    phase: str = "starting"
    started: float = field(default_factory=time.monotonic)
    fed: list[Fed] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    notes: dict[str, Any] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)

    @property
    def truth(self) -> dict[str, str]:
        """What is true of the images that were fed, by image_id, where their folder said it."""
        return {item.image_id: item.sample.label for item in self.fed if item.sample.label}

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started


Show = Callable[[Demo], None]


def settings_for(options: DemoOptions, data_dir: Path) -> Settings:
    """Return the settings of a demo: quick intervals, free ports, small batches; the rest as configured."""
    overrides: dict[str, Any] = {
        "role": "both",
        "data_dir": data_dir,
        "gateway": {"port": 0},
        "receiver": {"port": 0},
        "dashboard": {"port": options.port, "enabled": options.dashboard},
        "serve": {"max_replicas": 2, "downscale_delay": 10.0},
        "ship": {"edge_id": "demo-edge", "batch_age": 4.0, "poll_interval": 2.0},
        "core": {"poll_interval": 2.0},
        "train": {"min_new_labels": 12},
    }
    if options.kafka:
        overrides["kafka"] = {"bootstrap_servers": options.kafka}
        overrides["ingest"] = {"sweep_interval": 20.0, "sweep_grace": 10.0}
    if options.s3:
        overrides["store"] = {"endpoint_url": options.s3}
        overrides["core"] |= {"store": {"endpoint_url": options.s3, "bucket": "edgerad-core"}}
    if options.database:
        overrides["database"] = {"url": {"value": options.database}}
    return load_settings(None, **overrides)


def run(options: DemoOptions, show: Show, until: Callable[[compose.System], None] | None = None) -> dict[str, Any]:
    """Run the demo and return its summary; `until` keeps the system open when the loop has turned."""
    demo = Demo(options)
    memory = PeakMemory()
    folder = Path(tempfile.mkdtemp(prefix="edgerad-demo-"))
    started_at = now()
    try:
        with Material(options, folder / "images") as material:
            system = compose.start(settings_for(options, folder / "edge"), lambda what: _say(demo, show, what))
            try:
                demo.addresses = system.addresses
                _turn(demo, system, material, show)
                summary = _summary(demo, system, started_at, memory.stop())
                if until is not None:
                    until(system)
            finally:
                _say(demo, show, "ending")
                compose.stop(system)
    finally:
        memory.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return summary


def _say(demo: Demo, show: Show, what: str) -> None:
    demo.phase = what
    show(demo)


def _turn(demo: Demo, system: compose.System, material: Material, show: Show) -> None:
    settings, database = system.settings, system.database
    store = ObjectStore(config_from(settings.store))
    feeder = Feeder(store, system.addresses.get("receiver"), settings.receiver.ae_title)
    _announce_to_kafka(demo, system)

    def tick(what: str) -> Counts:
        demo.phase = what
        demo.counts = counts.look(database)
        persons.review(database, demo.truth, REVIEW_SHARE)
        persons.acknowledge(database, OPEN_ALERTS)
        show(demo)
        time.sleep(PAUSE)
        return demo.counts

    core_sets = threading.Thread(target=material.stock_core, args=(settings,), daemon=True)
    core_sets.start()
    material.go_on()
    for batch in material.first_wave(FEED_BATCH):
        demo.fed += feeder.feed(batch)
        tick("X-rays come in")
    _wait(demo, tick, "scoring", lambda now_: now_.ended >= len(_distinct(demo)))
    _wait(demo, tick, "de-identifying and shipping", lambda now_: now_.travelling == 0)
    core_sets.join()
    labelled = persons.label(database, demo.truth)
    demo.notes["labelled"] = labelled
    run = _retrain(demo, system, tick, labelled)
    if run is not None and run.state == "succeeded":
        _follow_promotion(demo, system, feeder, material, tick)
    for batch in material.second_wave(FEED_BATCH):
        demo.fed += feeder.feed(batch)
        tick("more X-rays come in")
    _wait(demo, tick, "scoring", lambda now_: now_.ended >= len(_distinct(demo)))
    tick("done")


def _retrain(demo: Demo, system: compose.System, tick: Callable[[str], Counts], labelled: int) -> TrainingRun | None:
    """Wait for the core to retrain by itself; return the run, or None with a note of why there was none."""
    from train import cases

    needed = system.settings.train.min_new_labels
    usable = cases.new_labels(system.database, system.settings.finding)
    if usable < needed and counts.newest_run(system.database) is None:
        demo.notes["training"] = (
            f"none: {usable} of {labelled} labels are of patients to train on, the core retrains at {needed}"
            if labelled
            else "none: nothing to label (folders named NORMAL and PNEUMONIA stand for the expert)"
        )
        return None
    if _wait(demo, tick, "waiting for the core", lambda seen: seen.training != "waiting"):
        _wait(demo, tick, "retraining", lambda seen: seen.training != "running")
    run = counts.newest_run(system.database)
    demo.notes["training"] = run.state if run else "none: the core did not begin"
    return run


def _follow_promotion(
    demo: Demo, system: compose.System, feeder: Feeder, material: Material, tick: Callable[[str], Counts]
) -> None:
    """Where the candidate was promoted, go on feeding until the edge serves it: the swap happens under load."""
    model = counts.newest_decision(system.database)
    if model is None or model.state != "promoted":
        return
    waves = material.second_wave(FEED_BATCH)
    before = len(demo.fed)
    deadline = time.monotonic() + STALLED_AFTER
    while model.model_digest not in tick("swapping the model under load").models:
        demo.fed += feeder.feed(next(waves, []))
        if time.monotonic() > deadline:
            demo.notes.setdefault("stalled", []).append("swap")
            return
    demo.notes["fed_during_swap"] = len(demo.fed) - before


def _announce_to_kafka(demo: Demo, system: compose.System) -> None:
    """With Kafka, have the store announce its objects to the gateway; else the sweep finds them."""
    if demo.options.kafka is None:
        demo.notes["events"] = "sweep"
        return
    settings = system.settings
    if system.s3 is not None and settings.store.endpoint_url == system.s3.endpoint_url:
        demo.notes["events"] = "store > Kafka"
        return
    token = settings.gateway.token.reveal() or ""
    address = f"{system.addresses['gateway']}/s3-events"
    from deploy.ceph import set_notification

    scheme, _, rest = address.partition("://")
    keys = (settings.store.access_key.reveal() or "", settings.store.secret_key.reveal() or "")
    push = f"{scheme}://edgerad:{token}@{rest}"
    set_notification(settings.store.endpoint_url or "", keys, settings.store.bucket, push, persistent=False)
    demo.notes["events"] = "store > gateway > Kafka"


def _summary(demo: Demo, system: compose.System, started_at: datetime, memory: int) -> dict[str, Any]:
    """Return the run as plain data; see docs/demo.md for the fields."""
    first = counts.first_assessment(system.database)
    images = counts.account(system.database, demo.fed)
    run = counts.newest_run(system.database)
    model = counts.newest_decision(system.database)
    seen = demo.counts
    seconds = (run.finished_at - run.started_at).total_seconds() if run and run.finished_at else None
    return {
        "complete": images["complete"] and "stalled" not in demo.notes,
        "images": images,
        "triage": seen.triage,
        "alerts": seen.alerts,
        "shipments": seen.shipments,
        "core_cases": seen.cases,
        "labels": {"simulated": demo.notes.get("labelled", 0)},
        "reviews": {"simulated": seen.reviews},
        "training": {
            "state": demo.notes.get("training", "none"),
            "workers": system.settings.train.workers,
            "cases": run.cases if run else 0,
            "seconds": round(seconds, 1) if seconds is not None else None,
            "error": run.error if run else None,
        },
        "candidate": (
            {"model": model.model_digest, "state": model.state, "reason": model.reason, "metrics": model.metrics}
            if model and run and model.model_digest == run.candidate_digest
            else None
        ),
        "models_served": seen.models,
        "images_fed_during_swap": demo.notes.get("fed_during_swap", 0),
        "events": demo.notes.get("events"),
        "stalled": demo.notes.get("stalled", []),
        "first_result_seconds": round((first - started_at).total_seconds(), 1) if first else None,
        "images_per_second": round(counts.best_rate(system.database), 2),
        "seconds": round(demo.seconds, 1),
        "peak_memory_mib": round(memory / 2**20),
    }


def _distinct(demo: Demo) -> set[str]:
    return {item.image_id for item in demo.fed}


def _wait(demo: Demo, tick: Callable[[str], Counts], what: str, done: Callable[[Counts], bool]) -> bool:
    """Tick until done; return False when nothing has changed for too long, and note it."""
    seen, since = tick(what), time.monotonic()
    while not done(seen):
        current = tick(what)
        if current != seen:
            seen, since = current, time.monotonic()
        elif time.monotonic() - since > STALLED_AFTER:
            demo.notes.setdefault("stalled", []).append(what)
            return False
    return True
