"""The training loop: one and the same for a single process and for Ray Train workers under a distribution strategy.

A custom loop because Keras 3 `fit` fails under MultiWorkerMirroredStrategy. The caller builds the model inside
`strategy.scope()`; `fit` does the rest there. The exponential moving average of the weights is kept on the host, so
that it needs nothing of the strategy, and it is what is served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from serve.runtimes import with_map
from train.dataset import Batch

if TYPE_CHECKING:
    import keras

    from serve.calibrate import Calibration

Weights = list[npt.NDArray[np.float32]]
BatchSource = Callable[[int, int], Iterator[Batch]]


@dataclass(frozen=True)
class FitConfig:
    """Tuning of one training; `batch_size` is global, over all workers."""

    epochs: int = 6
    batch_size: int = 32
    learning_rate: float = 5e-4
    final_learning_rate: float = 5e-6
    warmup: float = 0.08  # share of all steps
    weight_decay: float = 1e-4
    label_smoothing: float = 0.05
    ema_decay: float = 0.995
    frozen_blocks: int = 2
    freeze_batch_norm: bool = False
    map_weight: float = 0.3  # of the loss that draws the activation map to lesions whose place is known
    map_temperature: float = 2.0
    agreement: float = 0.0  # weight of the loss that has two views of an image get one logit; batches of pairs
    slope: float = 1.0  # what is served is sigmoid(slope * logit + offset), and the loss is of that
    offset: float = 0.0
    seed: int = 20260

    def served_by(self, calibration: Calibration) -> FitConfig:
        """Return the tuning under which the loss is of what a calibration, which is kept, makes of the logits."""
        return replace(self, slope=calibration.a, offset=calibration.b)


FINE_TUNE = FitConfig(
    epochs=6,
    learning_rate=3e-4,
    ema_decay=0.9,
    frozen_blocks=13,  # all but three: a few dozen cases make more of it worse
    freeze_batch_norm=True,
    weight_decay=1e-5,
    map_weight=0.0,
)


PER_EPOCH = ("losses", "seconds", "cpu_seconds")


@dataclass
class Progress:
    """State after an epoch: all that a resumed training needs besides the model's code and the configuration."""

    epoch: int  # epochs completed
    weights: Weights
    average: Weights
    optimizer: list[npt.NDArray[Any]]
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # each epoch took, in this and in earlier processes
    cpu_seconds: list[float] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write to one .npz file without pickles."""
        arrays: dict[str, npt.NDArray[Any]] = {"epoch": np.array(self.epoch)}
        arrays |= {name: np.array(getattr(self, name)) for name in PER_EPOCH}
        for name in ("weights", "average", "optimizer"):
            arrays |= {f"{name}/{index:04d}": value for index, value in enumerate(getattr(self, name))}
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Progress:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            parts = {
                name: [archive[key] for key in sorted(archive.files) if key.startswith(f"{name}/")]
                for name in ("weights", "average", "optimizer")
            }
            # The times are missing in what an older version wrote.
            figures = ([float(value) for value in archive[name]] if name in archive else [] for name in PER_EPOCH)
            return cls(int(archive["epoch"]), parts["weights"], parts["average"], parts["optimizer"], *figures)


@dataclass(frozen=True)
class EpochReport:
    """What `on_epoch` is told."""

    epoch: int  # epochs completed
    epochs: int
    loss: float
    seconds: float
    progress: Callable[[], Progress]  # made on demand: copying the state costs more than the report


def fit(
    model: keras.Model,
    batches: BatchSource,
    *,
    steps_per_epoch: int,
    config: FitConfig,
    strategy: Any = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    start: Progress | None = None,
) -> Progress:
    """Train `model` and leave the averaged weights in it; return the final state.

    `batches(epoch, steps)` yields this worker's share of every global batch; all workers must take as many steps.
    `start` resumes after its epoch. Layers are trained as their `trainable` flags say (see `architecture.freeze`).
    Raises FloatingPointError when the loss is no longer finite.
    """
    import tensorflow as tf

    scope: Callable[[], AbstractContextManager[Any]] = strategy.scope if strategy is not None else nullcontext
    with scope():
        optimizer = make_optimizer(model, config, steps_per_epoch)
        view = with_map(model) if config.map_weight else model
        if start is not None:
            model.set_weights(start.weights)
            for variable, value in zip(optimizer.variables, start.optimizer, strict=True):
                variable.assign(value)
    step = _make_step(view, optimizer, config, strategy)
    average = [value.copy() for value in (start.average if start is not None else model.get_weights())]
    losses, seconds, cpu_seconds = ([*getattr(start, name, ())] for name in PER_EPOCH)
    count = start.epoch * steps_per_epoch if start is not None else 0

    def progress() -> Progress:
        state = [tf.convert_to_tensor(variable.value).numpy() for variable in optimizer.variables]
        kept = [value.copy() for value in average]
        return Progress(len(losses), model.get_weights(), kept, state, [*losses], [*seconds], [*cpu_seconds])

    for epoch in range(len(losses), config.epochs):
        began, cpu, total = perf_counter(), process_time(), 0.0
        for batch in batches(epoch, steps_per_epoch):
            parts = (batch.images, batch.labels, batch.weights, batch.lesions, batch.others)
            total += float(step(*(tf.constant(part) for part in parts if part is not None)))
            count += 1
            _average(average, model.get_weights(), min(config.ema_decay, (1 + count) / (10 + count)))
        losses.append(total / steps_per_epoch)
        seconds.append(perf_counter() - began)
        cpu_seconds.append(process_time() - cpu)
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss of epoch {epoch + 1} is {losses[-1]}: lower the learning rate")
        if on_epoch is not None:
            on_epoch(EpochReport(epoch + 1, config.epochs, losses[-1], seconds[-1], progress))
    final = progress()
    model.set_weights(average)
    return final


def settle(model: keras.Model, batches: BatchSource, steps: int = 100) -> None:
    """Have every normalisation take its statistics from what is trained on, in `steps` batches; nothing else changes.

    For layers that stay frozen: ImageNet's statistics hold neither for radiographs nor for low-passed kernels. At a
    momentum of 0.95, 100 steps leave 0.6 % of what was there before.
    """
    import tensorflow as tf

    look = tf.function(lambda images: model(images, training=True), reduce_retracing=True, autograph=False)
    for batch in batches(0, steps):
        look(tf.constant(batch.images, tf.float32))


def make_optimizer(model: keras.Model, config: FitConfig, steps_per_epoch: int) -> keras.Optimizer:
    """AdamW with a linear warm-up and cosine decay; biases and normalisation are not decayed."""
    import keras

    steps = config.epochs * steps_per_epoch
    warmup = max(1, round(config.warmup * steps))
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=config.learning_rate / 20,
        decay_steps=max(1, steps - warmup),
        alpha=config.final_learning_rate / config.learning_rate,
        warmup_target=config.learning_rate,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay, global_clipnorm=None)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    optimizer.build(model.trainable_variables)
    return optimizer


def _make_step(model: keras.Model, optimizer: keras.Optimizer, config: FitConfig, strategy: Any) -> Callable[..., Any]:
    import tensorflow as tf

    def replica_step(images: Any, labels: Any, weights: Any, lesions: Any, *others: Any) -> Any:
        targets = labels * (1 - config.label_smoothing) + 0.5 * config.label_smoothing
        with tf.GradientTape() as tape:
            output = model(tf.cast(tf.concat([images, *others], axis=0), tf.float32), training=True)
            outputs, cells = output if config.map_weight else (output, None)
            logits = tf.reshape(tf.cast(outputs, tf.float32), (1 + len(others), -1))  # a row for each view
            logits = config.slope * logits + config.offset
            losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits[0])
            if others:
                losses = pair_losses(losses, logits[0], logits[1], labels, targets, config.agreement)
            if cells is not None:
                cells = cells[: tf.shape(images)[0]]
                losses += config.map_weight * map_losses(cells, lesions, config.map_temperature)
            # Divided by the global batch: the workers' gradients are summed.
            loss = tf.reduce_sum(losses * weights) / config.batch_size
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    def step(*parts: Any) -> Any:
        if strategy is None:
            return replica_step(*parts)
        loss = strategy.run(replica_step, args=parts)
        return strategy.reduce(tf.distribute.ReduceOp.SUM, loss, axis=None)

    compiled: Callable[..., Any] = tf.function(step, reduce_retracing=True, autograph=False)
    return compiled


def pair_losses(losses: Any, one: Any, other: Any, labels: Any, targets: Any, agreement: float) -> Any:
    """Losses [n] of pairs: the mean of both views' cross-entropy, and how far their logits [n] are apart, squared.

    That counts less far from 0, where a difference changes no decision: half at a logit of 2, a fifth at 4. An image of
    which nothing but its frame is left (label 0.5) has no second view. `losses` are those of the first.
    """
    import tensorflow as tf

    second = tf.nn.sigmoid_cross_entropy_with_logits(targets, other)
    nearer = tf.stop_gradient(tf.minimum(tf.abs(one), tf.abs(other)))
    apart = tf.square(one - other) / (1.0 + 0.25 * tf.square(nearer))
    return tf.where(labels == 0.5, losses, 0.5 * (losses + second) + agreement * apart)


def map_losses(cells: Any, lesions: Any, temperature: float) -> Any:
    """Cross-entropy [n] of the map's softmax over its cells against where the lesion lies; 0 where nobody knows.

    Only where the map is highest is taught by it: a shift of the whole map, which is the logit, changes nothing.
    """
    import tensorflow as tf

    count = int(lesions.shape[1] * lesions.shape[2])
    logs = tf.nn.log_softmax(tf.reshape(tf.cast(cells, tf.float32), (-1, count)) / temperature)
    return -tf.reduce_sum(tf.reshape(lesions, (-1, count)) * logs, axis=1)


def _average(average: Weights, weights: Weights, decay: float) -> None:
    for kept, value in zip(average, weights, strict=True):
        np.multiply(kept, decay, out=kept)
        np.add(kept, (1 - decay) * value, out=kept)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow; initial weights, order and augmentation carry their own seeds besides."""
    import keras

    keras.utils.set_random_seed(seed)
