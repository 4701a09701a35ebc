"""Images a second of the retraining loop on two Ray Train workers, against a bare TensorFlow loop in one process.

Both train the same network on the same cases with the same augmentation, global batch and steps. The bare loop
has as many threads as all workers have together. An epoch is timed from its first batch to its end; of each run the
first epoch, which compiles, is left out. What Ray adds between epochs (checkpoint to the store, report) is timed too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from edgerad import cluster
from edgerad.s3server import S3Server
from edgerad.settings import load_settings
from edgerad.store import ObjectStore, config_from
from serve.bundle import bundled_keys, bundled_model, load_bundle
from train import job
from train.cases import Reference
from train.dataset import CaseBatches, Cases
from train.fit import FitConfig
from train.phantoms import phantom_cases, phantom_specs

if TYPE_CHECKING:
    from edgerad.settings import Settings

CASES, EPOCHS, REPEATS, SEED = 256, 6, 2, 61
DRAWN = 64
"""Phantoms drawn; each serves as several cases: what they show makes no difference to the time."""


def main() -> None:
    """Alternate the two and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--bare", type=Path, help="(inner use) train in this process on the cases of this file")
    options = parser.parse_args()
    if options.bare:
        print(json.dumps(bare(options.bare)))
        return
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(compare(Path(name), options.cases, options.epochs, options.repeats), indent=1))


def compare(folder: Path, cases: int, epochs: int, repeats: int) -> dict[str, Any]:
    """Run both loops, one after the other, `repeats` times."""
    server = S3Server(folder / "s3", "access", "secretsecret")
    server.start()
    store = {
        "endpoint_url": server.endpoint_url,
        "access_key": {"value": "access"},
        "secret_key": {"value": "secretsecret"},
    }
    settings = load_settings(data_dir=folder / "data", core={"store": store}, train={"epochs": epochs})
    core = ObjectStore(config_from(settings.core.store))
    core.ensure_bucket()
    drawn = phantom_cases(phantom_specs(DRAWN, SEED))
    data = drawn.take(np.arange(cases) % len(drawn))
    config = job.fit_config(settings.train)
    steps = len(data) // config.batch_size
    np.savez(
        folder / "cases.npz",
        grids=data.grids,
        labels=data.labels,
        plan=json.dumps({"config": asdict(config), "steps": steps, "threads": settings.train.workers}),
    )
    images = steps * config.batch_size
    alone: list[float] = []
    together: list[float] = []
    between: list[float] = []
    cluster.connect(settings)
    try:
        for repeat in range(repeats):
            alone += in_a_process(folder / "cases.npz")
            seconds, wall = on_ray(settings, folder / f"ray-{repeat}", data, config, steps)
            together += seconds
            between += wall
    finally:
        cluster.disconnect()
        sizes = [item.size for item in core.list(job.CHECKPOINTS) if item.key.endswith(job.STATE_FILE)]
        server.stop()
    return {
        "workers": settings.train.workers,
        "cores": len(os.sched_getaffinity(0)),
        "global_batch": config.batch_size,
        "epochs_timed": len(together),
        "bare_images_per_second": round(images / median(alone), 1),
        "ray_train_images_per_second": round(images / median(together), 1),
        "ratio": round(median(alone) / median(together), 2),
        "between_epochs_seconds": round(median(between), 2),
        "checkpoint_mb": round(max(sizes) / 1e6, 1),
    }


def in_a_process(file: Path) -> list[float]:
    """Run the bare loop in a process of its own and return the seconds of each epoch but the first."""
    command = [sys.executable, "-m", "benchmarks.training", "--bare", str(file)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(seconds) for seconds in json.loads(done.stdout.splitlines()[-1])]


def bare(file: Path) -> list[float]:
    """Train with nothing around the loop; return the seconds of each epoch but the first."""
    os.environ["TF_USE_LEGACY_KERAS"] = "0"
    import tensorflow as tf

    from serve.runtimes import load_keras
    from train.architecture import freeze
    from train.fit import fit, seed_everything

    with np.load(file) as archive:
        plan = json.loads(str(archive["plan"]))
        groups = tuple(str(index) for index in range(len(archive["labels"])))
        cases = Cases(archive["grids"], archive["labels"], groups, ("phantom",) * len(groups))
    tf.config.threading.set_intra_op_parallelism_threads(plan["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(1)
    config = FitConfig(**plan["config"])
    seed_everything(config.seed)
    bundle = load_bundle(bundled_model(), bundled_keys())
    model = load_keras(bundle)
    freeze(model, blocks=config.frozen_blocks, batch_norm=config.freeze_batch_norm)
    batches = CaseBatches(cases, config.batch_size, config.seed, input_size=bundle.manifest.input_size)
    seconds: list[float] = []
    fit(
        model,
        batches,
        steps_per_epoch=plan["steps"],
        config=config,
        on_epoch=lambda epoch: seconds.append(epoch.seconds),
    )
    return seconds[1:]


def on_ray(
    settings: Settings, folder: Path, data: Cases, config: FitConfig, steps: int
) -> tuple[list[float], list[float]]:
    """Train on Ray's workers; return the seconds of each epoch but the first, and those between epochs."""
    import ray

    folder.mkdir()
    loop = job.worker_loop

    def timed(arguments: dict[str, Any], parent: dict[str, bytes]) -> None:
        import ray.train

        import train.fit

        fit: Any = train.fit.fit

        def watched(model: Any, batches: Any, *, on_epoch: Any, **named: Any) -> Any:
            def report(epoch: Any) -> None:
                began = time.perf_counter()
                on_epoch(epoch)
                times.append((epoch.seconds, time.perf_counter() - began))

            times: list[tuple[float, float]] = []
            final = fit(model, batches, on_epoch=report, **named)
            if ray.train.get_context().get_world_rank() == 0:
                (folder / "times.json").write_text(json.dumps(times))
            return final

        vars(train.fit)["fit"] = watched
        loop(arguments, parent)

    rows = [
        {"grid": grid, "label": int(label), "group": str(index), "source": "phantom"}
        for index, (grid, label) in enumerate(zip(data.grids, data.labels, strict=True))
    ]
    references = (Reference("", 0, "", ""),) * len(data)
    plan = job.Plan(folder.name, "pneumonia", bundled_model(), references, (), folder, config, settings.train.workers)
    job.fit_on_workers(settings, plan, ray.data.from_items(rows).materialize(), steps, timed)
    times = json.loads((folder / "times.json").read_text())
    return [epoch for epoch, _ in times[1:]], [after for _, after in times[1:]]


if __name__ == "__main__":
    main()
