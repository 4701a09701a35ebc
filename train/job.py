"""One retraining: Ray Data reads, Ray Train fits on several workers and resumes, a task exports and judges."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from serve.bundle import Bundle, load_bundle
from train import evaluation_set, promote
from train.cases import Reader, Reference, cases_of, rows_of
from train.fit import FINE_TUNE, FitConfig, Progress
from train.promote import Decision

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgerad.sections import TrainSettings
    from edgerad.settings import Settings
    from edgerad.store import ObjectStore
    from train.fit import EpochReport

STATE_FILE = "state.npz"


@dataclass(frozen=True)
class Plan:
    """What a run does: from which bundle, with what, where its files go."""

    run_id: str
    finding: str
    parent: Path
    references: tuple[Reference, ...]
    folder: Path
    config: FitConfig
    workers: int

    @property
    def steps(self) -> int:
        """Steps of an epoch, the same for every worker."""
        return max(1, len(self.references) // self.config.batch_size)


@dataclass(frozen=True)
class Outcome:
    """A run's end: the candidate's bundle and the decision on it."""

    candidate: Path
    digest: str
    decision: Decision
    losses: list[float]


def fit_config(settings: TrainSettings) -> FitConfig:
    """Return the fine-tuning's configuration by the settings; the batch is global, over all workers."""
    return replace(
        FINE_TUNE,
        epochs=settings.epochs,
        batch_size=settings.batch_size * settings.workers,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
    )


def run(settings: Settings, plan: Plan) -> Outcome:
    """Train, export and judge; call it within a Ray process. Raises what Ray Train or the export raise."""
    import ray

    started = time.perf_counter()
    state, losses = _fit(settings, plan)
    # TensorFlow's memory goes with the task's process.
    judge = ray.remote(num_cpus=settings.train.cpus_per_worker, max_calls=1)(export_and_judge)
    seconds = time.perf_counter() - started
    outcome: Outcome = ray.get(judge.remote(settings, plan, state, losses, seconds))
    return outcome


def _fit(settings: Settings, plan: Plan) -> tuple[Path, list[float]]:
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.tensorflow import TensorflowTrainer

    ray.data.DataContext.get_current().enable_progress_bars = False
    tuning = settings.train
    dataset = (
        ray.data.from_items(rows_of(plan.references), override_num_blocks=4)
        .map_batches(
            Reader,
            fn_constructor_args=(settings,),
            batch_size=16,
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=tuning.cpus_per_worker,
        )
        .materialize()  # decoded once, not in every epoch; a few hundred megabytes at the most
    )
    trainer = TensorflowTrainer(
        worker_loop,
        train_loop_config={
            "parent": str(plan.parent),
            "config": asdict(plan.config),
            "steps": plan.steps,
            "workers": plan.workers,
        },
        scaling_config=ScalingConfig(
            num_workers=plan.workers,
            use_gpu=tuning.gpus_per_worker > 0,
            resources_per_worker={
                "CPU": tuning.cpus_per_worker,
                **({"GPU": tuning.gpus_per_worker} if tuning.gpus_per_worker > 0 else {}),
            },
        ),
        run_config=RunConfig(
            name=plan.run_id,
            storage_path=str(plan.folder),
            failure_config=FailureConfig(max_failures=tuning.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
        datasets={"train": dataset},
    )
    result = trainer.fit()
    if result.checkpoint is None:
        msg = "training reported no checkpoint"
        raise RuntimeError(msg)
    kept = plan.folder / f"{plan.run_id}.npz"
    with result.checkpoint.as_directory() as folder:
        state = Progress.load(Path(folder) / STATE_FILE)
        state.save(kept)
    return kept, state.losses


def worker_loop(settings: dict[str, Any]) -> None:
    """Fit on this worker's shard, all workers in step; the first one keeps a checkpoint after each epoch."""
    # Ray sets it to 1 for Keras 2; the loop is Keras 3's. It must be said before TensorFlow is imported.
    os.environ["TF_USE_LEGACY_KERAS"] = "0"
    import ray.train
    import tensorflow as tf

    from serve.runtimes import load_keras
    from train.architecture import freeze
    from train.dataset import CaseBatches
    from train.fit import fit, seed_everything

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    config = FitConfig(**settings["config"])
    seed_everything(config.seed)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    bundle = load_bundle(Path(settings["parent"]), {}, verify=False)  # its signature was checked when it was pulled
    with strategy.scope():
        model = load_keras(bundle)
        freeze(model, blocks=config.frozen_blocks, batch_norm=config.freeze_batch_norm)
    rank = ray.train.get_context().get_world_rank()
    shard = ray.train.get_dataset_shard("train")
    cases = cases_of(list(shard.iter_batches(batch_size=64, batch_format="numpy")))
    share = max(1, config.batch_size // settings["workers"])
    batches = CaseBatches(cases, share, config.seed + rank, input_size=bundle.manifest.input_size)
    resumed = ray.train.get_checkpoint()
    start = None
    if resumed is not None:
        with resumed.as_directory() as folder:
            start = Progress.load(Path(folder) / STATE_FILE)

    def report(epoch: EpochReport) -> None:
        state = epoch.progress()  # on every worker: reading the variables is a step that all take
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if rank == 0:
                state.save(Path(folder) / STATE_FILE)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"epoch": epoch.epoch, "loss": epoch.loss, "resumed": start is not None}, checkpoint)

    fit(
        model,
        batches,
        steps_per_epoch=settings["steps"],
        config=config,
        strategy=strategy,
        on_epoch=report,
        start=start,
    )


def export_and_judge(settings: Settings, plan: Plan, state: Path, losses: list[float], seconds: float) -> Outcome:
    """Make the candidate's bundle out of the averaged weights, and judge it against its parent on the frozen set."""
    os.environ["TF_USE_LEGACY_KERAS"] = "0"
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from edgerad.store import ObjectStore, config_from
    from serve.runtimes import load_keras
    from train.export import Provenance, export_bundle

    store = ObjectStore(config_from(settings.core.store))
    parent = load_bundle(plan.parent, {}, verify=False)
    model = load_keras(parent)
    model.set_weights(Progress.load(state).average)
    inputs, labels = frozen_inputs(store, settings, parent.manifest.input_size)
    sources = [reference.source for reference in plan.references]
    training = {
        "manifest_digest": promote.digest_of_references(plan.references),
        "cases": len(plan.references),
        "sources": {name: sources.count(name) for name in sorted(set(sources))},
        "config": asdict(plan.config),
        "seconds": round(seconds, 1),
        "attribution": parent.manifest.training.attribution,
    }
    key = load_pem_private_key((settings.core.signing_key.reveal() or "").encode(), None)
    candidate = plan.folder / f"{plan.run_id}-bundle"
    bundle = export_bundle(
        model,
        candidate,
        Provenance(plan.finding, training, {}, parent=parent.digest),
        golden=parent.golden_inputs(),
        parity=inputs if len(inputs) else parent.golden_inputs(),
        key=key,  # type: ignore[arg-type]
        calibration=parent.calibration,
        thresholds=parent.thresholds,
    )
    decision = judge(parent, bundle, inputs, labels, settings.train.promote_confidence)
    return Outcome(candidate, bundle.digest, decision, losses)


def frozen_inputs(
    store: ObjectStore, settings: Settings, size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int8]]:
    """Return the frozen set as model inputs uint8 [n, size, size, 1] and labels; empty where none is frozen."""
    from serve.preprocess import preprocess

    frozen = evaluation_set.read(store, settings.train.evaluation_prefix)
    if frozen is None:
        return np.zeros((0, size, size, 1), np.uint8), np.zeros(0, np.int8)
    pairs = [(preprocess(pixels, size), item.label) for item, pixels in evaluation_set.load(store, frozen)]
    return np.stack([image for image, _ in pairs]), np.array([label for _, label in pairs], np.int8)


def judge(
    parent: Bundle,
    candidate: Bundle,
    inputs: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int8],
    confidence: float,
) -> Decision:
    """Compare two bundles on the frozen set as they would serve: LiteRT, each with its own calibration."""
    from train.export import litert_logits

    if not len(inputs):
        return Decision(False, "not promoted: no evaluation set is frozen; freeze one with `edgerad evaluation freeze`")
    probabilities = [
        np.array(
            [float(bundle.calibration.apply(logit)) for logit in litert_logits(bundle.read("model.tflite"), inputs)]
        )
        for bundle in (parent, candidate)
    ]
    return promote.decide(labels, probabilities[0], probabilities[1], confidence)
