"""One retraining: Ray Data reads, Ray Train fits on several workers and resumes, a task exports and judges.

Nothing needs a folder that machines share: the parent's files travel through Ray's object store, checkpoints lie in the
core's own store, and the task that holds the signing key runs on the machine of whoever calls `run`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgerad.store import ObjectGone, config_from
from imaging.refusal import Unreadable
from serve.bundle import Bundle, BundleError, load_bundle
from serve.decode import decode
from train import evaluation_set, promote
from train.cases import Reader, Reference, cases_of, rows_of
from train.failure import NotTrainable
from train.fit import FINE_TUNE, FitConfig, Progress
from train.probes import frame_only
from train.promote import Decision

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgerad.sections import StoreSettings, TrainSettings
    from edgerad.settings import Settings
    from edgerad.store import ObjectStore
    from train.evaluation_set import FrozenSet
    from train.fit import EpochReport

WorkerLoop = Callable[[dict[str, Any], dict[str, bytes]], None]
STATE_FILE = "state.npz"
CHECKPOINTS = "training/"
"""Prefix of Ray Train's own files in the core's store, a folder a run; it is removed when the run has ended."""


@dataclass(frozen=True)
class Plan:
    """What a run does: from which bundle, with what, where its files go on this machine.

    `held_out` are labelled cases of patients that are never trained on.
    """

    run_id: str
    finding: str
    parent: Path
    references: tuple[Reference, ...]
    held_out: tuple[Reference, ...]
    folder: Path
    config: FitConfig
    workers: int


@dataclass(frozen=True)
class Outcome:
    """A run's end: the candidate's bundle, the decision on it, the loss of each epoch, cases that were left out."""

    candidate: Path
    digest: str
    decision: Decision
    losses: list[float]
    unreadable: int


@dataclass(frozen=True)
class Fitted:
    """What the workers came to: the averaged weights, the loss of each epoch, cases that were left out."""

    average: list[npt.NDArray[np.float32]]
    losses: list[float]
    unreadable: int


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
    """Train, export and judge, from the last checkpoint of this run if it has one; call it within a Ray process.

    Raises NotTrainable, SetError, and what Ray Train or the export raise (see `failure`).
    """
    _check_labels([reference.label for reference in plan.references], 0, plan.workers)
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Processes of their own: with them goes the memory of TensorFlow, which Ray Train imports where it is called, too.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    once = {"max_calls": 1, "max_retries": 0, "scheduling_strategy": here}
    started = time.perf_counter()
    fitted: Fitted = ray.get(ray.remote(num_cpus=0, **once)(read_and_fit).remote(settings, plan, worker_loop))
    seconds = time.perf_counter() - started
    judged = ray.remote(num_cpus=1, **once)(export_and_judge).remote(settings, plan, fitted, seconds)
    outcome: Outcome = ray.get(judged)
    return outcome


def forget(store: ObjectStore, folder: Path, run_id: str) -> None:
    """Remove what a run that has ended left: its folder here, its checkpoints in the store. Raises StoreUnavailable."""
    shutil.rmtree(folder, ignore_errors=True)
    for item in list(store.list(f"{CHECKPOINTS}{run_id}/")):
        store.delete(item.key)


def read_and_fit(settings: Settings, plan: Plan, loop: WorkerLoop) -> Fitted:
    """Read the cases and train on them. Raises NotTrainable and what Ray Train raises."""
    dataset, count = read_cases(settings, plan)
    state = fit_on_workers(settings, plan, dataset, max(1, count // plan.config.batch_size), loop)
    return Fitted(state.average, state.losses, len(plan.references) - count)


def read_cases(settings: Settings, plan: Plan) -> tuple[Any, int]:
    """Return the dataset of the cases that can be read, in Ray's memory, and their number. Raises NotTrainable."""
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = (
        ray.data.from_items(rows_of(plan.references), override_num_blocks=4)
        .map_batches(
            Reader,
            fn_constructor_args=(settings,),
            batch_size=16,
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=settings.train.cpus_per_worker,
        )
        .materialize()  # decoded once, not in every epoch; a few hundred megabytes at the most
    )
    labels = [int(row["label"]) for row in dataset.select_columns(["label"]).take_all()]
    _check_labels(labels, len(plan.references) - len(labels), plan.workers)
    return dataset, len(labels)


def _check_labels(labels: list[int], unreadable: int, workers: int) -> None:
    positives = sum(labels)
    if min(positives, len(labels) - positives) < workers:
        lost = f" ({unreadable} more cannot be read from the core's store)" if unreadable else ""
        raise NotTrainable(
            f"{positives} positive and {len(labels) - positives} negative cases to train on{lost}, at least {workers}"
            " of each are needed: label more cases, or freeze a rehearsal set (`edgerad evaluation freeze --rehearsal`)"
        )


def fit_on_workers(settings: Settings, plan: Plan, dataset: Any, steps: int, loop: WorkerLoop) -> Progress:
    """Train on a dataset of cases for `steps` steps an epoch; return the last checkpoint's state."""
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.tensorflow import TensorflowTrainer

    tuning = settings.train
    files = ray.put({path.name: path.read_bytes() for path in plan.parent.iterdir() if path.is_file()})

    def with_parent(arguments: dict[str, Any]) -> None:
        loop(arguments, ray.get(files))

    gpus = {"GPU": tuning.gpus_per_worker} if tuning.gpus_per_worker > 0 else {}
    trainer = TensorflowTrainer(
        with_parent,
        train_loop_config={
            "config": asdict(plan.config),
            "steps": steps,
            "workers": plan.workers,
            "threads": max(1, int(tuning.cpus_per_worker)),
        },
        scaling_config=ScalingConfig(
            num_workers=plan.workers, use_gpu=bool(gpus), resources_per_worker={"CPU": tuning.cpus_per_worker, **gpus}
        ),
        # The same name and place again resume a run from its last checkpoint.
        run_config=RunConfig(
            name=plan.run_id,
            storage_path=f"{settings.core.store.bucket}/{CHECKPOINTS.rstrip('/')}",
            storage_filesystem=file_system(settings.core.store),
            failure_config=FailureConfig(max_failures=tuning.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
        datasets={"train": dataset},
    )
    result = trainer.fit()
    if result.checkpoint is None:
        msg = "training reported no checkpoint"
        raise RuntimeError(msg)
    with result.checkpoint.as_directory() as folder:
        return Progress.load(Path(folder) / STATE_FILE)


def file_system(settings: StoreSettings) -> Any:
    """Return the core's store as Ray Train wants it, a pyarrow file system. Raises SettingsError."""
    from pyarrow.fs import S3FileSystem

    config = config_from(settings)
    scheme, _, host = config.endpoint_url.rstrip("/").partition("://")
    return S3FileSystem(
        access_key=config.access_key,
        secret_key=config.secret_key,
        endpoint_override=host,
        scheme=scheme,
        region=config.region,
        connect_timeout=config.connect_timeout,
        request_timeout=config.read_timeout,
        tls_ca_file_path=config.ca_file,
    )


def worker_loop(arguments: dict[str, Any], parent: dict[str, bytes]) -> None:
    """Fit on this worker's shard, all workers in step; the first one keeps a checkpoint after each epoch."""
    # Ray sets it to 1 for Keras 2; the loop is Keras 3's. It must be said before TensorFlow is imported.
    os.environ["TF_USE_LEGACY_KERAS"] = "0"
    import ray.train
    import tensorflow as tf

    from serve.runtimes import load_keras
    from train.architecture import freeze
    from train.dataset import CaseBatches
    from train.fit import fit, seed_everything

    tf.config.threading.set_intra_op_parallelism_threads(arguments["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)  # a replica may serve on the same one
    config = FitConfig(**arguments["config"])
    seed_everything(config.seed)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with tempfile.TemporaryDirectory() as folder, strategy.scope():
        for name, data in parent.items():
            (Path(folder) / name).write_bytes(data)
        bundle = load_bundle(Path(folder), {}, verify=False)  # its signature was checked when it was pulled
        config = config.served_by(bundle.calibration)
        model = load_keras(bundle)
        freeze(model, blocks=config.frozen_blocks, batch_norm=config.freeze_batch_norm)
    rank = ray.train.get_context().get_world_rank()
    shard = ray.train.get_dataset_shard("train")
    cases = cases_of(list(shard.iter_batches(batch_size=64, batch_format="numpy")))
    share = max(1, config.batch_size // arguments["workers"])
    # Each counts as it came: cases are chosen by their score, and that leaves true how often one that looks so is
    # positive. Labels counting alike would have the rare one likelier than it is.
    alike = np.ones(len(cases), np.float32)
    batches = CaseBatches(cases, share, config.seed + rank, weights=alike, input_size=bundle.manifest.input_size)
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
        steps_per_epoch=arguments["steps"],
        config=config,
        strategy=strategy,
        on_epoch=report,
        start=start,
    )


def export_and_judge(settings: Settings, plan: Plan, fitted: Fitted, seconds: float) -> Outcome:
    """Make the candidate's bundle out of the averaged weights, and judge it against its parent on the frozen set."""
    os.environ["TF_USE_LEGACY_KERAS"] = "0"
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from edgerad.store import ObjectStore
    from serve.runtimes import load_keras
    from train.export import EXAMPLES, Provenance, convert_int8, export_bundle, round_kernels

    parent = load_bundle(plan.parent, {}, verify=False)
    model = load_keras(parent)
    model.set_weights(fitted.average)
    store = ObjectStore(config_from(settings.core.store))
    frozen, inputs, labels = frozen_inputs(store, settings, parent.manifest.input_size)
    sources = [reference.source for reference in plan.references]
    training = {
        "manifest_digest": promote.digest_of_references(plan.references),
        "cases": len(plan.references),
        "sources": {name: sources.count(name) for name in sorted(set(sources))},
        "config": asdict(plan.config.served_by(parent.calibration)),
        "seconds": round(seconds, 1),
        "attribution": parent.manifest.training.attribution,
    }
    key = load_pem_private_key((settings.core.signing_key.reveal() or "").encode(), None)
    candidate = plan.folder / "candidate"
    some = plan.references[:: max(1, len(plan.references) // EXAMPLES)]
    examples, _ = read_inputs(store, some, parent.manifest.input_size)

    def export(litert: bytes | None) -> Bundle:
        shutil.rmtree(candidate, ignore_errors=True)  # of a run that was interrupted here, or of the other attempt
        return export_bundle(
            model,
            candidate,
            Provenance(plan.finding, training, {}, parent=parent.digest),
            golden=parent.golden_inputs(),
            parity=inputs if len(inputs) else parent.golden_inputs(),
            key=key,  # type: ignore[arg-type]
            calibration=parent.calibration,
            thresholds=parent.thresholds,
            litert=litert,
        )

    round_kernels(model)
    bundle = in_eight_bits(export, convert_int8(model, examples))
    decision = judge(parent, bundle, frozen, inputs, labels, settings.train.promote_confidence)
    seen, truth = read_inputs(store, plan.held_out, parent.manifest.input_size)
    held_out = promote.describe(truth, _probabilities(parent, seen), _probabilities(bundle, seen))
    decision = replace(decision, figures={**decision.figures, "held_out": held_out})
    return Outcome(candidate, bundle.digest, decision, fitted.losses, fitted.unreadable)


def in_eight_bits(export: Callable[[bytes | None], Bundle], litert: bytes) -> Bundle:
    """Export a LiteRT model of eight bits, or, where these do not give what the network gives, one of floats."""
    from edgerad.telemetry import get_logger

    try:
        return export(litert)
    except BundleError as error:
        get_logger("core").warning("the candidate serves in floats, more slowly", reason=str(error))
        return export(None)


def frozen_inputs(
    store: ObjectStore, settings: Settings, size: int
) -> tuple[FrozenSet | None, npt.NDArray[np.uint8], npt.NDArray[np.int8]]:
    """Return the frozen set, its model inputs uint8 [n, size, size, 1] and its labels; none where none is frozen."""
    from serve.preprocess import preprocess

    frozen = evaluation_set.read(store, settings.train.evaluation_prefix)
    if frozen is None:
        return None, np.zeros((0, size, size, 1), np.uint8), np.zeros(0, np.int8)
    pairs = [(preprocess(pixels, size), item.label) for item, pixels in evaluation_set.load(store, frozen)]
    return frozen, np.stack([image for image, _ in pairs]), np.array([label for _, label in pairs], np.int8)


def read_inputs(
    store: ObjectStore, references: tuple[Reference, ...], size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int8]]:
    """Return the model inputs, uint8 [n, size, size, 1], and labels of those cases that can be read."""
    from serve.preprocess import preprocess

    images, labels = [np.zeros((0, size, size, 1), np.uint8)], []
    for reference in references:
        try:
            pixels = decode(store.get(reference.key)).pixels
        except (Unreadable, ObjectGone):
            continue
        images.append(preprocess(pixels, size)[np.newaxis])
        labels.append(reference.label)
    return np.concatenate(images), np.array(labels, np.int8)


def judge(
    parent: Bundle,
    candidate: Bundle,
    frozen: FrozenSet | None,
    inputs: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int8],
    confidence: float,
) -> Decision:
    """Compare two bundles on the frozen set as they would serve: LiteRT, each with its own calibration."""
    if frozen is None:
        return Decision(False, "not promoted: no evaluation set is frozen; freeze one with `edgerad evaluation freeze`")
    frames = np.stack([frame_only(image[:, :, 0]) for image in inputs])[..., np.newaxis]
    (current, current_frames), (new, new_frames) = (
        (_probabilities(bundle, inputs), _probabilities(bundle, frames)) for bundle in (parent, candidate)
    )
    decision = promote.decide(labels, current, new, confidence, (current_frames, new_frames))
    which = {"version": frozen.version, "digest": frozen.digest, "cases": len(frozen.items)}
    return replace(decision, figures={**decision.figures, "evaluation_set": which})


def _probabilities(bundle: Bundle, inputs: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    from train.export import litert_logits

    logits = litert_logits(bundle.read("model.tflite"), inputs)
    return np.array([float(bundle.calibration.apply(logit)) for logit in logits])
