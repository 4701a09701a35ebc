"""The demo's X-rays: phantoms drawn while edgerad starts, or the user's own files; and the core's sets from before."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerad.demo.feed import Sample, samples

if TYPE_CHECKING:
    from edgerad.demo.run import DemoOptions
    from edgerad.settings import Settings

SIZE = 768
"""Longer side of the demo's phantoms, pixels: as much text and anatomy as a full-size one, in half the time."""
STANDARD, SHIFTED = "standard", "legacy_cr"
SECOND_WAVE = 0.25
"""Share of the images that comes after the new model is in service."""
REHEARSAL, EVALUATION = 96, 480
KNOWN = 1 / 3
"""Share of phantoms of the device that the model knows."""
AHEAD = 8
"""Files prepared while edgerad starts."""


class Material:
    """Prepares files in a thread; a context, so that the thread ends with the demo."""

    def __init__(self, options: DemoOptions, folder: Path) -> None:
        """Keep what to prepare; with `images` the user's files are listed at once, so that a wrong folder fails now."""
        self._options, self._folder = options, folder
        self._queue: queue.Queue[Sample | None] = queue.Queue()
        self._ended, self._hurry = threading.Event(), threading.Event()
        if options.images is None:
            total = options.count
            self._sizes = (total - round(total * SECOND_WAVE), round(total * SECOND_WAVE))
        else:
            self._own = samples(options.images)
            if not self._own:
                msg = f"{options.images} has no files; give a folder with X-rays (DICOM, JPEG, PNG)"
                raise FileNotFoundError(msg)
            random.Random(options.seed).shuffle(self._own)  # noqa: S311 - an order, not a secret
            later = round(len(self._own) * SECOND_WAVE)
            self._sizes = (len(self._own) - later, later)
        self._thread = threading.Thread(target=self._prepare, daemon=True)

    def __enter__(self) -> Material:
        """Start preparing."""
        self._folder.mkdir(parents=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End preparing."""
        self._ended.set()
        self._hurry.set()
        self._thread.join()

    @property
    def total(self) -> int:
        """How many files there will be, bad ones left out of account."""
        return sum(self._sizes)

    def first_wave(self, batch: int) -> Iterator[list[Sample]]:
        """Yield the files that come before the model is retrained."""
        yield from self._take(batch)

    def second_wave(self, batch: int) -> Iterator[list[Sample]]:
        """Yield the files that come while and after the model is swapped; a second call goes on, or yields nothing."""
        yield from self._take(batch)
        self._queue.put(None)

    def _take(self, batch: int) -> Iterator[list[Sample]]:
        group: list[Sample] = []
        while (item := self._queue.get()) is not None:
            group.append(item)
            if len(group) == batch:
                yield group
                group = []
        if group:
            yield group

    def go_on(self) -> None:
        """Prepare all of it: edgerad has started and no longer needs the processor for that."""
        self._hurry.set()

    def _prepare(self) -> None:
        """Put the files into the queue, None after each wave and when there are no more."""
        prepared = 0
        try:
            for wave in self._phantom_waves() if self._options.images is None else self._own_waves():
                for sample in wave:
                    if prepared == AHEAD:
                        self._hurry.wait()
                    if self._ended.is_set():
                        return
                    self._queue.put(sample)
                    prepared += 1
                self._queue.put(None)
        finally:
            self._queue.put(None)

    def _own_waves(self) -> Iterator[Iterable[Sample]]:
        yield self._own[: self._sizes[0]]
        yield self._own[self._sizes[0] :]

    def _phantom_waves(self) -> Iterator[Iterable[Sample]]:
        """Yield waves of phantoms of two devices: the one the model knows, and one it has never seen.

        All waves have the same mixture, so that the models' accuracies on the trends page can be compared.
        """
        for number, size in enumerate(self._sizes):
            known = round(size * KNOWN)
            yield chain(
                self._phantoms(2 * number, STANDARD, known),
                self._bad() if number == 0 else (),
                self._phantoms(2 * number + 1, SHIFTED, size - known),
            )

    def _phantoms(self, number: int, scanner: str, count: int) -> Iterator[Sample]:
        from edgerad.phantom import iterate_set

        folder = self._folder / f"{number}-{scanner}"
        for record in iterate_set(folder, count, self._options.seed + number, scanner=scanner, size=SIZE):
            yield Sample(folder / record.file, "positive" if record.label == "PNEUMONIA" else "negative")

    def _bad(self) -> Iterator[Sample]:
        """Yield what should not come, but does: each must end in quarantine with its reason."""
        from edgerad.phantom import bad_inputs

        for bad in bad_inputs(self._folder / "bad"):
            yield Sample(self._folder / "bad" / bad.file, None)

    def stock_core(self, settings: Settings) -> None:
        """Give the core what it would have from before: a rehearsal set, and a frozen set with both devices.

        Nothing where no file has a label: nobody will label them, and nothing will be trained.
        """
        if self._options.images is not None and not any(sample.label for sample in self._own):
            return
        from edgerad.phantom import write_set
        from edgerad.store import ObjectStore, config_from
        from train.evaluation_set import freeze

        store = ObjectStore(config_from(settings.core.store))
        plan: list[tuple[str, dict[str, int]]] = [
            (settings.train.rehearsal_prefix, {STANDARD: REHEARSAL}),
            (settings.train.evaluation_prefix, {STANDARD: EVALUATION // 2, SHIFTED: EVALUATION // 2}),
        ]
        for number, (prefix, devices) in enumerate(plan):
            folder = self._folder / f"core-{number}"
            for device, count in devices.items():
                options: dict[str, Any] = {"scanner": device, "size": SIZE // 2, "dicom_share": 0.0}
                write_set(folder / device, count, 1000 + self._options.seed + number, **options)
            freeze(store, prefix, folder)
